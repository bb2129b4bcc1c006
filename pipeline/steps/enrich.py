"""Enrichment: finds the workflow of an event, stamps its release, and adds what is known around it.

The release is stamped here, once. Every later stage works by the stamped release and no other. What the workflow
requires to be known is required here, before any call that costs money.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from pipeline.outcome import Dead, Next, Outcome, Review
from pipeline.records import Case, ContextField, Event, Json, Position
from pipeline.workflow import CONTEXT_NOTES, SUBJECT, ContextRule, DataField, Workflow


@dataclass(frozen=True, slots=True)
class Found:
    """What a source holds under a key, since when (None: it cannot tell), and where exactly it lies."""

    value: dict[str, Json]
    timestamp_ms: int | None
    place: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The source holds nothing under the key, or the event brought no key."""

    place: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The source holds something under the key that is no JSON object."""

    timestamp_ms: int | None
    place: str


LookedUp: TypeAlias = Found | Missing | Unreadable


def enrich(
    event: Event,
    origin: Position,
    workflows: Mapping[str, Workflow],
    looked_up: Mapping[str, LookedUp],
    now_ms: int,
) -> Outcome:
    """The event as a case of its workflow. `workflows` is keyed by event type, `looked_up` by the names of its context.

    Dead when no workflow takes the type, or the data lacks what the workflow needs. The cause names fields and
    types, never values: it is written to headers and logs. Review when required context is missing, too old,
    unreadable, incomplete or somebody else's, with one code for each: `context_stale:customer`. The same codes of
    optional context stand in the case, as the field `context_notes`; its value is None then.
    """
    workflow = workflows.get(event.type)
    if workflow is None:
        return Dead("unknown_event_type")
    faults = [
        fault
        for name, field in workflow.data.items()
        if (fault := _fault(name, field, event.data.get(name))) is not None
    ]
    if faults:
        return Dead("; ".join(faults))
    context, reasons = _context(event, workflow.context, looked_up, now_ms)
    case = Case(event, origin, workflow.name, workflow.release, context)
    return Review(reasons, case) if reasons else Next(case)


def referred(reference: str, event: Event, looked_up: Mapping[str, LookedUp]) -> str | None:
    """The text that a reference of the workflow stands for; None when there is none, or it is empty or no text."""
    name, dot, field = reference.partition(".")
    value: Json
    if dot:
        found = looked_up.get(name)
        value = found.value.get(field) if isinstance(found, Found) else None
    else:
        value = event.subject if name == SUBJECT else event.data.get(name)
    return value if isinstance(value, str) and value else None


def _context(
    event: Event, rules: tuple[ContextRule, ...], looked_up: Mapping[str, LookedUp], now_ms: int
) -> tuple[tuple[ContextField, ...], tuple[str, ...]]:
    """The fields of the case, and the reasons why people must judge it."""
    sound: dict[str, LookedUp] = {}  # only these may lead to further ones: a wrong customer has a wrong product
    fields: list[ContextField] = []
    reasons: list[str] = []
    notes: list[Json] = []
    for rule in rules:
        led_astray = "." in rule.key and rule.key.partition(".")[0] not in sound
        met = Missing(rule.topic) if led_astray else looked_up.get(rule.name, Missing(rule.topic))
        field, faults = _judged(rule, met, event, sound, now_ms)
        fields.append(field)
        codes = [f"context_{fault}:{rule.name}" for fault in faults]
        if not codes:
            sound[rule.name] = met
        elif rule.required:
            reasons += codes
        else:
            notes += codes
    if notes:
        fields.append(ContextField(CONTEXT_NOTES, notes, "enrichment", None))
    return tuple(fields), tuple(reasons)


def _judged(
    rule: ContextRule, met: LookedUp, event: Event, sound: Mapping[str, LookedUp], now_ms: int
) -> tuple[ContextField, tuple[str, ...]]:
    match met:
        case Missing():
            return ContextField(rule.name, None, met.place, None), ("missing",)
        case Unreadable():
            return ContextField(rule.name, None, met.place, _age_ms(met.timestamp_ms, now_ms)), ("unreadable",)
        case Found():
            age_ms = _age_ms(met.timestamp_ms, now_ms)
            if not _is_the_same(rule, met, event, sound):
                # Not shown to anybody: it may be another person's.
                return ContextField(rule.name, None, met.place, age_ms), ("mismatch",)
            faults = tuple(_shortcomings(rule, met, age_ms))
            # People who must judge see what there is and how old it is; a model sees only what is sound.
            shown = not faults or rule.required
            value: Json = {name: met.value[name] for name in rule.fields if name in met.value} if shown else None
            return ContextField(rule.name, value, met.place, age_ms), faults
        case _:
            assert_never(met)


def _is_the_same(rule: ContextRule, found: Found, event: Event, sound: Mapping[str, LookedUp]) -> bool:
    """Whether every identity that the rule names agrees. What cannot be compared does not agree."""
    for name, references in rule.same.items():
        own = found.value.get(name)
        if own is None or any(referred(reference, event, sound) != own for reference in references):
            return False
    return True


def _shortcomings(rule: ContextRule, found: Found, age_ms: int | None) -> Iterator[str]:
    if any(name not in found.value for name in rule.fields):
        yield "incomplete"
    if rule.max_age is not None and (age_ms is None or age_ms > rule.max_age):  # what has no age may be any age
        yield "stale"


def _age_ms(timestamp_ms: int | None, now_ms: int) -> int | None:
    """Never below 0: the owner's clock may be ahead of ours."""
    return None if timestamp_ms is None else max(0, now_ms - timestamp_ms)


def _fault(name: str, field: DataField, value: Json) -> str | None:
    if value is None and not field.required:
        return None
    found = _json_type(value)
    return None if found == field.type else f"data.{name}: expected {field.type}, got {found}"


def _json_type(value: Json) -> str:
    match value:
        case None:
            return "nothing"
        case bool():  # before the numbers: Python counts a truth value among them
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            assert_never(value)
