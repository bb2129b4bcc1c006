"""Makes finished records visible: rounds of one transaction each, on a thread of its own.

A round takes finished records in the order in which they finished, which keeps the order of every key. Their
outputs enter the transaction only together with metadata that records them as done. What is not committed stays
in memory and is repeated without running its step again, as long as the tenure it belongs to is alive.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from pipeline.errors import FailureClass, StageStopped
from pipeline.stream.committed import Partition
from pipeline.stream.delivery import Delivery
from pipeline.stream.exits import dead_letter
from pipeline.stream.fitting import fitting_prefix
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.progress import Progress
from pipeline.stream.route import Route
from pipeline.stream.tenure import Track
from pipeline.stream.transaction import (
    BadOutput,
    Committed,
    Forbidden,
    Refused,
    Result,
    StaleMember,
    Stopping,
    TransactionLog,
    Unknown,
)
from pipeline.stream.window import Counters

log = logging.getLogger(__name__)

PATIENCE = 5
"""Refusals in a row after which the producer is renewed and the round made smaller."""


FENCED_AT_MOST = 3
FENCED_WITHIN_S = 60.0
"""Fenced more often than that within so many seconds, the stage stops."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The group's metadata as the reader last saw it. A round keeps the one it started with: if the group moved
    on meanwhile, the broker refuses the round, and with it every result of a partition that was lost.
    """

    serial: int
    metadata: object


class Group(Protocol):
    """What the committer asks of the reader. Safe to call from the committer's thread."""

    def membership(self) -> Membership | None:
        """The newest membership; None before the first assignment."""
        ...

    def renewed_membership(self, after: int, wait_s: float) -> Membership | None:
        """Asks the reader for fresh metadata and waits for a serial above `after`, at most `wait_s` seconds."""
        ...

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Progress | None]:
        """What the group has committed, waiting until no transaction is pending."""
        ...


@dataclass(frozen=True, slots=True)
class _Round:
    """What one transaction will hold."""

    deliveries: list[Delivery]
    progress: dict[Track, Progress]
    left: set[Track]
    """Tracks of which something must wait for room in the metadata."""


