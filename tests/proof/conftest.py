"""A broker of the harness's own, whose clients are led through a proxy."""

import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import local
from pipeline.broker.guardian import Guardian
from pipeline.broker.processes import Process, free_ports
from tests.proof.tcp_proxy import Proxy
from tests.proof.workers import Crew


@pytest.fixture(scope="package")
def proxy_and_kafka():
    folder = Path(tempfile.mkdtemp(prefix="lockgate-proof-"))
    port = free_ports(1)[0]
    with Guardian() as guardian, Proxy(f"127.0.0.1:{port}") as proxy:
        kafka = local.up(folder, port, advertised_port=proxy.port)
        guardian.watch(Process(kafka.pid, kafka.mark))
        try:
            yield proxy, kafka
        finally:
            local.down(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def proxy(proxy_and_kafka):
    """The proxy between `proxied` clients and the broker; everything passes again after the test."""
    proxy, _ = proxy_and_kafka
    yield proxy
    proxy.let_pass()


@pytest.fixture
def proxied(proxy):
    """Bootstrap servers through the proxy."""
    return proxy.address


@pytest.fixture
def direct(proxy_and_kafka):
    """Bootstrap servers past the proxy."""
    return proxy_and_kafka[1].direct


@pytest.fixture
def environment():
    """A prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topics(direct, environment):
    """topics("a", "b", partitions=4) creates `<environment>.a` and `<environment>.b`, and returns these names.

    Further arguments are settings of the topics.
    """

    def create(*names: str, partitions: int = 4, **config: str) -> list[str]:
        physical = [f"{environment}.{name}" for name in names]
        admin = AdminClient({"bootstrap.servers": direct})
        asked = [NewTopic(name, partitions, 1, config=config) for name in physical]
        for created in admin.create_topics(asked, operation_timeout=30).values():
            created.result(30)
        return physical

    return create


@pytest.fixture
def crew(tmp_path):
    """Worker processes, ended with the test."""
    with Crew(tmp_path) as crew:
        yield crew
