"""The limits of one stage, and what happens at each of them.

Every number bounds something that would otherwise grow: memory, work in flight, retries, waiting.
"""

from dataclasses import dataclass, field
from math import isfinite

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How a failed record is tried again. Both ceilings are mandatory: an endless retry is a lost record."""

    base_s: float = 0.2
    """Pause before the second attempt, in seconds; it doubles with every attempt."""
    cap_s: float = 30.0
    """No pause is longer than this, unless the provider asked for more."""
    jitter: float = 0.2
    """Each pause is drawn from [pause * (1 - jitter), pause * (1 + jitter)]."""
    lane_attempts: int = 3
    """Attempts in the lane. Then the record and the later ones of its key are parked in the retry topic."""
    lane_keys: int = 64
    """Keys of one partition that may wait in their lanes for another attempt. The next one is parked at once."""
    attempts: int = 12
    """Attempts in all. The next failure is a dead letter."""
    ceiling_s: float = 900.0
    """Seconds from the first failure. The next failure after it is a dead letter."""

    def __post_init__(self) -> None:
        _refuse_below(self, 1, "lane_attempts", "attempts")
        _refuse_below(self, 0, "lane_keys")
        _refuse_unbounded(self, "base_s", "cap_s", "ceiling_s")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter must lie in [0, 1), not {self.jitter!r}")
        if self.base_s > self.cap_s:
            raise ConfigError(f"base_s ({self.base_s}) must not exceed cap_s ({self.cap_s})")


@dataclass(frozen=True, slots=True)
class StageLimits:
    """The limits of one stage in one process. At a limit the partition pauses and lag grows; nothing is dropped."""

    partition_records: int = 8_000
    """Records of one partition read and not yet committed. At the limit the partition pauses, below half it resumes."""
    partition_bytes: int = 16 * 1024 * 1024
    """Bytes (keys, values, headers) of one partition read and not yet committed."""
    total_records: int = 16_000
    """Records of all partitions of the stage in this process."""
    total_bytes: int = 64 * 1024 * 1024
    """Bytes of all partitions of the stage in this process."""
    retry_records: int = 500
    """Records of one partition's retry topic held at a time: a budget of their own, so that the sick starve nobody."""
    batch_records: int = 500
    """Records taken from the client in one hand-over: the overshoot of every limit above."""
    deadline_s: float = 600.0
    """A step that works longer on one record is cancelled, and the record is retried."""
    round_s: float = 0.1
    """The longest pause between two commit rounds while work is finished."""
    round_records: int = 5_000
    """Finished records that one transaction takes; the rest wait for the next round."""
    revoke_grace_s: float = 3.0
    """How long a rebalance waits for work in flight. What is not done by then is done again by the next owner."""
    stop_grace_s: float = 5.0
    """The same at shutdown."""
    session_timeout_s: float = 10.0
    """A process that is silent for this long loses its partitions."""
    transaction_timeout_s: float = 10.0
    """The broker aborts a transaction that is open longer than this."""
    identities: int = 200_000
    """Identities remembered per partition to recognise repeats, of 200 bytes. The oldest are forgotten first."""
    identity_horizon_s: float = 7 * 24 * 3600.0
    """Seconds after which a repeat of an identity is taken for a new event."""
    retry: RetryLimits = field(default_factory=RetryLimits)

    def __post_init__(self) -> None:
        _refuse_below(
            self,
            1,
            "partition_records",
            "partition_bytes",
            "total_records",
            "total_bytes",
            "retry_records",
            "batch_records",
            "round_records",
            "identities",
        )
        _refuse_unbounded(self, "deadline_s", "session_timeout_s", "transaction_timeout_s", "identity_horizon_s")
        _refuse_unbounded(self, "round_s", "revoke_grace_s", "stop_grace_s", zero=True)
        if self.transaction_timeout_s <= self.round_s + self.revoke_grace_s:
            raise ConfigError(
                f"transaction_timeout_s ({self.transaction_timeout_s}) must exceed round_s + revoke_grace_s "
                f"({self.round_s + self.revoke_grace_s}): a transaction must outlive a revoke"
            )


def _refuse_below(limits: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(limits, name)
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be a whole number, at least {least}, not {value!r}")


def _refuse_unbounded(limits: object, *names: str, zero: bool = False) -> None:
    for name in names:
        value = getattr(limits, name)
        if not isfinite(value) or value < 0 or (value == 0 and not zero):
            raise ConfigError(f"{name} must be a finite number of seconds{'' if zero else ' above 0'}, not {value!r}")
