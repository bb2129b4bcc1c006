"""A steady publisher that knows what the broker acknowledged, and where.

It has an idempotent producer of its own, so that each event is in the topic once, and the events of one key in the
order of their sequence numbers. A proof that publishes twice on purpose sets `repeat_every`.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Self, TypeAlias

from confluent_kafka import KafkaException, Producer

Value: TypeAlias = Callable[[str, int], bytes]

_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Published:
    """One event that the broker acknowledged. `sequence` counts the events of its key from 0."""

    event_id: str
    key: bytes
    sequence: int
    poison: bool
    partition: int
    offset: int
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class _Event:
    """What was handed to the client and is not acknowledged yet."""

    event_id: str
    key: bytes
    sequence: int
    poison: bool
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]


def numbered_json(key: str, sequence: int) -> bytes:
    """The usual value: says which event it is."""
    return json.dumps({"text": f"message {sequence} of {key}", "channel": "chat", "sequence": sequence}).encode()


@dataclass(slots=True)
class Load:
    """Publishes `rate` events a second, round and round over `keys` keys, from `start` until `stop` or `count`.

    Every `poison_every`-th event is undecodable: random bytes as its value (and a tail on its key that is no UTF-8),
    with all its CloudEvents headers and one that is not text. Every `repeat_every`-th is published again unchanged.
    """

    bootstrap: str
    topic: str
    keys: int = 20
    rate: float = 500.0
    count: int | None = None
    poison_every: int | None = None
    repeat_every: int | None = None
    value: Value = numbered_json
    event_type: str = "ticket.created"
    headers: tuple[tuple[str, bytes | None], ...] = (("content-type", b"application/json"),)
    seed: int = 1
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    _acknowledged: list[Published] = field(default_factory=list, init=False)
    _refused: list[str] = field(default_factory=list, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _failure: BaseException | None = field(default=None, init=False)

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._run, name=f"load-{self.topic}", daemon=True)
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 30.0) -> list[Published]:
        """Ends the publishing and returns all that was acknowledged, in the order of acknowledgement.

        Raises when the broker refused anything: then nobody could say what was published.
        """
        self._stopping.set()
        return self.finish(timeout_s)

    def finish(self, timeout_s: float = 120.0) -> list[Published]:
        """Waits for `count` events, then the same."""
        assert self._thread is not None, "start it first"
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._stopping.set()
            raise AssertionError(f"the load on {self.topic} did not end within {timeout_s} s")
        if self._failure is not None:
            raise AssertionError(f"the load on {self.topic} failed") from self._failure
        if self._refused:
            raise AssertionError(f"{len(self._refused)} events were not taken: {self._refused[:3]}")
        return list(self._acknowledged)

    @property
    def acknowledged(self) -> int:
        """How many events the broker has taken so far."""
        return len(self._acknowledged)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(30)

    def _run(self) -> None:
        try:
            self._publish()
        except BaseException as failure:  # shown by `stop`: a thread has nobody else to tell
            self._failure = failure

    def _publish(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 2,
                "partitioner": "murmur2_random",  # the one of the Java clients
                "message.timeout.ms": 60_000,
            }
        )
        random = Random(self.seed)
        started = time.monotonic()
        made = 0
        while not self._stopping.is_set() and (self.count is None or made < self.count):
            due = int((time.monotonic() - started) * self.rate) + 1
            if self.count is not None:
                due = min(due, self.count)
            while made < due:
                event = self._event(made, random)
                repeats = self.repeat_every is not None and made % self.repeat_every == self.repeat_every - 1
                for _ in range(2 if repeats else 1):
                    self._send(producer, event)
                made += 1
            producer.poll(0)
            self._stopping.wait(_TICK_S)
        left = producer.flush(60)
        if left:
            raise TimeoutError(f"{left} events were not acknowledged within 60 s")

    def _event(self, number: int, random: Random) -> _Event:
        sequence, which = divmod(number, self.keys)
        name = f"{self.run}-{which}"
        poison = self.poison_every is not None and number % self.poison_every == self.poison_every - 1
        # A poisoned key is another key: it can hold bytes that are no text, and no order of others to disturb.
        key = name.encode() + b"\xff\x00\xfe" if poison else name.encode()
        value = b"\x00\xff" + random.randbytes(40) if poison else self.value(name, sequence)
        event_id = f"{self.run}-{number}"
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", event_id.encode()),
            ("ce_source", f"/proof/{self.run}".encode()),
            ("ce_type", self.event_type.encode()),
            ("ce_subject", key),
            ("ce_time", b"2026-01-01T00:00:00Z"),
            *self.headers,
        ]
        if poison:
            headers += [("not-text", b"\xff\xfe\x00"), ("no-value", None), ("no-value", b"")]
        return _Event(event_id, key, sequence, poison, value, tuple(headers))

    def _send(self, producer: Producer, event: _Event) -> None:
        while True:
            try:
                producer.produce(
                    self.topic,
                    value=event.value,
                    key=event.key,
                    headers=list(event.headers),
                    on_delivery=lambda error, message: self._delivered(event, error, message),
                )
            except BufferError:
                producer.poll(0.05)
            else:
                return

    def _delivered(self, event: _Event, error, message) -> None:
        if error is not None:
            self._refused.append(str(KafkaException(error)))
            return
        self._acknowledged.append(
            Published(
                event_id=event.event_id,
                key=event.key,
                sequence=event.sequence,
                poison=event.poison,
                partition=message.partition(),
                offset=message.offset(),
                value=event.value,
                headers=event.headers,
            )
        )
