"""The whole story of one event, put together from the topics: every record about it, in the order of time.

An event is named by its id, by a decision or review of it, or, when nobody can read it, by its position in
workflow-events (`workflow-events-3-17`, as audit records name it).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from confluent_kafka import Message

from pipeline.codec import Codec
from pipeline.codec.entrance import CONTENT_TYPE, STRUCTURED
from pipeline.config import Settings
from pipeline.errors import DecodeError
from pipeline.records import (
    Audit,
    BlockedItem,
    Case,
    Decision,
    DecisionOutcome,
    Event,
    Headers,
    ReviewItem,
    ReviewVerdict,
    identity_text,
)
from pipeline.stream import output
from pipeline.stream.reading import sweep
from pipeline.topics import STAGES, VERDICTS, load_topics

ENTRANCE, OUTCOMES, DEAD, AUDIT = "workflow-events", "decision-outcomes", "dead-letter", "audit"
RETRIES = tuple(f"retry-{stage}" for stage in STAGES)
# In the order in which they are written for one event: records of one millisecond are shown in this order.
ORDER = (
    ENTRANCE, "retry-enrichment", "workflow-enriched", "retry-inference", "workflow-inferred", "retry-validation",
    "workflow-validated", "retry-routing", "human-review", VERDICTS, "decisions", "blocked", DEAD, AUDIT, OUTCOMES,
)  # fmt: skip
_SEARCHED = ORDER[:-1]  # what downstream systems write is keyed by the decision, so it is read at the end

Value: TypeAlias = Event | Case | Decision | ReviewItem | ReviewVerdict | BlockedItem | Audit | DecisionOutcome


@dataclass(frozen=True, slots=True)
class Trace:
    """One record about the event. `topic` is its name in topics.yaml; `value` is None where nobody can read it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    value: Value | None

    @property
    def place(self) -> str:
        """Partition and offset."""
        return f"{self.partition}:{self.offset}"

    def header(self, name: str) -> str | None:
        """A header as text; the last one of a name counts, as ours stand behind those of the record."""
        found = next((content for said, content in reversed(self.headers) if said == name), None)
        return None if found is None else found.decode(errors="replace")


@dataclass(slots=True)
class Story:
    """All records about one event, oldest first."""

    source: str | None
    """None, as `event_id`, when the event cannot be read."""
    event_id: str | None
    traces: list[Trace] = field(default_factory=list)

    def of(self, kind: "type[Value] | tuple[type[Value], ...]") -> list[Any]:
        """The values of a kind, oldest first."""
        return [trace.value for trace in self.traces if isinstance(trace.value, kind)]

    @property
    def case(self) -> Case | None:
        """The case as far as it got: the newest that was written down."""
        found: Case | None = None
        for value in self.of((Case, ReviewItem, BlockedItem)):
            case = value if isinstance(value, Case) else value.case
            if found is None or _weight(case) >= _weight(found):
                found = case
        return found

    @property
    def event(self) -> Event | None:
        """The event as it was published, or as the case kept it."""
        events = self.of(Event)
        if events:
            return events[0]  # type: ignore[no-any-return]
        return None if self.case is None else self.case.event

    @property
    def letters(self) -> list[Trace]:
        """Dead letters of the event itself; those of verdicts about it are none."""
        return [trace for trace in self.traces if trace.topic == DEAD and trace.header(output.SOURCE_TOPIC) != VERDICTS]

    @property
    def place(self) -> str:
        """Where the event is now, in the words of `lockgate demo`."""
        if self.of(Decision):
            return "decision"
        if self.of(BlockedItem):
            return "blocked"
        if any(trace.topic == "human-review" for trace in self.traces):
            return "open_review"
        if self.letters:
            return "dead_letter"
        if any(audit.kind == "duplicate" for audit in self.of(Audit)) and self.case is None:
            return "duplicate"
        newest = next((trace for trace in reversed(self.traces) if trace.topic != AUDIT), None)
        return "waiting_retry" if newest is not None and newest.topic in RETRIES else "on_the_way"

    @property
    def judged(self) -> list[tuple[Trace, Audit | None]]:
        """Every verdict of people and of the clock, with what routing made of it (None: nothing yet)."""
        by_place = {audit.detail["verdict"]: audit for audit in self.of(Audit) if "verdict" in audit.detail}
        return [(trace, by_place.get(trace.place)) for trace in self.traces if trace.topic == VERDICTS]


