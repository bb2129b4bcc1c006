"""How far each stage is behind: records not done, and the age of the oldest of them. Measured from outside.

The distance from the committed offset to the end is not that number: work done beyond a hole lies in the commit's
metadata, and markers of transactions take offsets and are no records. So what lies beyond the commit is read, as
read_committed sees it, and what the metadata says is done is left out. The age of a record that waits in the retry
topic counts from when it lay in the stage's input.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.config import Settings, client_config
from pipeline.errors import BrokerUnavailable, ConfigError
from pipeline.stream import output
from pipeline.stream.committed import Partition, fetch_committed, outsider, watermarks
from pipeline.stream.progress import Progress
from pipeline.stream.reading import unanswered
from pipeline.stream.transaction import Stopping
from pipeline.topics import SIDE_INPUT, STAGE_INPUT

log = logging.getLogger(__name__)

EXACT_UP_TO = 10_000
_LONG_RUN = 2_000
"""A run of done records that is longer than this is jumped over, not read."""
_END = KafkaError._PARTITION_EOF
_EXPIRED = KafkaError._AUTO_OFFSET_RESET


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """What one partition of a stage's inputs, and of its retry topic, still holds for the stage."""

    partition: int
    waiting: int
    """Records of the input, and of what is read beside it, that are not done."""
    retrying: int
    """Records that wait in the retry topic."""
    oldest_age_s: float
    """Seconds since the timestamp of the oldest of both; 0 when there is none."""
    exact: bool
    """False: the counts are upper bounds, because there was too much to count."""
    owner: str | None
    """Where the process runs that has the partition now."""
    note: str | None = None
    """What is wrong with the partition, if anything is."""

    @property
    def not_done(self) -> int:
        """All records that are not done."""
        return self.waiting + self.retrying


@dataclass(frozen=True, slots=True)
class StageLag:
    """The lag of one stage."""

    stage: str
    workers: int
    """Members of its consumer group: 0 means that nobody works."""
    partitions: tuple[PartitionLag, ...]

    @property
    def not_done(self) -> int:
        """Records that are not done, in all partitions."""
        return sum(partition.not_done for partition in self.partitions)

    @property
    def retrying(self) -> int:
        """Those of them that wait in the retry topic."""
        return sum(partition.retrying for partition in self.partitions)

    @property
    def oldest_age_s(self) -> float:
        """The age of the oldest; 0 for an idle stage."""
        return max((partition.oldest_age_s for partition in self.partitions), default=0.0)

    @property
    def exact(self) -> bool:
        """Whether every count is one, and no upper bound."""
        return all(partition.exact for partition in self.partitions)


@dataclass(slots=True)
class _Tally:
    """The count of one partition of one topic, while it is read. It is finished when `next` reaches `end`."""

    progress: Progress
    next: int
    end: int
    retry: bool
    records: int = 0
    read: int = 0
    oldest_ms: int | None = None
    exact: bool = True
    note: str | None = None

    def take(self, message: Message, exact_up_to: int) -> None:
        """Counts a record, and all the rest at once when it was enough."""
        offset = message.offset()
        if offset < self.next:
            return  # fetched before a jump
        if offset >= self.end:
            self.next = self.end
            return
        self.next = offset + 1
        self.read += 1
        if not self.progress.is_done(offset):
            self.records += 1
            born = _born_ms(message, retry=self.retry)
            self.oldest_ms = born if self.oldest_ms is None else min(self.oldest_ms, born)
        if self.records >= exact_up_to or self.read >= 5 * exact_up_to:
            self.give_up()

    def give_up(self) -> None:
        """Counts every offset that is left and not done, whatever lies there."""
        done = sum(max(0, min(end, self.end) - max(start, self.next)) for start, end in self.progress.runs)
        rest = self.end - self.next - done
        if rest > 0:
            self.records += rest
            self.exact = False
        self.next = self.end

    def jump(self) -> bool:
        """Passes over a long run of done records that begins here. True when it did."""
        for start, end in self.progress.runs:
            if start <= self.next < end and end - self.next > _LONG_RUN:
                self.next = min(end, self.end)
                return True
        return False


def measure(
    settings: Settings,
    stages: Sequence[str],
    *,
    exact_up_to: int = EXACT_UP_TO,
    timeout_s: float = 30.0,
    now: Callable[[], float] = time.time,
) -> list[StageLag]:
    """The lag of these stages now. Partitions with more than `exact_up_to` records get an upper bound.

    Every number is finite and not negative. ConfigError when topics are missing, BrokerUnavailable when the broker
    does not answer in time, StageStopped when a group's commits are not Lockgate's.
    """
    config = client_config(settings)
    admin = AdminClient({**config, "log_level": 0})
    try:
        known = {name: sorted(topic.partitions) for name, topic in admin.list_topics(timeout=timeout_s).topics.items()}
        return [
            _measure_stage(_Stage(config, admin, settings.environment, name, known), exact_up_to, timeout_s, now)
            for name in stages
        ]
    except Stopping:
        raise BrokerUnavailable(
            f"{settings.bootstrap_servers} did not say within {timeout_s:.0f} s how far it is"
        ) from None
    except KafkaException as error:
        if unanswered(error.args[0]):
            raise BrokerUnavailable(f"{settings.bootstrap_servers} does not answer: {error.args[0].str()}") from error
        raise


