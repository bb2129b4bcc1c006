"""The records in flight of one stage, on the event loop: handed out by lane, settled, retried, finished.

The reader admits records, agents get and settle them, the committer takes what is finished. Nothing here waits
for Kafka. A record is handed out only while its tenure is open, and only one of a key at a time.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, assert_never

from pipeline.errors import ConfigError, DecodeError, EncodeError, FailureClass, StepError
from pipeline.outcome import Dead, Next, Outcome, Retry
from pipeline.stream import exits as exit_records
from pipeline.stream.delivery import Delivery
from pipeline.stream.exits import Decoder, Exits, Identify
from pipeline.stream.identity import Fresh, Repeat, admit
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.output import Output
from pipeline.stream.retry import Again, Exhausted, Park, after_failure
from pipeline.stream.route import Route

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """What a stage has done since it started. Plain numbers: whoever shows them gives them names."""

    handed_out: int = 0
    finished: int = 0
    committed: int = 0
    dead: int = 0
    retried: int = 0
    parked: int = 0
    duplicates: int = 0
    superseded: int = 0
    overdue: int = 0
    requeued: int = 0
    epoch_drops: int = 0
    skipped_done: int = 0
    rounds: int = 0
    rounds_refused: int = 0
    rounds_unknown: int = 0
    outputs_buried: int = 0
    pauses: int = 0
    rebalances: int = 0
    expired_unread: int = 0


class Clock(Protocol):
    """Time and timers, injected. `call_later` returns something with `cancel()`."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> Any:
        """Calls back on the event loop, not before `delay_s` seconds from now."""
        ...