class Committer(threading.Thread):
    """Commits what `push` brings. `on_failure` is called once, from this thread, when it cannot go on."""

    def __init__(
        self,
        route: Route,
        limits: StageLimits,
        *,
        transactions: TransactionLog,
        group: Group,
        counters: Counters,
        on_failure: Callable[[BaseException], None],
        ready: threading.Event | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(name=f"{route.stage}-committer", daemon=True)
        self._route = route
        self._limits = limits
        self._transactions = transactions
        self._fenced_s: list[float] = []
        self._group = group
        self._counters = counters
        self._on_failure = on_failure
        self._now = now
        self._monotonic = monotonic
        self._pause = pause
        self._finished: deque[Delivery] = deque()
        # Finished and not committed, in the order of finishing. By track, so that one without room blocks no other.
        self._waiting: dict[Track, list[Delivery]] = {}
        # Tracks that had no room, with the progress at which that was found out: asking again costs too much.
        self._no_room: dict[Track, Progress] = {}
        self._wake = threading.Event()
        self._idle = False
        self._closing = False
        self._buried: set[Delivery] = set()
        self._refusals = 0
        self._stale = 0
        self._round_limit = limits.round_records
        self.ready = ready or threading.Event()
        """Set once the producer is there: until then nothing should be fed."""

    def push(self, delivery: Delivery) -> None:
        """Takes a finished delivery. Called by the event loop; never blocks."""
        self._finished.append(delivery)
        if self._idle:
            self._wake.set()

    def close(self) -> None:
        """Commits what is finished, then ends. Returns at once: `join` waits."""
        self._closing = True
        self._wake.set()

    def run(self) -> None:
        try:
            self._transactions.renew()
            self.ready.set()
            while self._wait():
                self.round()
        except Stopping:
            log.info("%s: the committer stops; what it had not committed will be done again", self._route.stage)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the stage must not go on without us
            self._on_failure(failure)
        finally:
            self._transactions.close()

    def _wait(self) -> bool:
        """Waits for finished work. False when there is none and the committer is to end."""
        while not self._finished:
            if self._closing:
                return False
            self._wake.clear()
            self._idle = True
            if not self._finished and not self._closing:
                self._wake.wait(1.0)
            self._idle = False
        return True

    # -- one round ------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Commits what is finished now, and returns when the next round may begin."""
        began = self._monotonic()
        finished = self._finished
        while finished:
            delivery = finished.popleft()
            self._waiting.setdefault(delivery.track, []).append(delivery)
        while self._commit():
            pass
        spent = self._monotonic() - began
        if not self._closing and len(finished) < self._limits.round_records // 4:
            # A pause as long as the work: half of the time is left to everybody else on this machine and on the
            # broker. An idle stage never gets here, so a lone record is committed at once; and when much is
            # finished already, a pause would make the round no better.
            self._wake.clear()
            self._wake.wait(min(self._limits.round_s, spent))

    def _commit(self) -> bool:
        """Tries to commit what one transaction takes. False when nothing is left that has room in the metadata."""
        member = self._group.membership()
        # The membership first, then who is alive: a tenure that ends in between belongs to a generation that the
        # broker will refuse.
        self._drop_dead()
        chosen = self._plan()
        if not chosen.deliveries:
            return False
        result = self._attempt(chosen, member)
        match result:
            case Committed():
                self._counters.rounds += 1
                self._refusals = self._stale = 0
                self._round_limit = min(self._limits.round_records, self._round_limit * 2)
                for track, progress in chosen.progress.items():
                    track.progress = progress
                self._release(chosen.deliveries)
            case StaleMember():
                self._counters.rounds_refused += 1
                log.info("%s: round refused: %s", self._route.stage, result.cause)
                self._group.renewed_membership(member.serial if member else -1, 1.0)
                # Fresh metadata may still be of the old generation: a rebalance takes its time.
                self._pause(min(0.01 * 2 ** min(self._stale, 8), 0.5))
                self._stale += 1
            case BadOutput():
                self._counters.rounds_refused += 1
                self._bury(chosen.deliveries, result)
            case Forbidden():
                raise self._forbidden(result)
            case Refused():
                self._counters.rounds_refused += 1
                self._patience(result)
            case Unknown():
                self._counters.rounds_unknown += 1
                log.warning("%s: outcome unknown, settling: %s", self._route.stage, result.cause)
                if result.fenced:
                    self._count_fenced()
                self._settle(chosen)
            case _:
                assert_never(result)
        return True

    def _forbidden(self, result: Forbidden) -> StageStopped:
        return StageStopped(
            f"stage {self._route.stage} may not write: {result.cause}. To go on, {result.remedy}, then start it again. "
            "Nothing is lost: nothing was committed."
        )

    def _count_fenced(self) -> None:
        """Once is what a long pause of this process brings about. Again and again is another process of its name."""
        now = self._monotonic()
        recent = [at for at in self._fenced_s if now - at < FENCED_WITHIN_S]
        self._fenced_s = [*recent, now]
        if len(self._fenced_s) > FENCED_AT_MOST:
            raise StageStopped(
                f"stage {self._route.stage}: another living process has the same transactional id, and each fences the "
                "other. Give every worker a LOCKGATE_SLOT of its own. Nothing is lost: nothing was committed."
            )

    def _attempt(self, chosen: _Round, member: Membership | None) -> Result:
        if member is None:
            return StaleMember("not a member of the group yet")
        outputs = [(delivery.track.partition, output) for delivery in chosen.deliveries for output in delivery.outputs]
        offsets = [
            (track.topic, track.partition, progress.base, progress.encode())
            for track, progress in chosen.progress.items()
        ]
        return self._transactions.run(outputs, offsets, member.metadata)

    def _drop_dead(self) -> None:
        for track in [track for track in self._waiting if not track.tenure.alive]:
            self._counters.epoch_drops += len(self._waiting.pop(track))
        for track in [track for track in self._no_room if not track.tenure.alive]:
            del self._no_room[track]

    def _release(self, deliveries: Collection[Delivery]) -> None:
        """They are committed: nothing of them is kept."""
        done = set(deliveries)
        for delivery in done:
            track = delivery.track
            track.released_bytes += delivery.size
            track.released += 1
        for track in {delivery.track for delivery in done}:
            left = [delivery for delivery in self._waiting[track] if delivery not in done]
            if left:
                self._waiting[track] = left
            else:
                del self._waiting[track]
        self._counters.committed += len(done)
        if self._buried:
            self._buried -= done

    # -- room in the metadata -------------------------------------------------------------------------------

    def _plan(self) -> _Round:
        """What the next transaction will hold: at most `_round_limit` records, as far as the metadata has room.

        The order of a key spans both tracks of its tenure: what was parked goes on in the retry track, and the next
        record of the key follows in the input track. So while a record of the retry track waits for room, the
        records of its key in the input track wait too.
        """
        chosen = _Round([], {}, set())
        room = self._round_limit
        inputs = [track for track in self._waiting if track is track.tenure.input]
        others = [track for track in self._waiting if track is not track.tenure.input]
        for track in others + inputs:
            if not room:
                break
            candidates = self._waiting[track]
            if track.tenure.retry in chosen.left and track is track.tenure.input:
                taken = set(chosen.deliveries)
                held = {d.key for d in self._waiting[track.tenure.retry] if d not in taken} - {None}
                candidates = [delivery for delivery in candidates if delivery.key not in held]
            mine, progress = self._fitting(track, candidates, room)
            track.stuck = len(mine) < min(room, len(candidates))
            if track.stuck:
                chosen.left.add(track)
            if mine:
                room -= len(mine)
                chosen.deliveries.extend(mine)
                chosen.progress[track] = progress
        return chosen

    def _fitting(self, track: Track, candidates: list[Delivery], room: int) -> tuple[list[Delivery], Progress]:
        base = track.progress
        if self._no_room.get(track) is base and not any(d.cover <= base.base for d in candidates):
            return [], base
        self._no_room.pop(track, None)
        mine, progress = fitting_prefix(base, candidates, room)
        if candidates and not mine:
            self._no_room[track] = base
        return mine, progress

    # -- when a round does not pass -------------------------------------------------------------------------

    def _patience(self, result: Refused) -> None:
        """The same again, later; after a while with a new producer and a smaller round."""
        self._refusals += 1
        log.warning("%s: round refused (%d): %s", self._route.stage, self._refusals, result.cause)
        if self._refusals % PATIENCE == 0:
            self._round_limit = max(1, self._round_limit // 2)
            self._transactions.renew()
        else:
            self._pause(min(0.05 * 2 ** min(self._refusals, 8), 1.0))

    def _settle(self, chosen: _Round) -> None:
        """After an unknown outcome: let the broker decide it, read what it decided, release what it covers."""
        self._transactions.renew()
        committed = self._group.committed([(track.topic, track.partition) for track in chosen.progress])
        for track in chosen.progress:
            found = committed[track.topic, track.partition]
            if found is not None:
                track.progress = found
        self._release([d for d in chosen.deliveries if d.track.progress.is_done(d.offset)])

    def _bury(self, deliveries: list[Delivery], result: BadOutput) -> None:
        """Finds the records whose outputs cannot be written and makes each a dead letter; the others stay."""
        outputs = [(delivery.track.partition, output) for delivery in deliveries for output in delivery.outputs]
        owners = [delivery for delivery in deliveries for _ in delivery.outputs]
        culprits = [(result.index, result)] if result.index is not None else self._culprits(outputs)
        if not culprits:
            # Each passes alone: the sum was the trouble, so the next rounds are smaller.
            self._round_limit = max(1, min(self._round_limit, len(deliveries)) // 2)
            self._patience(Refused(result.cause))
            return
        causes: dict[Delivery, str] = {}
        for index, bad in culprits:
            topic = outputs[index][1].topic
            if owners[index] in self._buried or topic == self._route.state:
                raise StageStopped(
                    f"stage {self._route.stage} cannot write to {topic}: {bad.cause}. It must take state records, and "
                    f"dead letters as large as the records of {self._route.input} with room for headers "
                    "(`lockgate topics plan` shows what differs). Nothing is lost: nothing was committed."
                )
            causes.setdefault(owners[index], bad.cause)
        for delivery, cause in causes.items():
            log.error("%s: the output of %r cannot be written: %s", self._route.stage, delivery, cause)
            self._buried.add(delivery)
            self._counters.outputs_buried += 1
            letter = dead_letter(self._route, delivery, f"output refused: {cause}", FailureClass.PERMANENT, self._now())
            kept = tuple(o for o in delivery.outputs if self._route.state is not None and o.topic == self._route.state)
            delivery.outputs = (letter, *kept)

    def _culprits(self, outputs: Sequence[tuple[int, Output]]) -> list[tuple[int, BadOutput]]:
        """Bisects with transactions that are aborted, until each bad output stands alone."""
        found: list[tuple[int, BadOutput]] = []
        ranges = [(0, len(outputs))]
        while ranges:
            start, end = ranges.pop()
            result = self._probed(outputs[start:end])
            if result is None:
                continue
            if result.index is not None or end - start == 1:
                at = start + (result.index or 0)
                found.append((at, result))
                parts = [(at + 1, end), (start, at)]
            else:
                middle = (start + end) // 2
                parts = [(middle, end), (start, middle)]
            ranges += [part for part in parts if part[0] < part[1]]
        return found

    def _probed(self, outputs: Sequence[tuple[int, Output]]) -> BadOutput | None:
        while True:
            result = self._transactions.probe(outputs)
            match result:
                case Committed():
                    return None
                case BadOutput():
                    return result
                case Forbidden():
                    raise self._forbidden(result)
                case Refused() | Unknown() | StaleMember():
                    self._transactions.renew()
                case _:
                    assert_never(result)