@dataclass(frozen=True, slots=True)
class _Stage:
    """What is asked about one stage."""

    config: Mapping[str, Any]
    admin: AdminClient
    environment: str
    name: str
    known: Mapping[str, list[int]]

    @property
    def group(self) -> str:
        return f"{self.environment}.{self.name}"

    @property
    def input(self) -> str:
        return f"{self.environment}.{STAGE_INPUT[self.name]}"

    @property
    def retry(self) -> str:
        return f"{self.environment}.retry-{self.name}"

    @property
    def side(self) -> str | None:
        beside = SIDE_INPUT.get(self.name)
        return None if beside is None else f"{self.environment}.{beside}"

    def partitions(self) -> list[Partition]:
        """Of all its topics. ConfigError when one is missing."""
        topics = [self.input, self.retry, *([self.side] if self.side else [])]
        if missing := [topic for topic in topics if topic not in self.known]:
            raise ConfigError(
                f"no topic {', '.join(missing)}: make the topics with `lockgate topics apply`, "
                "or name the right --environment"
            )
        return [(topic, number) for topic in topics for number in self.known[topic]]


def _measure_stage(stage: _Stage, exact_up_to: int, timeout_s: float, now: Callable[[], float]) -> StageLag:
    deadline = time.monotonic() + timeout_s

    def late() -> bool:
        return time.monotonic() > deadline

    partitions = stage.partitions()
    workers, owners = _members(stage, timeout_s)
    client = {"queued.max.messages.kbytes": 8_192, "fetch.wait.max.ms": 50, **stage.config}
    with outsider(client, stage.group) as consumer:
        # The ends first: what is done meanwhile is then missing from the count, never too much in it.
        marks = {at: watermarks(consumer, at, late) for at in partitions}
        committed = fetch_committed(consumer, partitions, late)
        tallies = {
            at: _tally(consumer, at, committed[at], marks[at], late, retry=at[0] == stage.retry) for at in partitions
        }
        _count(consumer, tallies, exact_up_to, late)
    at_ms = now() * 1000
    return StageLag(
        stage.name,
        workers,
        tuple(
            _partition_lag(
                number,
                tallies[stage.input, number],
                tallies.get((stage.retry, number)),
                owners.get(number),
                at_ms,
                tallies.get((stage.side, number)) if stage.side else None,
            )
            for number in stage.known[stage.input]
        ),
    )


def _tally(
    consumer: Consumer,
    at: Partition,
    progress: Progress | None,
    marks: tuple[int, int],
    late: Callable[[], bool],
    *,
    retry: bool,
) -> _Tally:
    low, high = marks
    if progress is None:
        return _Tally(Progress(low), low, high, retry)
    if progress.base > high:
        low, high = watermarks(consumer, at, late)
    if progress.base > high:
        note = f"committed offset {progress.base} lies beyond the end {high}: the topic was made again or lost data"
        return _Tally(Progress(low), low, high, retry, note=note)
    return _Tally(progress, max(low, progress.base), max(high, progress.base), retry)


def _count(consumer: Consumer, tallies: Mapping[Partition, _Tally], exact_up_to: int, late: Callable[[], bool]) -> None:
    left = {at: tally for at, tally in tallies.items() if tally.next < tally.end}
    if not left:
        return
    consumer.assign([TopicPartition(*at, tally.next) for at, tally in left.items()])

    try:
        while left:
            if late():
                raise Stopping
            for message in consumer.consume(1000, 0.05):
                at = (message.topic(), message.partition())
                if at not in left:
                    continue
                tally = left[at]
                error = message.error()
                if error is None:
                    tally.take(message, exact_up_to)
                elif _ends(error, tally):
                    tally.next = tally.end
                jumped = tally.jump()
                if tally.next >= tally.end:
                    del left[at]
                    consumer.pause([TopicPartition(*at)])
                elif jumped:
                    consumer.seek(TopicPartition(*at, tally.next))
    finally:
        consumer.unassign()


def _ends(error: KafkaError, tally: _Tally) -> bool:
    """Whether the partition is read to its end: the one that was asked for, or the beginning of an open transaction."""
    if error.code() == _END:
        return True
    if error.code() == _EXPIRED:
        tally.give_up()
        return True
    if error.fatal() or not (unanswered(error) or error.retriable()):
        raise KafkaException(error)
    log.info("counting: %s", error.str())
    return False


def _partition_lag(
    number: int,
    waiting: _Tally,
    retrying: _Tally | None,
    owner: str | None,
    now_ms: float,
    beside: _Tally | None = None,
) -> PartitionLag:
    tallies = [tally for tally in (waiting, beside, retrying) if tally is not None]
    oldest = min((tally.oldest_ms for tally in tallies if tally.oldest_ms is not None), default=None)
    return PartitionLag(
        partition=number,
        waiting=waiting.records + (beside.records if beside is not None else 0),
        retrying=retrying.records if retrying is not None else 0,
        # The clocks of this machine and of the broker may differ: no age is negative.
        oldest_age_s=0.0 if oldest is None else max(0.0, (now_ms - oldest) / 1000),
        exact=all(tally.exact for tally in tallies),
        owner=owner,
        note=next((tally.note for tally in tallies if tally.note), None),
    )


def _members(stage: _Stage, timeout_s: float) -> tuple[int, dict[int, str]]:
    """How many members the group has, and on which host the owner of each input partition runs."""
    answer = stage.admin.describe_consumer_groups([stage.group], request_timeout=timeout_s)[stage.group]
    try:
        members = answer.result(timeout_s).members
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return 0, {}
        raise
    return len(members), {
        at.partition: str(member.host).lstrip("/")
        for member in members
        for at in (member.assignment.topic_partitions if member.assignment else ())
        if at.topic == stage.input
    }


def _born_ms(message: Message, *, retry: bool) -> int:
    """When the record came to the stage: for one of the retry topic, when it lay in the input."""
    for name, content in reversed(message.headers() or ()) if retry else ():
        if name == output.SOURCE_TIMESTAMP and content is not None and content.isdigit():
            return int(content)
    born: int = message.timestamp()[1]
    return born
