"""What lies in Kafka, read back to the very end under read_committed by a client of its own.

"The end" is the high watermark at the time of the call: everything below it must be decided before a proof may
speak. While a transaction is open (its producer may be dead), records beyond the last stable offset are hidden, and
a reader that stopped there would report as lost what is merely not settled. So `read` first waits, with a bound,
until the last stable offset has reached that end, and only then reads. Transaction markers and aborted records take
offsets without ever being delivered; a partition is finished when the client reports its end, never by counting.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

T = TypeVar("T")

_BATCH = 2_000
_PASSING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
}


class Unreadable(AssertionError):
    """The topics could not be read to their end in time, so nothing can be proven about them."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies in Kafka. Headers in order, repeats kept, a header may have no value."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def header(self, name: str) -> bytes | None:
        """The value of the last header of this name; None where there is none."""
        for candidate, value in reversed(self.headers):
            if candidate == name:
                return value
        return None

    @property
    def position(self) -> tuple[str, int, int]:
        return (self.topic, self.partition, self.offset)

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True, slots=True)
class Ledger:
    """The visible records of some topics, by partition and offset, and how far their groups have committed.

    `committed` maps (group, topic, partition) to the next offset of the group; it was read before the records, so
    that whatever it covers has all its outputs in `records`.
    """

    records: Mapping[str, tuple[Record, ...]]
    committed: Mapping[tuple[str, str, int], int] = field(default_factory=dict)

    def __getitem__(self, topic: str) -> tuple[Record, ...]:
        try:
            return self.records[topic]
        except KeyError:
            raise Unreadable(f"{topic} was not read: name it in the call of `read`") from None

    def __contains__(self, topic: object) -> bool:
        return topic in self.records


def read(bootstrap: str, topics: Iterable[str], *, groups: Iterable[str] = (), timeout_s: float = 45.0) -> Ledger:
    """All committed records of these topics, and the offsets that these groups committed on them.

    Raises Unreadable, naming the partitions, when a transaction stays open or an end is not reached in `timeout_s`.
    """
    until = time.monotonic() + timeout_s
    committed = {
        (group, topic, partition): offset
        for group in groups
        for (topic, partition), offset in committed_offsets(bootstrap, group).items()
    }
    ends = _ends(bootstrap, topics, until)
    _wait_until_stable(bootstrap, ends, until)
    return Ledger(_consume(bootstrap, ends, "read_committed", until), committed)


def read_uncommitted(
    bootstrap: str, topics: Iterable[str], *, timeout_s: float = 45.0
) -> Mapping[str, tuple[Record, ...]]:
    """Every record, aborted ones included: shows that a fault struck open transactions at all."""
    until = time.monotonic() + timeout_s
    return _consume(bootstrap, _ends(bootstrap, topics, until), "read_uncommitted", until)


def committed_offsets(bootstrap: str, group: str, *, timeout_s: float = 30.0) -> dict[tuple[str, int], int]:
    """(topic, partition) -> next offset of a group; empty for a group that never committed.

    An offset inside an open transaction does not count before that transaction is settled.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = [ConsumerGroupTopicPartitions(group)]
    until = time.monotonic() + timeout_s

    def ask() -> dict[tuple[str, int], int]:
        future = admin.list_consumer_group_offsets(asked, require_stable=True, request_timeout=timeout_s)[group]
        return {(at.topic, at.partition): at.offset for at in future.result(timeout_s).topic_partitions}

    try:
        return {place: offset for place, offset in _patiently(ask, until).items() if offset >= 0}
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return {}
        raise


def _ends(bootstrap: str, topics: Iterable[str], until: float) -> dict[tuple[str, int], int]:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    known = _patiently(lambda: admin.list_topics(timeout=30), until).topics
    wanted = list(dict.fromkeys(topics))
    missing = [topic for topic in wanted if topic not in known]
    if missing:
        raise Unreadable(f"these topics do not exist: {missing}")
    places = [(topic, partition) for topic in wanted for partition in known[topic].partitions]
    return _offsets(admin, places, IsolationLevel.READ_UNCOMMITTED, until)


def _wait_until_stable(bootstrap: str, ends: Mapping[tuple[str, int], int], until: float) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    left = dict(ends)
    while True:
        stable = _offsets(admin, list(left), IsolationLevel.READ_COMMITTED, until)
        left = {place: end for place, end in left.items() if stable[place] < end}
        if not left:
            return
        if time.monotonic() >= until:
            open_ = {f"{t}[{p}]": f"stable to {stable[t, p]} of {end}" for (t, p), end in left.items()}
            raise Unreadable(f"transactions stay open on {open_}")
        time.sleep(0.1)


def _offsets(
    admin: AdminClient, places: list[tuple[str, int]], level: IsolationLevel, until: float
) -> dict[tuple[str, int], int]:
    if not places:
        return {}
    asked = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in places}

    def ask() -> dict[tuple[str, int], int]:
        bound = max(5.0, until - time.monotonic())
        futures = admin.list_offsets(asked, isolation_level=level, request_timeout=bound)
        return {(at.topic, at.partition): future.result(bound).offset for at, future in futures.items()}

    return _patiently(ask, until)


def _patiently(ask: Callable[[], T], until: float) -> T:
    """Asks again while the answer is one that passes: a broker that just started, or a leader that is new."""
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() >= until:
                raise
            time.sleep(0.1)


def _consume(
    bootstrap: str, ends: Mapping[tuple[str, int], int], level: str, until: float
) -> dict[str, tuple[Record, ...]]:
    left = {place: end for place, end in ends.items() if end > 0}
    found: dict[tuple[str, int], list[Record]] = {place: [] for place in ends}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "proof-ledger",  # demanded by the client; never joined, never committed to
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": level,
            "auto.offset.reset": "error",
            "check.crcs": True,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in left])
        while left:
            if time.monotonic() >= until:
                raise Unreadable(f"the ends of {sorted(left)} were not reached in time")
            for message in consumer.consume(_BATCH, timeout=0.2):
                place = (message.topic(), message.partition())
                error = message.error()
                if error is None:
                    if message.offset() < ends[place]:  # what came later belongs to a later reading
                        found[place].append(_record(message))
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                # A record at or beyond the end proves that all before it was delivered, as the client's own
                # end does. Its position() would not do: after an end it is one too high (librdkafka#4844).
                at = message.offset() if error is not None else message.offset() + 1
                if place in left and at >= left[place]:
                    del left[place]
    finally:
        consumer.close()
    by_topic: dict[str, list[Record]] = {topic: [] for topic, _ in ends}
    for (topic, _), records in sorted(found.items()):
        by_topic[topic] += records
    return {topic: tuple(records) for topic, records in by_topic.items()}


def _record(message) -> Record:
    return Record(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple((name, value) for name, value in message.headers() or ()),
    )
