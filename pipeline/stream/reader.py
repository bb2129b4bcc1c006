"""Polls the input of one stage, and is the only thread that calls its consumers.

It never stops polling while the process lives, so a slow step costs no membership. It hands batches to the event
loop, pauses partitions at their limits, and runs the rebalance callbacks: those wait, with a bound, for work in
flight, and answer the committer meanwhile.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.errors import StageStopped
from pipeline.records import Headers
from pipeline.stream.beside import Beside
from pipeline.stream.committed import Partition, fetch_committed, outsider
from pipeline.stream.committer import Membership
from pipeline.stream.delivery import Delivery
from pipeline.stream.limits import StageLimits
from pipeline.stream.progress import Progress
from pipeline.stream.restore import Restorer
from pipeline.stream.route import Route
from pipeline.stream.tenure import Tenure, Track
from pipeline.stream.transaction import Stopping
from pipeline.stream.window import Counters, Window

log = logging.getLogger(__name__)

POLL_S = 0.05
"""The longest wait for a record: also how soon a request from another thread is seen."""
TOGGLE_S = 0.25
"""A partition is paused or resumed at most this often, since a pause throws away what was fetched ahead."""


class Reader(threading.Thread):
    """The consumer side of a stage. `on_failure` is called once, from this thread, when it cannot go on."""

    def __init__(
        self,
        route: Route,
        limits: StageLimits,
        config: Mapping[str, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        window: Window,
        counters: Counters,
        feed_when: threading.Event,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name=f"{route.stage}-reader", daemon=True)
        self._route = route
        self._limits = limits
        self._config = dict(config)
        self._loop = loop
        self._window = window
        self._counters = counters
        self._feed_when = feed_when
        self._on_failure = on_failure
        self._tenures: dict[int, Tenure] = {}
        # Assigned and not restored yet: the epoch tells whether a restored tenure still is the one wanted.
        self._pending: dict[int, int] = {}
        self._epoch = 0
        self._restored: queue.SimpleQueue[list[Tenure]] = queue.SimpleQueue()
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._membership: Membership | None = None
        self._membership_changed = threading.Condition()
        self._membership_asked = 0.0
        self._stopping = False
        self._abandoned = False
        self._toggled_s = 0.0
        self._breath_until_s = 0.0
        self._beside = Beside(route, limits, self._config)

    # -- for other threads ----------------------------------------------------------------------------------

    @property
    def tenures(self) -> tuple[Tenure, ...]:
        """The partitions that are fed now."""
        return tuple(self._tenures.values())

    @property
    def stopping(self) -> bool:
        """Whether the process is to end without waiting any longer."""
        return self._abandoned

    def close(self) -> None:
        """Drains what is in flight, within `stop_grace_s`, leaves the group and ends. Returns at once."""
        self._stopping = True

    def abandon(self) -> None:
        """Stops waiting for anything: blocking calls that ask `stopping` give up."""
        self._abandoned = True

    def membership(self) -> Membership | None:
        """The newest membership; None before the first assignment."""
        return self._membership

    def renewed_membership(self, after: int, wait_s: float) -> Membership | None:
        """Fresh group metadata, taken by this thread. Waits at most `wait_s` for it."""
        self._asked.put(None)
        with self._membership_changed:
            self._membership_changed.wait_for(
                lambda: self._membership is not None and self._membership.serial > after, wait_s
            )
            return self._membership

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Progress | None]:
        """What the group has committed, asked through a consumer of the calling thread's own."""
        with outsider(self._config, self._route.group) as consumer:
            return fetch_committed(consumer, partitions, lambda: self._abandoned)

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while not self._feed_when.wait(POLL_S):
                if self._stopping:
                    return
            self._poll_until_stopped()
        except Stopping:
            log.info("%s: the reader stops", self._route.stage)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the stage must not go on without us
            self._on_failure(failure)

    def _poll_until_stopped(self) -> None:
        consumer = Consumer(
            {
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 8_192,
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 50,
                "max.poll.interval.ms": 300_000,
                **self._config,
                "group.id": self._route.group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": round(self._limits.session_timeout_s * 1000),
                "heartbeat.interval.ms": round(self._limits.session_timeout_s * 1000 / 4),
            },
            logger=log,
        )
        self._consumer = consumer
        try:
            consumer.subscribe(
                [self._route.input],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._stopping:
                self._begin_restored()
                self._answer()
                if self._holds_breath():
                    continue
                first = consumer.poll(POLL_S)
                if first is not None:
                    self._feed([first, *consumer.consume(self._limits.batch_records, 0)], self._input_track)
                messages, track_of = self._beside.read(self._tenures.values())
                if messages:
                    self._feed(messages, track_of)
                self._apply_limits()
                if time.monotonic() - self._membership_asked > 1.0:
                    self._renew_membership()
            self._drain(self.tenures, self._limits.stop_grace_s)
        finally:
            for tenure in self.tenures:
                tenure.closing = True
                tenure.alive = False
            self._beside.close()
            consumer.close()

    def _answer(self, wait_s: float = 0.0) -> None:
        """Renews the membership if another thread asked for it."""
        try:
            self._asked.get(block=wait_s > 0, timeout=wait_s or None)
            while not self._asked.empty():
                self._asked.get_nowait()
        except queue.Empty:
            return
        self._renew_membership()

    def _renew_membership(self) -> None:
        try:
            metadata = self._consumer.consumer_group_metadata()
        except RuntimeError:
            # While the consumer closes it has none to give. What is committed then goes with the last one.
            return
        self._membership_asked = time.monotonic()
        if not self._consumer.memberid():
            # Metadata of no member are not fenced: the broker takes them as if nobody competed (seen on Kafka 4.2).
            return
        with self._membership_changed:
            serial = self._membership.serial + 1 if self._membership else 0
            self._membership = Membership(serial, metadata)
            self._membership_changed.notify_all()

    # -- feeding --------------------------------------------------------------------------------------------

    def _feed(self, messages: list[Message], track_of: Callable[[Message], Track | None]) -> None:
        deliveries: list[Delivery] = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._check(error)
                continue
            track = track_of(message)
            if track is None or track.tenure.closing:
                continue
            delivery = self._delivery(track, message)
            if delivery is not None:
                deliveries.append(delivery)
        if deliveries:
            self._loop.call_soon_threadsafe(self._window.admit, deliveries)

    def _input_track(self, message: Message) -> Track | None:
        tenure = self._tenures.get(message.partition())
        return None if tenure is None else tenure.input

    def _delivery(self, track: Track, message: Message) -> Delivery | None:
        offset = message.offset()
        cover = track.next_offset
        if offset < cover:
            return None  # fetched again after a pause: it is in the window already
        track.next_offset = offset + 1
        if track.restored.is_done(offset):
            self._counters.skipped_done += 1
            return None
        delivery = Delivery(
            self._window,
            track,
            cover,
            offset,
            message.timestamp()[1],
            message.key(),
            message.value(),
            _headers(message),
        )
        track.fed_bytes += delivery.size
        track.fed += 1
        return delivery

    def _check(self, error: KafkaError) -> None:
        """Errors that librdkafka passes on while polling: most are news, a few are the end."""
        code = error.code()
        if error.fatal():
            raise KafkaException(error)
        if code == KafkaError._PARTITION_EOF:
            return
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise StageStopped(
                f"stage {self._route.stage}: an offset of {self._route.input} is gone from the broker while it was "
                f"being read ({error.str()}). Start the stage again: it says which records expired."
            )
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise StageStopped(f"stage {self._route.stage} may not read: {error.str()}. Give its identity the ACLs.")
        log.info("%s: %s", self._route.stage, error.str())

    # -- limits ---------------------------------------------------------------------------------------------

    def _holds_breath(self) -> bool:
        """At a total limit, waits a moment without polling: work usually catches up before a pause would pay."""
        now = time.monotonic()
        held, held_bytes = self._held()
        if held < self._limits.total_records and held_bytes < self._limits.total_bytes:
            self._breath_until_s = now + TOGGLE_S
            return False
        if now > self._breath_until_s:
            return False
        self._answer(0.005)
        return True

    def _held(self) -> tuple[int, int]:
        tracks = [tenure.input for tenure in self._tenures.values()]
        return sum(track.held for track in tracks), sum(track.held_bytes for track in tracks)

    def _apply_limits(self) -> None:
        now = time.monotonic()
        if now - self._toggled_s < TOGGLE_S:
            return
        limits = self._limits
        tracks = [tenure.input for tenure in self._tenures.values()]
        held, held_bytes = self._held()
        over = (held >= limits.total_records or held_bytes >= limits.total_bytes) and now > self._breath_until_s
        roomy = held <= limits.total_records // 2 and held_bytes <= limits.total_bytes // 2
        pause = []
        resume = []
        for track in tracks:
            full = (
                over
                or track.stuck
                or track.held >= limits.partition_records
                or track.held_bytes >= limits.partition_bytes
            )
            low = (
                roomy
                and not track.stuck
                and track.held <= limits.partition_records // 2
                and track.held_bytes <= limits.partition_bytes // 2
            )
            if not track.paused and full:
                track.paused = True
                pause.append(TopicPartition(track.topic, track.partition))
            elif track.paused and low:
                track.paused = False
                resume.append(TopicPartition(track.topic, track.partition))
        if pause:
            self._consumer.pause(pause)
            self._counters.pauses += len(pause)
        if resume:
            self._consumer.resume(resume)
        if pause or resume:
            self._toggled_s = now

    # -- rebalances -----------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._counters.rebalances += 1
        self._epoch += 1
        numbers = [partition.partition for partition in partitions]
        self._pending.update(dict.fromkeys(numbers, self._epoch))
        # Nothing is read before it is restored: the real assignment follows from `_begin_restored`.
        consumer.incremental_assign([])
        self._renew_membership()
        if numbers:
            log.info("%s: assigned %s, epoch %d", self._route.stage, sorted(numbers), self._epoch)
            threading.Thread(
                target=self._restore, args=(numbers, self._epoch), name=f"{self._route.stage}-restore", daemon=True
            ).start()

    def _restore(self, numbers: list[int], epoch: int) -> None:
        def gone() -> bool:
            return self._abandoned or all(self._pending.get(number) != epoch for number in numbers)

        restorer = Restorer(self._config, self._route, self._limits, gone, self._count_expired)
        try:
            tenures = restorer.restore(numbers, epoch)
        except Stopping:
            return
        except BaseException as failure:  # noqa: BLE001 - a partition that cannot be restored stops the stage
            self._on_failure(failure)
            return
        self._restored.put(tenures)

    def _count_expired(self, count: int) -> None:
        self._counters.expired_unread += count

    def _begin_restored(self) -> None:
        """Starts reading what was restored. Never from a rebalance callback: the client expects one answer there."""
        while not self._restored.empty():
            self._begin(self._restored.get_nowait())

    def _begin(self, tenures: list[Tenure]) -> None:
        begun = [tenure for tenure in tenures if self._pending.get(tenure.partition) == tenure.epoch]
        for tenure in begun:
            del self._pending[tenure.partition]
            self._tenures[tenure.partition] = tenure
        self._consumer.incremental_assign(
            [TopicPartition(t.input.topic, t.partition, t.input.next_offset) for t in begun]
        )
        if begun:
            starts = {t.partition: t.input.next_offset for t in begun}
            log.info("%s: feeding from %s", self._route.stage, starts)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._counters.rebalances += 1
        ending = self._leave(partitions)
        log.info("%s: revoked %s", self._route.stage, sorted(p.partition for p in partitions))
        if not self._stopping:
            self._drain(ending, self._limits.revoke_grace_s)
        self._end(consumer, ending)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._counters.rebalances += 1
        ending = self._leave(partitions)
        log.warning("%s: lost %s", self._route.stage, sorted(p.partition for p in partitions))
        self._end(consumer, ending)

    def _leave(self, partitions: list[TopicPartition]) -> list[Tenure]:
        for partition in partitions:
            self._pending.pop(partition.partition, None)
        return [self._tenures[p.partition] for p in partitions if p.partition in self._tenures]

    def _drain(self, tenures: Iterable[Tenure], grace_s: float) -> None:
        """Hands nothing new out of these tenures, and waits for what is out to finish and be committed."""
        tenures = list(tenures)
        for tenure in tenures:
            tenure.closing = True
        self._renew_membership()
        deadline = time.monotonic() + grace_s
        while not all(tenure.settled() for tenure in tenures):
            left = deadline - time.monotonic()
            if left <= 0 or self._abandoned:
                late = [tenure.partition for tenure in tenures if not tenure.settled()]
                log.info("%s: %s not drained within %g s", self._route.stage, late, grace_s)
                return
            self._answer(min(left, 0.01))

    def _end(self, consumer: Consumer, tenures: Iterable[Tenure]) -> None:
        tenures = list(tenures)
        for tenure in tenures:
            tenure.closing = True
            tenure.alive = False
            del self._tenures[tenure.partition]
        consumer.incremental_unassign([TopicPartition(t.input.topic, t.partition) for t in tenures])
        self._renew_membership()


def _headers(message: Message) -> Headers:
    try:
        headers = message.headers()
    except UnicodeDecodeError:
        # A header name that is no UTF-8: the client cannot show it. Key and value survive; the decoder, which needs
        # the envelope in the headers, will call the record poison.
        log.warning("%s[%d]@%d: headers cannot be read", message.topic(), message.partition(), message.offset())
        return ()
    return tuple(headers or ())
