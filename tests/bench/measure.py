"""The independent reader: what became visible under read_committed, when, and whether it was right."""

import gc
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from confluent_kafka import Consumer, Message, TopicPartition

from tests.bench.checks import KeyChecks
from tests.bench.load import HEADER_NAMES, Mark, mark_of
from tests.bench.process import cpu_seconds, machine_cpu_seconds
from tests.bench.scenarios import Scenario, Shape

WARM_UP_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Throughput:
    events: int
    """Read inside the window."""
    seconds: float
    cpu_s: float
    broker_cpu_s: float | None
    others_cpu_s: float
    """CPU time of the machine that neither the system, nor the broker, nor this process used."""

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def broker_cpu_share(self) -> float | None:
        return None if self.broker_cpu_s is None else self.broker_cpu_s / self._cores_s

    @property
    def others_cpu_share(self) -> float:
        """How much of the machine was busy with something else: above a tenth or so, measure again."""
        return max(0.0, self.others_cpu_s / self._cores_s)

    @property
    def _cores_s(self) -> float:
        return self.seconds * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Watched:
    """The processes that are watched: the system's, the broker's, and a call that raises when the system has died."""

    pid: int
    broker_pid: int | None
    check: Callable[[], None]

    def clocks(self) -> tuple[float, float, float, float]:
        """Wall, system CPU, broker CPU (0 when it cannot be told), all CPU but these and our own; in seconds."""
        system = cpu_seconds(self.pid)
        broker = 0.0 if self.broker_pid is None else cpu_seconds(self.broker_pid)
        others = machine_cpu_seconds() - system - broker - time.process_time()
        return time.perf_counter(), system, broker, others


class Watcher:
    """Reads the output topics from their beginning, all partitions, read_committed. A context manager."""

    def __init__(self, bootstrap: str, topics: Sequence[str], scenario: Scenario, *, eager: bool) -> None:
        self._shape = scenario.shape
        self._partitions = scenario.partitions
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{topics[0]}.watcher",  # assign() only: never joins, never commits
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "queued.min.messages": 1_000_000,
                # Under throughput the watcher must not cost the broker a fetch per record; under latency it must.
                "fetch.min.bytes": 1 if eager else 65_536,
                "fetch.wait.max.ms": 100,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for topic in topics for p in range(scenario.partitions)])
        self._unchecked: list[Message] = []
        self.checks = KeyChecks()
        self.places: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def throughput(self, scenario: Scenario, watched: Watched, patience_s: float) -> Throughput:
        """Watches until all records are out or the window is over. TimeoutError when nothing comes."""
        gc.disable()  # the records read so far are kept for the checks: collecting would walk all of them
        try:
            return self._window(scenario, watched, patience_s)
        finally:
            gc.enable()

    def _window(self, scenario: Scenario, watched: Watched, patience_s: float) -> Throughput:
        seen, first_at, opened, seen_at_open = 0, 0.0, None, 0
        patience_ends = time.perf_counter() + patience_s
        while True:
            batch = self._read(0.05)
            now = time.perf_counter()
            watched.check()
            if not batch:
                if now > patience_ends:
                    raise TimeoutError(f"{seen} of {scenario.records} records came out, then none for {patience_s:g} s")
                continue
            seen += len(batch)
            patience_ends = now + patience_s
            first_at = first_at or now
            if opened is None:
                if seen >= scenario.records * scenario.warm_up or now - first_at >= 2.0:
                    opened, seen_at_open = watched.clocks(), seen
            elif seen >= scenario.records or now - opened[0] >= scenario.window_s:
                break
        wall, cpu, broker, others = (after - before for before, after in zip(opened, watched.clocks(), strict=True))
        return Throughput(seen - seen_at_open, wall, cpu, None if watched.broker_pid is None else broker, others)

    def drain(self, quiet_s: float = 1.0) -> None:
        """Reads on until nothing has come for `quiet_s`, and checks everything read so far."""
        last = time.perf_counter()
        while time.perf_counter() - last < quiet_s:
            if self._read(0.1):
                last = time.perf_counter()
        for message in self._unchecked:
            if mark := mark_of(message, self._shape):
                self._check(message, mark)
        self._unchecked.clear()

    def await_warm_up(self, check: Callable[[], None], patience_s: float = 60.0) -> None:
        """Returns when as many warm-up records have come out as there are partitions."""
        deadline, seen = time.perf_counter() + patience_s, 0
        while seen < self._partitions:
            message = self._consumer.poll(0.2)
            check()
            if message is not None and message.error() is None and mark_of(message, self._shape) is None:
                seen += 1
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{seen} of {self._partitions} warm-up records came out in {patience_s:g} s")

    def latencies(self, records: int, check: Callable[[], None], patience_s: float) -> list[float]:
        """Milliseconds from `produce()` to this reader, sorted, without the first second. Checks all on the way."""
        found: list[tuple[int, float]] = []
        last = time.perf_counter()
        while len(found) < records and time.perf_counter() - last < patience_s:
            message = self._consumer.poll(0.2)
            if message is None or message.error() is not None:
                check()
                continue
            now = time.time_ns()
            if mark := mark_of(message, self._shape):
                found.append((mark.at_ns, (now - mark.at_ns) / 1e6))
                self._check(message, mark)
                last = time.perf_counter()
        begin = min((at for at, _ in found), default=0)
        return sorted(late for at, late in found if at - begin >= WARM_UP_NS)

    def _check(self, message: Message, mark: Mark) -> None:
        self.checks.see(mark.key, mark.n, message.topic())
        self.places[message.topic()] += 1
        if self._shape is not Shape.VALUE and HEADER_NAMES - {name for name, _ in message.headers() or ()}:
            self.checks.bare += 1

    def _read(self, timeout: float) -> list[Message]:
        batch = self._consumer.consume(10_000, timeout)
        for message in batch:
            if message.error() is not None:
                raise RuntimeError(f"the watcher could not read: {message.error()}")
        self._unchecked.extend(batch)
        return batch


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None of nothing."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
