"""What must be known before a partition is fed: how far it is, what the stage remembers, which keys are parked.

The order matters. First the committed progress, which the broker gives only when no other owner's transaction is
pending. Then the state and the retry topic, read to the end that they have now: since the pending transaction is
decided, whatever the former owner wrote is below that end, and read_committed waits for its markers.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.errors import StageStopped
from pipeline.stream.committed import Partition, fetch_committed, outsider, watermarks
from pipeline.stream.limits import StageLimits
from pipeline.stream.progress import Progress
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.route import Route
from pipeline.stream.state import State
from pipeline.stream.tenure import Tenure
from pipeline.stream.transaction import Stopping

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restorer:
    """Makes tenures. Blocks on the broker, so it runs on a thread of its own."""

    config: Mapping[str, Any]
    route: Route
    limits: StageLimits
    stopping: Callable[[], bool]
    on_expired: Callable[[int], None]
    """Told how many offsets retention deleted before they were read."""

    def restore(self, partitions: Iterable[int], epoch: int) -> list[Tenure]:
        """A tenure for each partition of the input topic.

        Raises StageStopped when a commit lies beyond the end of its topic or carries foreign metadata, Stopping
        when the process is to end before the broker answered.
        """
        numbers = sorted(partitions)
        route = self.route
        with (
            outsider(self.config, route.group) as consumer,
            outsider(self.config, route.group, "read_uncommitted") as looker,
        ):
            wanted = [(topic, number) for topic in route.read for number in numbers]
            committed = fetch_committed(consumer, wanted, self.stopping)
            progress = {at: self._start(looker, at, committed[at]) for at in wanted}
            states = {number: State(self.limits.identities) for number in numbers}
            if route.state is not None:
                self._read_states(consumer, looker, route.state, states)
            parked = {number: ParkedKeys() for number in numbers}
            self._count_parked(consumer, looker, {n: progress[route.retry, n] for n in numbers}, parked)
        return [
            Tenure(
                route,
                number,
                epoch,
                progress={topic: progress[topic, number] for topic in route.read},
                parked=parked[number],
                state=states[number],
            )
            for number in numbers
        ]

    def _start(self, looker: Consumer, at: Partition, committed: Progress | None) -> Progress:
        low, high = watermarks(looker, at, self.stopping)
        if committed is None:
            return Progress(low)
        if committed.base > high:
            raise StageStopped(
                f"{at[0]}[{at[1]}] ends at {high}, but group {self.route.group} committed {committed.base}: the topic "
                "was deleted and made again, or lost data. Nothing was read. Reset the group with `lockgate`, "
                "or restore the topic."
            )
        if committed.base < low:
            # Retention won: those records are gone, and only saying so is left.
            log.error("%s[%d]: offsets %d to %d expired before they were read", *at, committed.base, low - 1)
            self.on_expired(low - committed.base)
            committed = committed.copy()
            committed.mark(committed.base, low)
        return committed

    def _read_states(self, consumer: Consumer, looker: Consumer, topic: str, states: dict[int, State]) -> None:
        starts = dict.fromkeys(states, 0)
        for message in self._read(consumer, looker, topic, starts):
            states[message.partition()].restore(message.key(), message.value())

    def _count_parked(
        self, consumer: Consumer, looker: Consumer, progress: dict[int, Progress], parked: dict[int, ParkedKeys]
    ) -> None:
        starts = {number: done.base for number, done in progress.items()}
        for message in self._read(consumer, looker, self.route.retry, starts):
            number = message.partition()
            if not progress[number].is_done(message.offset()):
                parked[number].add(message.key())

    def _read(self, consumer: Consumer, looker: Consumer, topic: str, starts: dict[int, int]) -> Iterable[Message]:
        """Every committed record from the starts to the ends that the partitions have now, in order."""
        left: dict[int, int] = {}
        for number, start in starts.items():
            low, high = watermarks(looker, (topic, number), self.stopping)
            if max(low, start) < high:
                left[number] = high
                starts[number] = max(low, start)
        consumer.assign([TopicPartition(topic, number, starts[number]) for number in left])
        try:
            while left:
                if self.stopping():
                    raise Stopping
                for message in consumer.consume(1000, 0.05):
                    number = message.partition()
                    if message.error() is not None:
                        # The end is the one that read_committed can see: below the one wanted while a transaction
                        # is undecided.
                        if _is_end(message, topic) and message.offset() >= left.get(number, 0):
                            left.pop(number, None)
                    elif message.offset() < left.get(number, 0):
                        yield message
        finally:
            consumer.unassign()


def _is_end(message: Message, topic: str) -> bool:
    """Whether an event of the client is the end of a partition. Raises on what cannot be read on from."""
    error: KafkaError = message.error()
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise StageStopped(f"{topic}[{message.partition()}] was cut while it was read: {error.str()}")
    if error.fatal():
        raise KafkaException(error)
    log.info("restoring %s: %s", topic, error.str())
    return False
