"""What becomes of a failed attempt, and which keys are parked.

One pure function decides, from the attempt, the time of the first failure and the time now: again in the lane,
parked in the retry topic, or exhausted. Jitter comes from an injected source of randomness.
"""

from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from pipeline.stream.limits import RetryLimits


@dataclass(frozen=True, slots=True)
class Again:
    """Try again in the same lane after `delay_s` seconds; later records of the key wait behind it."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Park:
    """Move the record to the retry topic; later records of its key will follow it there."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A ceiling is reached: the record becomes a dead letter. `ceiling` names it."""

    ceiling: str


RetryDecision: TypeAlias = Again | Park | Exhausted


def after_failure(
    limits: RetryLimits,
    *,
    attempt: int,
    first_failure_s: float,
    now_s: float,
    after_s: float | None,
    parked: bool,
    lane_has_room: bool,
    random: Random,
) -> RetryDecision:
    """Decides about a record that just failed its `attempt`-th time (from 1).

    `after_s` is what the provider asked for (Retry-After): the pause is never shorter. `parked` says that the
    record was read from the retry topic, where it is tried until a ceiling. Times are seconds on one clock.
    """
    if attempt >= limits.attempts:
        return Exhausted(f"attempts: {attempt} of {limits.attempts}")
    delay = pause(limits, attempt, random)
    if after_s is not None:
        delay = max(delay, after_s)
    if now_s + delay - first_failure_s > limits.ceiling_s:
        return Exhausted(f"time: the next attempt would be later than {limits.ceiling_s:g} s after the first failure")
    if not parked and (attempt >= limits.lane_attempts or not lane_has_room):
        return Park()
    return Again(delay)


def pause(limits: RetryLimits, attempt: int, random: Random) -> float:
    """Exponential backoff with proportional jitter, in seconds, for the pause after the `attempt`-th failure.

    Never above the cap: the jitter is part of the pause.
    """
    # Beyond 2**62 the cap has long won; the bound keeps the power a machine number.
    delay = min(limits.cap_s, limits.base_s * 2.0 ** min(attempt - 1, 62))
    return min(limits.cap_s, delay * (1 + limits.jitter * (2 * random.random() - 1)))


class ParkedKeys:
    """How many records of each key lie in the retry topic and are not done, for one partition.

    While a key counts here, its new records are sent after the parked ones instead of being worked on.
    """

    __slots__ = ("_counts", "total")

    def __init__(self, counts: dict[bytes, int] | None = None, unkeyed: int = 0) -> None:
        self._counts = dict(counts or {})
        self.total = sum(self._counts.values()) + unkeyed

    def __contains__(self, key: object) -> bool:
        return key in self._counts

    def add(self, key: bytes | None) -> None:
        """One more record of this key went to the retry topic. Records without a key are only counted."""
        self.total += 1
        if key is not None:
            self._counts[key] = self._counts.get(key, 0) + 1

    def remove(self, key: bytes | None) -> None:
        """One record of this key in the retry topic is done. One that was never counted is not counted now."""
        if key is None:
            self.total -= 1
        elif key in self._counts:
            self.total -= 1
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    @property
    def keys(self) -> frozenset[bytes]:
        """The keys that are parked now."""
        return frozenset(self._counts)