class Window:
    """Everything in flight of one stage in this process. Belongs to the event loop."""

    def __init__(
        self,
        route: Route,
        limits: StageLimits,
        *,
        decode: Decoder,
        exits: Exits,
        identify: Identify | None = None,
        retry_limits: Callable[[Any], RetryLimits] | None = None,
        push: Callable[[Delivery], None],
        clock: Clock,
        random: Random,
        counters: Counters,
    ) -> None:
        self.route = route
        self.limits = limits
        self.counters = counters
        self._decode = decode
        self._exits = exits
        self._identify = identify
        self._retry_limits = retry_limits or (lambda _record: limits.retry)
        self._push = push
        self._clock = clock
        self._random = random
        self._ready: deque[Delivery] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        # With agents, each with the cancellations that its agent's task had pending when it was handed out.
        self._out: dict[Delivery, int] = {}
        self._ended = False

    # -- from the reader ------------------------------------------------------------------------------------

    def admit(self, deliveries: list[Delivery]) -> None:
        """Takes a batch from the reader, in offset order per partition."""
        ready = self._ready
        for delivery in deliveries:
            track = delivery.track
            if track is track.tenure.retry:
                exit_records.unpark(delivery)
            if track.lanes.enter(delivery):
                ready.append(delivery)
        self._wake(len(ready))

    # -- to the agents --------------------------------------------------------------------------------------

    async def get(self) -> Delivery | None:
        """The next delivery to work on, or None after `end`. Waits for one; cancelling the wait loses nothing."""
        task = asyncio.current_task()
        while not self._ended:
            delivery = self.get_nowait(task)
            if delivery is not None:
                return delivery
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(1)  # the wake-up was ours; somebody else must get it
                raise
        return None

    def end(self) -> None:
        """Hands nothing out any more: whoever waits gets None."""
        self._ended = True
        self._wake(len(self._waiters))

    def get_nowait(self, task: "asyncio.Task[Any] | None" = None) -> Delivery | None:
        """The next delivery to work on, or None when there is none now.

        `task` is the agent's, the running one: given by a caller that asks often, since looking it up costs.
        """
        task = task or asyncio.current_task()
        ready = self._ready
        while ready and not self._ended:
            delivery = ready.popleft()
            if delivery.track.tenure.closing:
                continue  # read again by the next owner
            if self._start(delivery, task):
                return delivery
        return None

    def _start(self, delivery: Delivery, task: "asyncio.Task[Any] | None") -> bool:
        """True when an agent must work on it; False when the window itself could finish it."""
        track = delivery.track
        tenure = track.tenure
        try:
            delivery.record = self._decode(delivery)
            # A second attempt, also one after a requeue, has been looked at before.
            if track is tenure.input and delivery.attempt == 0 and not delivery.state_changes:
                if self._identify is not None and not self._is_fresh(delivery, self._identify):
                    return False
                if delivery.key is not None and delivery.key in tenure.parked:
                    self._park(delivery, "parked behind an earlier record of its key", FailureClass.TRANSIENT)
                    return False
        except DecodeError as error:
            self._finish_dead(delivery, str(error), FailureClass.POISON)
            return False
        except Exception as error:  # noqa: BLE001 - a fault of ours: the record, in nobody's hands, must not go with it
            self._finish_faulty(delivery, error)
            return False
        delivery.attempt += 1
        delivery.overdue = delivery.entered = False
        delivery.outcome = None
        delivery.task = task
        delivery.started_s = self._clock.time()
        tenure.out += 1
        self._out[delivery] = task.cancelling() if task is not None else 0
        self.counters.handed_out += 1
        return True

    def _is_fresh(self, delivery: Delivery, identify: Identify) -> bool:
        source, event_id = identify(delivery.record)
        now_s = self._clock.time()
        seen = admit(
            delivery.track.tenure.state,
            source=source,
            event_id=event_id,
            key=delivery.key,
            value=delivery.value,
            now_ms=round(now_s * 1000),
            horizon_ms=round(self.limits.identity_horizon_s * 1000),
        )
        match seen:
            case Fresh():
                delivery.state_changes = seen.changes
                return True
            case Repeat.DUPLICATE:
                self.counters.duplicates += 1
                self._finish(delivery, self._exits.duplicate(delivery, now_s))
                return False
            case Repeat.CONFLICT:
                cause = "conflict: the identity came before with other bytes"
                self._finish_dead(delivery, cause, FailureClass.PERMANENT)
                return False
            case _:
                assert_never(seen)

    # -- back from the agents -------------------------------------------------------------------------------

    def settle(self, delivery: Delivery, error: BaseException | None) -> bool:
        """The agent's block ended. True swallows the error: it became an outcome."""
        if delivery not in self._out:
            return isinstance(error, Exception)  # the sweep took it away: whatever comes now is late
        # Asked only where it matters: this is the way of every delivery.
        stopped = (error is not None or delivery.overdue) and self._is_stopped(delivery)
        outcome: Outcome
        if error is None:
            outcome = delivery.outcome or Dead("unresolved: the agent left the record without an outcome")
        elif isinstance(error, Exception):
            outcome = outcome_of(error)
        elif stopped or not isinstance(error, asyncio.CancelledError):
            # The agent is being stopped, which is not the record's fault.
            self._take_back(delivery, None)
            return False
        elif delivery.overdue:
            outcome = Retry(f"deadline: no outcome within {self.limits.deadline_s:g} s")
        else:
            outcome = Retry("cancelled: not the agent, but something inside the step")
        self._take_back(delivery, outcome)
        return True

    def _is_stopped(self, delivery: Delivery) -> bool:
        """Whether somebody else cancelled the agent. Takes our own cancellation, if there was one, off its task."""
        task = asyncio.current_task()
        if task is None or task is not delivery.task:
            return True
        if delivery.overdue:
            task.uncancel()
        return task.cancelling() > self._out[delivery]

    def sweep(self) -> None:
        """Cancels what is past its deadline, and takes back what lies with an agent that is gone."""
        now_s = self._clock.time()
        for delivery in list(self._out):
            task = delivery.task
            if task is not None and task.done():
                # It counts as an attempt: a record that ends its agents must not do so for ever.
                ended = Retry("the agent took the record and ended without entering its block")
                self._take_back(delivery, None if task.cancelled() else ended)
            elif not delivery.overdue and now_s - delivery.started_s > self.limits.deadline_s:
                delivery.overdue = True
                self.counters.overdue += 1
                if delivery.entered and task is not None:
                    task.cancel()
                else:
                    self._take_back(delivery, Retry("the agent took the record and never entered its block"))

    def _take_back(self, delivery: Delivery, outcome: Outcome | None) -> None:
        """From now on its agent can no longer settle it. Without an outcome it was as if never handed out."""
        del self._out[delivery]
        tenure = delivery.track.tenure
        try:
            if outcome is None:
                self._requeue(delivery)
            elif tenure.alive:
                self._conclude(delivery, outcome)
            else:
                self.counters.epoch_drops += 1
        finally:
            # Last, so that a rebalance that sees nothing out also sees what finished.
            tenure.out -= 1

    def _requeue(self, delivery: Delivery) -> None:
        self.counters.requeued += 1
        if not delivery.track.tenure.closing:
            again = delivery.renewed()
            again.attempt -= 1
            self._ready.appendleft(again)
            self._wake(1)

    def _conclude(self, delivery: Delivery, outcome: Outcome) -> None:
        try:
            if isinstance(outcome, Retry):
                self._retry(delivery, outcome)
                return
            outputs = self._outputs(delivery, outcome)
        except Exception as error:  # noqa: BLE001 - a fault of ours: the record has left its agent and must end somewhere
            self._finish_faulty(delivery, error)
            return
        if isinstance(outcome, Dead):
            self.counters.dead += 1
        self._finish(delivery, outputs)

    def _outputs(self, delivery: Delivery, outcome: Outcome) -> tuple[Output, ...]:
        now_s = self._clock.time()
        once = outcome.once if isinstance(outcome, Next) else None
        if isinstance(outcome, Next) and once is not None and self.knows(delivery, once):
            self.counters.superseded += 1
            return self._exits.superseded(delivery, outcome, now_s)
        outputs = exit_records.conclude(self.route, self._exits, delivery, outcome, now_s)
        if once is not None:  # not before its record is made: what cannot be written uses up no name
            self._claim(delivery, once)
        return outputs

    def knows(self, delivery: Delivery, name: str) -> bool:
        """Whether the stage remembers this name as used."""
        return delivery.track.tenure.state.get(once_key(name)) is not None

    def _claim(self, delivery: Delivery, name: str) -> None:
        """The name is taken from now on, in the transaction of this delivery."""
        if self.route.state is None:
            raise ConfigError(f"stage {self.route.stage} uses a name once, so it needs a state topic")
        state = delivery.track.tenure.state
        delivery.state_changes += state.put(once_key(name), b"%d" % round(self._clock.time() * 1000))

    def _retry(self, delivery: Delivery, retry: Retry) -> None:
        tenure = delivery.track.tenure
        now_s = self._clock.time()
        if not delivery.first_failure_s:
            delivery.first_failure_s = now_s
        limits = self._retry_limits(delivery.record)
        decision = after_failure(
            limits,
            attempt=delivery.attempt,
            first_failure_s=delivery.first_failure_s,
            now_s=now_s,
            after_s=retry.after_s,
            parked=delivery.track is not tenure.input,
            lane_has_room=tenure.backing_off < limits.lane_keys,
            random=self._random,
        )
        match decision:
            case Again():
                self.counters.retried += 1
                if delivery.track is tenure.input:
                    tenure.backing_off += 1
                # Another object: whoever still holds this one has no say in the next attempt.
                self._clock.call_later(decision.delay_s, self._again, delivery.renewed())
            case Park():
                self._park(delivery, retry.cause, retry.failure)
            case Exhausted():
                self._finish_dead(delivery, f"{retry.cause} ({decision.ceiling})", retry.failure)
            case _:
                assert_never(decision)

    def _again(self, delivery: Delivery) -> None:
        tenure = delivery.track.tenure
        if delivery.track is tenure.input:
            tenure.backing_off -= 1
        if not tenure.closing:
            self._ready.append(delivery)
            self._wake(1)

    def _park(self, delivery: Delivery, cause: str, failure: FailureClass) -> None:
        record = exit_records.parked(self.route, delivery, cause, failure, self._clock.time())
        self.counters.parked += 1
        delivery.track.tenure.parked.add(delivery.key)
        self._finish(delivery, (record,))

    def _finish_dead(self, delivery: Delivery, cause: str, failure: FailureClass) -> None:
        self.counters.dead += 1
        log.info("%s: %r is a dead letter: %s", self.route.stage, delivery, cause)
        now_s = self._clock.time()
        self._finish(delivery, exit_records.buried(self.route, self._exits, delivery, cause, failure, now_s))

    def _finish_faulty(self, delivery: Delivery, error: Exception) -> None:
        """No records can be made of its outcome, so it becomes a dead letter. Nothing of it was finished before."""
        if not isinstance(error, EncodeError):
            log.error("%s: a fault while %r was finished", self.route.stage, delivery, exc_info=error)
        cause = f"encode: {error}" if isinstance(error, EncodeError) else f"{type(error).__name__}: {error}"
        self._finish_dead(delivery, cause, FailureClass.PERMANENT)

    def _finish(self, delivery: Delivery, outputs: tuple[Output, ...]) -> None:
        track = delivery.track
        if delivery.state_changes:
            assert self.route.state is not None
            topic = self.route.state
            outputs += tuple(Output(topic, change.key, change.value) for change in delivery.state_changes)
        delivery.outputs = outputs
        if track is track.tenure.retry:
            track.tenure.parked.remove(delivery.key)
        self.counters.finished += 1
        track.finished += 1
        self._push(delivery)
        following = track.lanes.leave(delivery)
        if following is not None:
            self._ready.append(following)
            self._wake(1)

    def _wake(self, count: int) -> None:
        waiters = self._waiters
        while count and waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1


def once_key(name: str) -> bytes:
    """The state key of a name that may be used once."""
    return b"once:" + name.encode("utf-8", "surrogatepass")


def outcome_of(error: Exception) -> Outcome:
    """The outcome of an exception that left a step: its class where it has one, else permanent."""
    if isinstance(error, StepError):
        if error.failure in (FailureClass.TRANSIENT, FailureClass.BUDGET):
            return Retry(error.cause, failure=error.failure)
        return Dead(error.cause, error.failure)
    if isinstance(error, TimeoutError | ConnectionError):
        return Retry(f"{type(error).__name__}: {error}")
    log.error("a step raised", exc_info=error)
    return Dead(f"{type(error).__name__}: {error}")
