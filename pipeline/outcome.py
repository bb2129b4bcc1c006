"""What a step may decide about a record: a closed set, so that nothing passes by accident.

Every place that handles an `Outcome` ends in `assert_never`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from pipeline.errors import FailureClass
from pipeline.records import Audit, Case, Decision


@dataclass(frozen=True, slots=True)
class Next:
    """The record goes on. `record` is encoded for the stage's output topic; an Audit for the audit topic.

    `once` is a name that may be used a single time: when an earlier record of the stage used it, this one is
    dropped and audited as `superseded`. The stage must have a state to remember it.
    """

    record: Case | Decision | Audit
    once: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the same record again. `after_s` is a lower bound in seconds; None leaves it to the backoff."""

    cause: str
    after_s: float | None = None
    failure: FailureClass = FailureClass.TRANSIENT


@dataclass(frozen=True, slots=True)
class Review:
    """A person must judge. `case` is what the reviewer will be shown."""

    reasons: tuple[str, ...]
    case: Case


@dataclass(frozen=True, slots=True)
class Dead:
    """The machine failed on this record. Its bytes go to the dead letters."""

    cause: str
    failure: FailureClass = FailureClass.PERMANENT


@dataclass(frozen=True, slots=True)
class Blocked:
    """A control said no. The case is kept with the control's name."""

    control: str
    case: Case


Outcome: TypeAlias = Next | Retry | Review | Dead | Blocked
