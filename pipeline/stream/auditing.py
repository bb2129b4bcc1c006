"""What a stage writes down about an event when it is finished with it: one small record, in the same transaction.

`kind` says how it ended: enriched, inferred, validated or decided when it went on, else review, blocked, dead,
duplicate or superseded. `detail` holds ids, codes and numbers, never what the event or an answer says.
"""

from collections.abc import Mapping
from typing import assert_never

from pipeline.errors import FailureClass
from pipeline.outcome import Blocked, Next, Review
from pipeline.records import (
    Audit,
    Case,
    Decision,
    Event,
    Headers,
    Position,
    Verdict,
    decision_id,
    identity_text,
)
from pipeline.stream import output
from pipeline.stream.delivery import Delivery

ENTRANCE = "workflow-events"
VERDICT = "verdict"
"""In the detail of what a verdict brought about: the partition and offset at which it lies in review-verdicts."""


def of_outcome(stage: str, outcome: Next | Review | Blocked, at_ms: int) -> Audit:
    """The audit record of an event that left a stage alive."""
    match outcome:
        case Next(record=record):
            return _of_next(stage, record, at_ms)
        case Review(reasons=reasons, case=case):
            review_id = decision_id(case.event, case.workflow, 1)
            kind, detail = "review", {"review_id": review_id, "reasons": ",".join(reasons)}
        case Blocked(control=control, case=case):
            kind, detail = "blocked", {"control": control}
        case _:
            assert_never(outcome)
    return Audit(stage, kind, case.event.identity, case.origin, at_ms, detail)


def of_dead(stage: str, delivery: Delivery, cause: str, failure: FailureClass, at_ms: int) -> Audit:
    """The audit record of a record that became a dead letter, whatever is known of it."""
    detail = {"class": failure.value, "cause": output.cut(cause).decode()}
    origin = first_position(delivery)
    return Audit(stage, "dead", _identity(delivery, origin), origin, at_ms, detail)


def of_superseded(stage: str, outcome: Next, at_ms: int) -> Audit:
    """The audit record of an outcome that came second."""
    record = outcome.record
    detail = {"once": outcome.once or ""}
    if isinstance(record, Decision):
        detail |= {"action": record.action, "decided_by": record.decided_by}
    return Audit(stage, "superseded", identity_of(record), record.origin, at_ms, detail)


def identity_of(record: Case | Decision | Audit) -> str:
    """The identity of the event that a record is about."""
    match record:
        case Case():
            return record.event.identity
        case Decision():
            return identity_text(record.source, record.event_id)
        case Audit():
            return record.identity
        case _:
            assert_never(record)


def first_position(delivery: Delivery) -> Position:
    """Where the event of a record lay first: as the stage before wrote in its headers, else where it was read."""
    track = delivery.track
    here = Position(track.source, track.partition, delivery.source_offset, delivery.source_timestamp_ms)
    if track.source == ENTRANCE:
        return here  # whatever its publisher wrote into headers of our names
    said = dict(delivery.headers)
    try:
        partition, offset, timestamp_ms = (
            int(said[name] or b"") for name in (output.ORIGIN_PARTITION, output.ORIGIN_OFFSET, output.ORIGIN_TIMESTAMP)
        )
    except (KeyError, ValueError):
        return here
    return Position(ENTRANCE, partition, offset, timestamp_ms)


def _of_next(stage: str, record: Case | Decision | Audit, at_ms: int) -> Audit:
    match record:
        case Audit():
            return record
        case Decision():
            return Audit(stage, "decided", identity_of(record), record.origin, at_ms, _decided(record))
        case Case():
            kind, detail = _progress(record)
            return Audit(stage, kind, record.event.identity, record.origin, at_ms, detail)
        case _:
            assert_never(record)


def _progress(case: Case) -> tuple[str, Mapping[str, str]]:
    if case.checks:
        failed = (f"{result.check}:{result.verdict}" for result in case.checks if result.verdict is not Verdict.PASS)
        return "validated", {"checks": str(len(case.checks)), "not_passed": ",".join(failed)}
    if case.inference is not None:
        inference = case.inference
        confidence = "" if inference.confidence is None else f"{inference.confidence:g}"
        return "inferred", {"provider": inference.provider, "model": inference.model, "confidence": confidence}
    return "enriched", {"workflow": case.workflow, "release": case.release}


def _decided(decision: Decision) -> Mapping[str, str]:
    detail = {
        "decision_id": decision.decision_id,
        "revision": str(decision.revision),
        "action": decision.action,
        "decided_by": decision.decided_by,
        "reasons": ",".join(decision.reasons),
    }
    return detail if decision.supersedes is None else detail | {"supersedes": decision.supersedes}


def _identity(delivery: Delivery, origin: Position) -> str:
    record = delivery.record
    if isinstance(record, Event):
        return record.identity
    if isinstance(record, Case | Decision):
        return identity_of(record)
    return identity_in(delivery.headers) or f"{origin.topic}-{origin.partition}-{origin.offset}"


def identity_in(headers: Headers) -> str | None:
    """The identity that headers name; None when they name none, or not in UTF-8."""
    said = dict(headers)
    try:
        source, event_id = (said["ce_source"] or b"").decode(), (said["ce_id"] or b"").decode()
    except (KeyError, UnicodeDecodeError):
        return None
    return identity_text(source, event_id) if source and event_id else None
