"""Reads topics for people: from where it is asked up to the end that there is now, committed records only.

The reader joins no group and commits nothing. The end is the last one that read_committed can see: what a
transaction that is still open has written is not there yet, and is not waited for.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

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
                    elif error.fatal() or not (unanswered(error) or error.retriable()):
                        raise KafkaException(error)
                    else:
                        log.info("%s: %s", self.topic, error.str())
        finally:
            consumer.unassign()

    def _no_answer(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(f"{self._bootstrap} does not answer for {self.topic} ({why}): see that Kafka runs")


def _below(offset: int, messages: Iterator[Message]) -> Iterator[Message]:
    return takewhile(lambda message: message.offset() < offset, messages)


@contextmanager
def open_reader(settings: Settings, topic: str) -> Iterator[TopicReader]:
    """A reader of a physical topic. `settings` hold the bootstrap servers."""
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
        yield TopicReader(consumer, topic, str(settings.bootstrap_servers))
    finally:
        consumer.close()
