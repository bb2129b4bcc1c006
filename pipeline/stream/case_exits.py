"""What the four stages write: cases on their way, decisions, and the records of the side exits.

Every record carries the identity of its event and its first position in headers, so that people and programs can
tell what it is about without decoding it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from pipeline.codec import Codec
from pipeline.outcome import Blocked, Next, Review
from pipeline.records import (
    Audit,
    BlockedItem,
    Case,
    Decision,
    Headers,
    Position,
    ReviewItem,
    decision_id,
    identity_text,
)
from pipeline.stream import output
from pipeline.stream.delivery import Delivery
from pipeline.stream.output import Output
from pipeline.stream.window import Clock


@dataclass(frozen=True, slots=True)
class CaseExits:
    """The exits of one stage. Topics are physical names."""

    codec: Codec
    stage: str
    source: str
    """The input topic's name as topics.yaml has it."""
    onward: str
    review: str
    blocked: str
    audit: str
    clock: Clock

    def on(self, delivery: Delivery, outcome: Next | Review | Blocked) -> tuple[Output, ...]:
        """One record. EncodeError when its value does not fit the schema."""
        match outcome:
            case Next(record=record):
                if isinstance(record, Audit):
                    return (self._audited(delivery, record),)
                about: Case | Decision = record
                topic, value = self.onward, self.codec.encode(record)
            case Review():
                item = ReviewItem(
                    review_id=decision_id(outcome.case.event, outcome.case.workflow, 1),
                    reasons=outcome.reasons,
                    case=outcome.case,
                    created_ms=round(self.clock.time() * 1000),
                )
                topic, value, about = self.review, self.codec.encode(item), outcome.case
            case Blocked():
                topic, about = self.blocked, outcome.case
                value = self.codec.encode(BlockedItem(outcome.control, outcome.case))
            case _:
                assert_never(outcome)
        headers = carried(delivery.headers) + stamped(about.origin, about.release)
        return (Output(topic, delivery.key, value, headers),)

    def duplicate(self, delivery: Delivery, now_s: float) -> tuple[Output, ...]:
        """The audit record of a repeat that is dropped."""
        origin = origin_of(delivery, self.source)
        audit = Audit(self.stage, "duplicate", delivery.record.identity, origin, round(now_s * 1000), NO_DETAIL)
        return (self._audited(delivery, audit),)

    def superseded(self, delivery: Delivery, outcome: Next, now_s: float) -> tuple[Output, ...]:
        """The audit record of an outcome that came second."""
        about = outcome.record
        if isinstance(about, Audit):
            identity = about.identity
        elif isinstance(about, Decision):
            identity = identity_text(about.source, about.event_id)
        else:
            identity = about.event.identity
        detail = {"once": outcome.once or ""}
        audit = Audit(self.stage, "superseded", identity, about.origin, round(now_s * 1000), detail)
        return (self._audited(delivery, audit),)

    def _audited(self, delivery: Delivery, audit: Audit) -> Output:
        headers = carried(delivery.headers) + stamped(audit.origin, "")
        return Output(self.audit, delivery.key, self.codec.encode(audit), headers)


NO_DETAIL: Mapping[str, str] = {}


def carried(headers: Headers) -> Headers:
    """The headers that go along with an event through every stage: its CloudEvents envelope and its trace."""
    return tuple(
        header for header in headers if header[0].startswith("ce_") or header[0] in ("traceparent", "tracestate")
    )


def stamped(origin: Position, release: str) -> Headers:
    """Where the event lay first, and the release that judges it (none yet: empty)."""
    return (
        (output.ORIGIN_PARTITION, b"%d" % origin.partition),
        (output.ORIGIN_OFFSET, b"%d" % origin.offset),
        (output.ORIGIN_TIMESTAMP, b"%d" % origin.timestamp_ms),
        (output.RELEASE, release.encode()),
    )


def origin_of(delivery: Delivery, source: str) -> Position:
    """The position of a record in the input topic, also when it was read from the retry topic."""
    return Position(source, delivery.track.partition, delivery.source_offset, delivery.source_timestamp_ms)
