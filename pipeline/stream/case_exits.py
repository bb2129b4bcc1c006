"""What the four stages write: cases on their way, decisions, the records of the side exits, and audit records of all.

Every record carries the identity of its event and its first position in headers, so that people and programs can
tell what it is about without decoding it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from pipeline.codec import Codec, event_headers
from pipeline.errors import FailureClass
from pipeline.outcome import Blocked, Next, Review
from pipeline.records import (
    Audit,
    BlockedItem,
    Case,
    Decision,
    Event,
    Headers,
    Position,
    ReviewItem,
    decision_id,
)
from pipeline.stream import auditing, output
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
        """The record and its audit record. EncodeError when a value does not fit the schema."""
        now_ms = round(self.clock.time() * 1000)
        audit = auditing.of_outcome(self.stage, outcome, now_ms)
        match outcome:
            case Next(record=record):
                if isinstance(record, Audit):
                    return (self._audited(delivery, audit),)
                about: Case | Decision = record
                topic, value = self.onward, self.codec.encode(record)
            case Review():
                review_id = decision_id(outcome.case.event, outcome.case.workflow, 1)
                item = ReviewItem(review_id, outcome.reasons, outcome.case, now_ms)
                topic, value, about = self.review, self.codec.encode(item), outcome.case
            case Blocked():
                topic, about = self.blocked, outcome.case
                value = self.codec.encode(BlockedItem(outcome.control, outcome.case))
            case _:
                assert_never(outcome)
        headers = envelope(delivery) + stamped(about.origin, about.release)
        return (Output(topic, delivery.key, value, headers), self._audited(delivery, audit))

    def duplicate(self, delivery: Delivery, now_s: float) -> tuple[Output, ...]:
        """The audit record of a repeat that is dropped."""
        origin = origin_of(delivery, self.source)
        audit = Audit(self.stage, "duplicate", delivery.record.identity, origin, round(now_s * 1000), NO_DETAIL)
        return (self._audited(delivery, audit),)

    def superseded(self, delivery: Delivery, outcome: Next, now_s: float) -> tuple[Output, ...]:
        """The audit record of an outcome that came second."""
        return (self._audited(delivery, auditing.of_superseded(self.stage, outcome, round(now_s * 1000))),)

    def dead(self, delivery: Delivery, cause: str, failure: FailureClass, now_s: float) -> tuple[Output, ...]:
        """The audit record of a dead letter."""
        return (self._audited(delivery, auditing.of_dead(self.stage, delivery, cause, failure, round(now_s * 1000))),)

    def _audited(self, delivery: Delivery, audit: Audit) -> Output:
        if delivery.track.source != self.source:  # whoever wrote it can find out by its position what became of it
            place = f"{delivery.track.partition}:{delivery.source_offset}"
            audit = replace(audit, detail={**audit.detail, auditing.VERDICT: place})
        headers = envelope(delivery) + stamped(audit.origin, "")
        return Output(self.audit, delivery.key, self.codec.encode(audit), headers)


NO_DETAIL: Mapping[str, str] = {}


def envelope(delivery: Delivery) -> Headers:
    """What names the event of a delivery on every record that is written about it."""
    kept = carried(delivery.headers)
    if not isinstance(delivery.record, Event):
        return kept
    # A structured event brings its attributes in its value, where no later reader would look for them.
    own = event_headers(delivery.record)
    names = {name for name, _ in own}
    return own + tuple(header for header in kept if header[0] not in names)


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
