"""The broker under the measurement, and the topics and groups of one run, all removed at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import local
from pipeline.broker.find import broker_folder, find_broker
from pipeline.config import load_settings
from pipeline.stream import topic_admin
from pipeline.topics import load_topics
from tests.bench.process import pid_listening_on


@dataclass(frozen=True, slots=True)
class Broker:
    bootstrap: str
    pid: int | None
    """None when the broker is not a process of this machine that we may look at: then its CPU is not measured."""


@contextmanager
def broker_for(bootstrap: str | None) -> Iterator[Broker]:
    """The given broker, or the one that Lockgate finds or starts. What was started here is stopped again."""
    if bootstrap:
        yield _seen(bootstrap)
        return
    settings = load_settings()
    folder = broker_folder(settings)
    ran_before = local.running(folder) is not None
    found = find_broker(settings)
    try:
        yield _seen(found.bootstrap)
    finally:
        found.close()
        if found.kind == "local" and not ran_before:
            local.down(folder)


def _seen(bootstrap: str) -> Broker:
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    pid = pid_listening_on(int(port)) if host in {"127.0.0.1", "localhost", "[::1]"} else None
    # A port that Docker forwards belongs to its proxy.
    if pid is not None and "java" not in Path(f"/proc/{pid}/exe").readlink().name:
        pid = None
    return Broker(bootstrap, pid)


class Topics:
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})  # it raises what it has to say

    def make(self, name: str, partitions: int) -> str:
        """Returns the name. Segments are so large that none is rolled inside a window."""
        topic = NewTopic(name, partitions, config={"retention.ms": "3600000", "segment.bytes": "1073741824"})
        self._admin.create_topics([topic])[name].result(30)
        return name

    def declare(self, environment: str) -> None:
        """All topics of topics.yaml, for an environment of their own."""
        config = {"bootstrap.servers": self._bootstrap}
        topic_admin.apply(config, topic_admin.plan(config, load_topics(), environment, local=True))

    def drop(self, prefix: str) -> None:
        """Every topic and group whose name starts so: also what the systems made for themselves."""
        names = [name for name in self._admin.list_topics(timeout=30).topics if name.startswith(prefix)]
        for name, future in self._admin.delete_topics(names).items() if names else ():
            error = future.exception(30)
            if error is not None and error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                print(f"topic {name} could not be removed: {error}")
        groups = self._admin.list_consumer_groups().result(30).valid
        ours = [group.group_id for group in groups if group.group_id.startswith(prefix)]
        for group, future in self._admin.delete_consumer_groups(ours).items() if ours else ():
            error = future.exception(30)
            if error is not None and error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                print(f"group {group} could not be removed: {error}")


@contextmanager
def topics_of(bootstrap: str, prefix: str) -> Iterator[Topics]:
    topics = Topics(bootstrap)
    try:
        yield topics
    finally:
        topics.drop(prefix)
