"""Reads topics for people: from where it is asked up to the end that there is now, committed records only.

The reader joins no group and commits nothing. The end is the last one that read_committed can see: what a
transaction that is still open has written is not there yet, and is not waited for.
"""

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.config import Settings, client_config
from pipeline.errors import BrokerUnavailable, ConfigError
from pipeline.stream.committed import watermarks
from pipeline.stream.transaction import Stopping

log = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long the broker may be silent before the reader gives up."""
_SILENT = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_END = KafkaError._PARTITION_EOF
_BATCH = 1000
_POLL_S = 0.1
_SHORT_POLL_S = 0.02  # a batch is waited for as long as this, also when it holds all that there is


@dataclass(frozen=True, slots=True)
class Bounds:
    """Offsets of one partition: the first that is kept, and the one that the next record will get."""

    low: int
    high: int


def unanswered(error: KafkaError) -> bool:
    """Whether an error means that the broker did not answer, rather than that it said no."""
    return error.code() in _SILENT


class TopicReader:
    """Reads one topic. For one thread; `open_reader` makes and closes it."""

    def __init__(self, consumer: Consumer, topic: str, bootstrap: str) -> None:
        self._consumer = consumer
        self.topic = topic
        self._bootstrap = bootstrap
        self.reached: dict[int, int] = {}
        """Where each partition ended that `read` or `newest` read to its end: `follow` from there misses nothing."""

    def bounds(self) -> dict[int, Bounds]:
        """The bounds of every partition now. ConfigError when there is no such topic."""
        deadline = time.monotonic() + ANSWER_S

        def late() -> bool:
            return time.monotonic() > deadline

        try:
            found = self._consumer.list_topics(self.topic, ANSWER_S).topics[self.topic]
            if found.error is not None:
                raise ConfigError(
                    f"no topic {self.topic} ({found.error.str()}): make the topics with `lockgate topics apply`, "
                    "or name the right --environment"
                )
            return {
                number: Bounds(*watermarks(self._consumer, (self.topic, number), late))
                for number in sorted(found.partitions)
            }
        except KafkaException as error:
            raise self._no_answer(error.args[0].str()) from error
        except Stopping:
            raise self._no_answer(f"no offsets within {ANSWER_S:.0f} s") from None

    def read(self, starts: Mapping[int, int]) -> Iterator[Message]:
        """Every record from each partition's start to its end; those of one partition in order."""
        left = set(starts)
        heard = time.monotonic()
        for message in self._messages(starts) if left else ():
            if message is None:
                if time.monotonic() - heard > ANSWER_S:
                    raise self._no_answer(f"silent for {ANSWER_S:.0f} s")
                continue
            heard = time.monotonic()
            if message.error() is None:
                if message.partition() in left:
                    yield message
                continue
            left.discard(message.partition())
            self.reached[message.partition()] = message.offset()
            if not left:
                return

    def follow(self, starts: Mapping[int, int]) -> Iterator[Message]:
        """Every record from the starts on, and then those to come, until the caller stops. Waits through outages."""
        for message in self._messages(starts):
            if message is not None and message.error() is None:
                yield message

    def newest(self, count: int) -> list[Message]:
        """The newest records of the whole topic by their timestamps, at most so many, oldest first."""
        found: list[Message] = []
        for number, bounds in self.bounds().items():
            found += self._newest_of(number, bounds, count)
        found.sort(key=lambda message: (message.timestamp()[1], message.partition(), message.offset()))
        return found[-count:] if count else []

    def at(self, partition: int, offset: int) -> Message | None:
        """The record at a position, else the next one in its partition, else None."""
        return next(self.read({partition: offset}), None)

    def _newest_of(self, number: int, bounds: Bounds, count: int) -> list[Message]:
        """Goes back in growing strides: how many offsets hold no record (markers, aborted ones) is not known."""
        stride = count + count // 8 + 16
        start = max(bounds.low, bounds.high - stride)
        found = list(self.read({number: start}))
        while len(found) < count and start > bounds.low:
            until, stride = start, stride * 4
            start = max(bounds.low, until - stride)
            found = [*_below(until, self.read({number: start})), *found]
        return found[-count:] if count else []

    def _messages(self, starts: Mapping[int, int]) -> Iterator[Message | None]:
        """Records and ends as they come, None for a while without any."""
        consumer = self._consumer
        consumer.assign([TopicPartition(self.topic, number, offset) for number, offset in starts.items()])
        try:
            while True:
                messages = consumer.consume(_BATCH, _POLL_S)
                if not messages:
                    yield None
                for message in messages:
                    error = message.error()
                    if error is None or error.code() == _END:
                        yield message
                    else:
                        _refuse(error, self.topic)
        finally:
            consumer.unassign()

    def _no_answer(self, why: str) -> BrokerUnavailable:
        return _silent(self._bootstrap, self.topic, why)


def _below(offset: int, messages: Iterator[Message]) -> Iterator[Message]:
    return takewhile(lambda message: message.offset() < offset, messages)


@contextmanager
def open_reader(settings: Settings, topic: str) -> Iterator[TopicReader]:
    """A reader of a physical topic. `settings` hold the bootstrap servers."""
    with _consumer(settings) as consumer:
        yield TopicReader(consumer, topic, str(settings.bootstrap_servers))


def sweep(settings: Settings, topics: Collection[str], partition: int | None = None) -> Iterator[Message]:
    """Every record of these physical topics, or of one partition of each, up to the ends that they have now.

    Those of one partition come in order, the topics all at once. What does not exist is passed over; ConfigError
    when nothing of it exists, BrokerUnavailable when the broker does not answer.
    """
    bootstrap = str(settings.bootstrap_servers)
    with _consumer(settings) as consumer:
        try:
            found = consumer.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise _silent(bootstrap, "its topics", error.args[0].str()) from error
        there = {
            (topic, number)
            for topic in topics
            if topic in found
            for number in found[topic].partitions
            if partition in (None, number)
        }
        if not there:
            raise ConfigError(
                f"none of {', '.join(sorted(topics))} is there: make the topics with `lockgate topics apply`, or name "
                "the right --environment"
            )
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in there])
        heard = time.monotonic()
        while there:
            for message in consumer.consume(_BATCH, _SHORT_POLL_S):
                fault = message.error()
                if fault is not None and fault.code() != _END:
                    _refuse(fault, message.topic() or "a topic")
                    continue
                heard = time.monotonic()
                if fault is None:
                    yield message
                else:
                    there.discard((message.topic(), message.partition()))
            if time.monotonic() - heard > ANSWER_S:
                raise _silent(bootstrap, "its topics", f"silent for {ANSWER_S:.0f} s")


@contextmanager
def _consumer(settings: Settings) -> Iterator[Consumer]:
    config = client_config(
        settings,
        **{
            "group.id": f"{settings.environment}.reader",  # the client wants a name; nothing is joined or committed
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            # A record that expires while it is read is skipped: the oldest that is left is read on.
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 16_384,
        },
    )
    consumer = Consumer(config, logger=log)
    try:
        yield consumer
    finally:
        consumer.close()


def _refuse(error: KafkaError, topic: str) -> None:
    """Raises what only people can mend; the rest passes by itself."""
    if error.fatal() or not (unanswered(error) or error.retriable()):
        raise KafkaException(error)
    log.info("%s: %s", topic, error.str())


def _silent(bootstrap: str, topic: str, why: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"{bootstrap} does not answer for {topic} ({why}): see that Kafka runs")
