"""Enrichment: finds the workflow of an event, stamps its release, and adds what is known around it.

The release is stamped here, once. Every later stage works by the stamped release and no other.
"""

from collections.abc import Mapping
from typing import assert_never

from pipeline.outcome import Dead, Next, Outcome
from pipeline.records import Case, ContextField, Event, Json, Position
from pipeline.workflow import DataField, Workflow


def enrich(
    event: Event,
    origin: Position,
    workflows: Mapping[str, Workflow],
    context: tuple[ContextField, ...] = (),
) -> Outcome:
    """The event as a case of its workflow. `workflows` is keyed by event type, `context` already fetched.

    Dead when no workflow takes the type, or the data lacks what the workflow needs. The cause names fields and
    types, never values: it is written to headers and logs.
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
    return Next(Case(event, origin, workflow.name, workflow.release, context))


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
