"""The broker for every test in this folder: found, or started once and ended with the suite."""

import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import local
from pipeline.broker.find import broker_folder, find_broker
from pipeline.broker.guardian import Guardian
from pipeline.broker.processes import Process
from pipeline.config import load_settings

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def guardian():
    """Ends the processes it is told to watch, even when the suite is killed."""
    with Guardian() as guardian:
        yield guardian


@pytest.fixture(scope="session")
def kafka(guardian):
    """Bootstrap servers of a real Apache Kafka, shared by the whole suite: use names of your own in it."""
    data_dir = Path(tempfile.mkdtemp(prefix="lockgate-suite-"))
    settings = load_settings().model_copy(update={"data_dir": data_dir})
    broker = find_broker(settings)
    if broker.kind == "local":
        running = local.running(broker_folder(settings))
        guardian.watch(Process(running.pid, running.mark))
    yield broker.bootstrap
    broker.close()
    local.down(broker_folder(settings))
    shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture
def environment():
    """An environment name that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def create_topics(kafka):
    """create_topics("a", "b", partitions=8, **{"cleanup.policy": "compact"}): returns once they exist."""

    def create(*names, partitions=8, replicas=1, **config):
        admin = AdminClient({"bootstrap.servers": kafka})
        topics = [NewTopic(n, partitions, replicas, config={k: str(v) for k, v in config.items()}) for n in names]
        for created in admin.create_topics(topics, operation_timeout=30).values():
            created.result()
        return list(names)

    return create