@dataclass(frozen=True, slots=True)
class Several:
    """More than one event is named so: (source, id) of each."""

    events: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """No record is named so in any of these topics."""

    searched: tuple[str, ...]


def explain(
    settings: Settings,
    codec: Codec,
    name: str,
    source: str | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Story | Several | Nothing:
    """The story of the event that `name` stands for: an event id, decision id, review id or position.

    `source` chooses between publishers who use one id. Reads every topic to its end (read_committed). Raises
    BrokerUnavailable and ConfigError as `sweep` does.
    """
    finder = _Finder(settings, codec, advance)
    if (position := re.fullmatch(rf"{ENTRANCE}-(\d+)-(\d+)", name)) is not None:
        at = int(position[1]), int(position[2])
        story = finder.story(lambda trace: _first_position(trace) == at, None, None, at[0])
        return story if story.traces else Nothing((*_SEARCHED, OUTCOMES))
    named: dict[tuple[str, str], int] = {}
    for trace in finder.traces(name.encode()):
        identity = _identity(trace)
        if identity is not None and name in _names(trace, identity) and source in (None, identity[0]):
            named[identity] = trace.partition
    if not named:
        return Nothing((*_SEARCHED, OUTCOMES))
    if len(named) > 1:
        return Several(tuple(sorted(named)))
    [(identity, partition)] = named.items()
    return finder.story(lambda trace: _identity(trace) == identity, *identity, partition)


class _Finder:
    """Reads the topics of an environment, and decodes what may be about the event."""

    def __init__(self, settings: Settings, codec: Codec, advance: Callable[[int], None]) -> None:
        self._settings = settings
        self._topics = load_topics()
        self._advance = advance
        self._decode: Mapping[str, Callable[[bytes], Value]] = {
            "workflow-enriched": codec.decode_case,
            "workflow-inferred": codec.decode_case,
            "workflow-validated": codec.decode_case,
            "human-review": codec.decode_review,
            VERDICTS: codec.decode_verdict,
            "decisions": codec.decode_decision,
            "blocked": codec.decode_blocked,
            AUDIT: codec.decode_audit,
            OUTCOMES: codec.decode_outcome,
        }
        self._codec = codec

    def traces(self, needle: bytes) -> Iterable[Trace]:
        """Records that hold these bytes anywhere: the first, quick look at everything."""
        for message in self._sweep(_SEARCHED, None):
            if _may_mention(message, needle):
                yield self._trace(message)

    def story(
        self, is_about: Callable[[Trace], bool], source: str | None, event_id: str | None, partition: int
    ) -> Story:
        """All traces of one event. They lie in one partition, but for what downstream systems wrote."""
        story = Story(source, event_id)
        needle = (event_id or "").encode()
        for message in self._sweep(_SEARCHED, partition):
            # Only what may be meant is decoded: most records of a partition are about other events.
            if _may_mention(message, needle):
                trace = self._trace(message)
                if is_about(trace):
                    story.traces.append(trace)
        decided = {decision.decision_id.encode() for decision in story.of(Decision)}
        if decided:
            for message in self._sweep((OUTCOMES,), None):
                if message.key() in decided:
                    story.traces.append(self._trace(message))
        rank = {topic: number for number, topic in enumerate(ORDER)}
        story.traces.sort(key=lambda trace: (trace.timestamp_ms, _stage(trace), rank[trace.topic], trace.offset))
        return story

    def _sweep(self, topics: Iterable[str], partition: int | None) -> Iterable[Message]:
        physical = [self._topics.physical(self._settings.environment, topic) for topic in topics]
        for message in sweep(self._settings, physical, partition):
            self._advance(1)
            yield message

    def _trace(self, message: Message) -> Trace:
        topic = self._topics.logical(self._settings.environment, message.topic())
        assert topic is not None, "only topics of ours are read"
        trace = Trace(
            topic,
            message.partition(),
            message.offset(),
            message.timestamp()[1],
            message.key(),
            _headers(message),
            None,
        )
        return replace(trace, value=self._value(trace, message.value()))

    def _value(self, trace: Trace, value: bytes | None) -> Value | None:
        written_to = _lay_in(trace)
        try:
            if written_to == ENTRANCE:
                return self._codec.decode_event(value, _own(trace.headers), trace.key)
            decode = self._decode.get(written_to or "")
            return None if decode is None else decode(value or b"")
        except DecodeError:
            return None


def _headers(message: Message) -> Headers:
    try:
        return tuple(message.headers() or ())
    except UnicodeDecodeError:  # a name that is no UTF-8, which the client cannot show
        return ()


def _may_mention(message: Message, needle: bytes) -> bool:
    """Whether a record could be about what is named so. A structured event may spell its name with escapes."""
    if needle in (message.value() or b""):
        return True
    return any(
        needle in (content or b"") or (name.lower() == CONTENT_TYPE and STRUCTURED.encode() in (content or b""))
        for name, content in _headers(message)
    )


def _weight(case: Case) -> int:
    return (case.inference is not None) + bool(case.checks)


def _lay_in(trace: Trace) -> str | None:
    """The topic that a record was read from when it was put aside."""
    return trace.header(output.SOURCE_TOPIC) if trace.topic == DEAD or trace.topic in RETRIES else trace.topic


def _own(headers: Headers) -> Headers:
    """The headers of a record itself, without those that a stage added when it put the record aside."""
    names = [name for name, _ in headers]
    if output.SOURCE_TOPIC not in names:
        return headers
    return headers[: len(names) - 1 - names[::-1].index(output.SOURCE_TOPIC)]


def _identity(trace: Trace) -> tuple[str, str] | None:
    """(source, id) of the event that a record is about: as its value says, else its headers."""
    match trace.value:
        case Event(source=source, id=event_id) | Decision(source=source, event_id=event_id):
            return source, event_id
        case Case(event=event) | ReviewItem(case=Case(event=event)) | BlockedItem(case=Case(event=event)):
            return event.source, event.id
    named = trace.header("ce_source"), trace.header("ce_id")
    return (named[0], named[1]) if named[0] and named[1] else None


def _names(trace: Trace, identity: tuple[str, str]) -> set[str]:
    """What people may call the event, by what this record says of it."""
    names = {identity[1], identity_text(*identity)}
    match trace.value:
        case Decision(decision_id=decision_id):
            names.add(decision_id)
        case ReviewItem(review_id=review_id):
            names.add(review_id)
        case Audit(detail=detail):
            names |= {detail[name] for name in ("decision_id", "review_id") if name in detail}
    return names


def _first_position(trace: Trace) -> tuple[int, int] | None:
    """Partition and offset in workflow-events of what a record is about."""
    if trace.topic == ENTRANCE:
        return trace.partition, trace.offset
    if isinstance(trace.value, Audit):
        return trace.value.origin.partition, trace.value.origin.offset
    names = (output.SOURCE_PARTITION, output.SOURCE_OFFSET)
    if _lay_in(trace) != ENTRANCE:
        names = (output.ORIGIN_PARTITION, output.ORIGIN_OFFSET)
    partition, offset = trace.header(names[0]) or "", trace.header(names[1]) or ""
    return (int(partition), int(offset)) if partition.isdecimal() and offset.isdecimal() else None


def _stage(trace: Trace) -> int:
    """The stage that wrote a record, by its number; the publisher is before all of them."""
    match trace.value:
        case Audit(stage=stage) if stage in STAGES:
            return STAGES.index(stage)
    by_topic = {"workflow-enriched": 0, "workflow-inferred": 1, "workflow-validated": 2}
    if trace.topic in by_topic:
        return by_topic[trace.topic]
    if trace.topic in RETRIES:
        return RETRIES.index(trace.topic)
    if trace.topic == ENTRANCE:
        return -1
    written_by = trace.header(output.STAGE)
    return STAGES.index(written_by) if written_by in STAGES else len(STAGES) - 1
