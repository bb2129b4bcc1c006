"""Our values as the plain dicts that fastavro writes and reads. A contract test holds them to the schemas."""

from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

from pipeline.codec.json_text import load
from pipeline.records import (
    Audit,
    BlockedItem,
    Case,
    CheckResult,
    ContextField,
    Decision,
    Event,
    Inference,
    Json,
    Position,
    ReviewItem,
    Verdict,
)

Dump: TypeAlias = Callable[[Json], str]

_VERDICTS = {verdict.value: verdict for verdict in Verdict}


def to_avro(value: Case | Decision | ReviewItem | BlockedItem | Audit, dump: Dump) -> dict[str, Any]:
    """The plain form of a value. `dump` writes its JSON parts."""
    match value:
        case Case():
            return _case(value, dump)
        case Decision():
            return _decision(value, dump)
        case Audit():
            return {
                "stage": value.stage,
                "kind": value.kind,
                "identity": value.identity,
                "origin": _position(value.origin),
                "at_ms": value.at_ms,
                "detail": dict(value.detail),
            }
        case ReviewItem():
            return {
                "review_id": value.review_id,
                "reasons": list(value.reasons),
                "case": _case(value.case, dump),
                "created_ms": value.created_ms,
            }
        case BlockedItem():
            return {"control": value.control, "case": _case(value.case, dump)}
        case _:
            assert_never(value)


def _position(value: Position) -> dict[str, Any]:
    return {
        "topic": value.topic,
        "partition": value.partition,
        "offset": value.offset,
        "timestamp_ms": value.timestamp_ms,
    }


def _case(value: Case, dump: Dump) -> dict[str, Any]:
    event, inference = value.event, value.inference
    return {
        "event": {
            "source": event.source,
            "id": event.id,
            "type": event.type,
            "subject": event.subject,
            "time": event.time,
            "data": dump(event.data),
        },
        "origin": _position(value.origin),
        "workflow": value.workflow,
        "release": value.release,
        "context": [
            {"name": field.name, "value": dump(field.value), "source": field.source, "age_ms": field.age_ms}
            for field in value.context
        ],
        "inference": None
        if inference is None
        else {
            "provider": inference.provider,
            "model": inference.model,
            "answer": dump(inference.answer),
            "confidence": inference.confidence,
            "confidence_source": inference.confidence_source,
            "latency_ms": inference.latency_ms,
        },
        "checks": [
            {"check": check.check, "verdict": check.verdict, "reason": check.reason} for check in value.checks
        ],
    }


def _decision(value: Decision, dump: Dump) -> dict[str, Any]:
    return {
        "decision_id": value.decision_id,
        "revision": value.revision,
        "supersedes": value.supersedes,
        "source": value.source,
        "event_id": value.event_id,
        "subject": value.subject,
        "workflow": value.workflow,
        "release": value.release,
        "action": value.action,
        "answer": dump(value.answer),
        "confidence": value.confidence,
        "reasons": list(value.reasons),
        "decided_by": value.decided_by,
        "origin": _position(value.origin),
    }


def _object(text: str) -> dict[str, Json]:
    value = load(text)
    if not isinstance(value, dict):
        raise TypeError("a JSON object was expected")
    return value


def case(plain: dict[str, Any]) -> Case:
    """The case of its plain form."""
    event, inference = plain["event"], plain["inference"]
    return Case(
        event=Event(
            event["source"],
            event["id"],
            event["type"],
            event["subject"],
            event["time"],
            _object(event["data"]),
        ),
        origin=Position(**plain["origin"]),
        workflow=plain["workflow"],
        release=plain["release"],
        context=tuple(
            [ContextField(f["name"], load(f["value"]), f["source"], f["age_ms"]) for f in plain["context"]]
        ),
        inference=None
        if inference is None
        else Inference(
            inference["provider"],
            inference["model"],
            _object(inference["answer"]),
            inference["confidence"],
            inference["confidence_source"],
            inference["latency_ms"],
        ),
        checks=tuple(
            [CheckResult(c["check"], _VERDICTS[c["verdict"]], c["reason"]) for c in plain["checks"]]
        ),
    )


def decision(plain: dict[str, Any]) -> Decision:
    """The decision of its plain form."""
    return Decision(
        **{
            **plain,
            "answer": _object(plain["answer"]),
            "reasons": tuple(plain["reasons"]),
            "origin": Position(**plain["origin"]),
        }
    )


def review(plain: dict[str, Any]) -> ReviewItem:
    """The review item of its plain form."""
    return ReviewItem(plain["review_id"], tuple(plain["reasons"]), case(plain["case"]), plain["created_ms"])


def blocked(plain: dict[str, Any]) -> BlockedItem:
    """The blocked item of its plain form."""
    return BlockedItem(plain["control"], case(plain["case"]))


def audit(plain: dict[str, Any]) -> Audit:
    """The audit record of its plain form."""
    return Audit(**{**plain, "origin": Position(**plain["origin"])})
