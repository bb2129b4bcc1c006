"""The values that travel: an event as published, and the case that grows around it stage by stage.

Free-form parts (the event's data, a context value, a model's answer) are plain JSON values. On the wire
they are JSON text inside an Avro field, so that adding a workflow changes no schema of ours.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]
"""In order, names may repeat; None and b"" are two things to Kafka, and stay two."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record lies: topic (as named in topics.yaml, without prefix), partition, offset, broker time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Event:
    """A workflow event as its publisher meant it. Identity is (source, id)."""

    source: str
    id: str
    type: str
    subject: str | None
    time: str | None
    data: dict[str, Json]

    @property
    def identity(self) -> str:
        """One text for (source, id), unambiguous whatever either holds."""
        return identity_text(self.source, self.id)


@dataclass(frozen=True, slots=True)
class ContextField:
    """One fact fetched for an event, with where it came from and how old it was (None: age unknown)."""

    name: str
    value: Json
    source: str
    age_ms: int | None


@dataclass(frozen=True, slots=True)
class Inference:
    """What a provider answered. `confidence` lies in [0, 1]; None where the provider has none to give."""

    provider: str
    model: str
    answer: dict[str, Json]
    confidence: float | None
    confidence_source: str
    latency_ms: float


class Verdict(StrEnum):
    """The four values of a check. Only PASS lets an answer through."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    ABSTAIN = "abstain"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check said, with a reason code that people and programs can read."""

    check: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """An event with all that the stages have learned of it. Each stage returns a larger copy."""

    event: Event
    origin: Position
    workflow: str
    release: str
    context: tuple[ContextField, ...] = ()
    inference: Inference | None = None
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The published answer for one event. `decision_id` does not depend on the answer."""

    decision_id: str
    revision: int
    supersedes: str | None
    source: str
    event_id: str
    subject: str | None
    workflow: str
    release: str
    action: str
    answer: dict[str, Json]
    confidence: float | None
    reasons: tuple[str, ...]
    decided_by: str
    origin: Position


@dataclass(frozen=True, slots=True)
class Audit:
    """One thing that happened to one event, as a stage saw it."""

    stage: str
    kind: str
    identity: str
    origin: Position
    at_ms: int
    detail: Mapping[str, str]


def identity_text(source: str, event_id: str) -> str:
    """One text for (source, id); the length in front keeps ("a/b", "c") and ("a", "b/c") apart."""
    return f"{len(source)}:{source}/{event_id}"


def decision_id(event: Event, workflow: str, revision: int) -> str:
    """Hash of (identity, workflow, revision): 32 hex digits, equal for equal arguments on every machine."""
    return revision_id(event.identity, workflow, revision)


def revision_id(identity: str, workflow: str, revision: int) -> str:
    """The same, where the identity is at hand and the event is not."""
    return sha256(f"{identity}\n{workflow}\n{revision}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One open question to people: why a machine may not answer alone, and all that is known of the case."""

    review_id: str
    reasons: tuple[str, ...]
    case: Case
    created_ms: int


@dataclass(frozen=True, slots=True)
class BlockedItem:
    """A case that a control stopped, kept with the name of that control."""

    control: str
    case: Case


NO_ACTION = "none"
"""The action of a decision that lets nothing happen. Always permitted, whatever a workflow allows."""


class VerdictKind(StrEnum):
    """What a person, or the clock, said about an item."""

    APPROVE = "approve"  # the proposed answer is right
    MODIFY = "modify"  # another answer is
    REJECT = "reject"  # nothing shall happen
    EXPIRE = "expire"  # nobody answered in time, which is not a rejection
    CORRECT = "correct"  # a decision was wrong: a new revision of it


@dataclass(frozen=True, slots=True)
class ReviewVerdict:
    """What was said about one item, with the item itself, so that it can be judged without looking anything up."""

    review_id: str
    """Of the review; for a correction, the decision_id of the decision that was wrong."""
    kind: VerdictKind
    answer: dict[str, Json] | None
    """The whole answer, for MODIFY and CORRECT."""
    reviewer: str | None
    """None for the clock."""
    reason: str
    decided_ms: int
    revision: int
    """Of the decision that it makes: 1 for a review, one more than before for a correction."""
    item: str
    """The value of the human-review record (for a correction: of the decision) as it lay, in base64."""
    digest: str
    """SHA-256 of those bytes, in hex."""

    @property
    def item_bytes(self) -> bytes:
        """The item as it lay. ValueError when `item` is no base64 or does not fit the digest."""
        content = b64decode(self.item, validate=True)
        if sha256(content).hexdigest() != self.digest:
            raise ValueError("the item is not the one that was digested")
        return content


def enclosed(item: bytes) -> tuple[str, str]:
    """An item as a verdict carries it: in base64, and its digest."""
    return b64encode(item).decode(), sha256(item).hexdigest()


class OutcomeKind(StrEnum):
    """What became of a decision downstream."""

    EXECUTED = "executed"
    REJECTED = "rejected"  # downstream refused it
    REVERSED = "reversed"  # done, and taken back
    REWORKED = "reworked"  # done again, differently


@dataclass(frozen=True, slots=True)
class DecisionOutcome:
    """What a downstream system reports of one decision."""

    decision_id: str
    revision: int
    outcome: OutcomeKind
    cost: float | None
    """In the currency that the workflow's owner counts in; None when it is not known."""
    at_ms: int
    reported_by: str
