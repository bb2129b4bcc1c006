from dataclasses import replace

import pytest

from pipeline.errors import FailureClass
from pipeline.outcome import Dead, Next
from pipeline.records import Case, ContextField
from pipeline.steps.enrich import enrich
from tests.steps.cases import EVENT, ORIGIN, WORKFLOW, WORKFLOWS


def with_data(**changes):
    return replace(EVENT, data={**EVENT.data, **changes})


def test_an_event_becomes_a_case_of_its_workflow_and_release():
    assert enrich(EVENT, ORIGIN, WORKFLOWS) == Next(Case(EVENT, ORIGIN, WORKFLOW.name, WORKFLOW.release))


def test_what_was_fetched_around_the_event_travels_with_the_case():
    context = (ContextField("customer", {"tier": "gold"}, "context-customer", 1200),)
    assert enrich(EVENT, ORIGIN, WORKFLOWS, context).record.context == context


def test_an_event_of_an_unknown_type_is_dead():
    stranger = replace(EVENT, type="com.bank.other")
    assert enrich(stranger, ORIGIN, WORKFLOWS) == Dead("unknown_event_type", FailureClass.PERMANENT)


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, "nothing"), (True, "boolean"), (7, "number"), (0.5, "number"), ([], "array"), ({}, "object")],
    ids=["null", "true", "int", "float", "array", "object"],
)
def test_a_text_that_is_no_string_is_dead_with_the_field_named(value, found):
    outcome = enrich(with_data(text=value), ORIGIN, WORKFLOWS)
    assert outcome == Dead(f"data.text: expected string, got {found}")


def test_a_missing_text_is_dead():
    outcome = enrich(replace(EVENT, data={"channel": "chat"}), ORIGIN, WORKFLOWS)
    assert outcome == Dead("data.text: expected string, got nothing")


def test_every_faulty_field_is_named_at_once():
    outcome = enrich(with_data(text=1, channel=False), ORIGIN, WORKFLOWS)
    assert outcome == Dead("data.text: expected string, got number; data.channel: expected string, got boolean")


def test_the_cause_does_not_repeat_what_the_customer_sent():
    outcome = enrich(with_data(text=["4929 1234"]), ORIGIN, WORKFLOWS)
    assert "4929" not in outcome.cause


@pytest.mark.parametrize("data", [{"text": "hello"}, {"text": "hello", "language": None}], ids=["missing", "null"])
def test_an_optional_field_may_be_missing_or_null(data):
    assert isinstance(enrich(replace(EVENT, data=data), ORIGIN, WORKFLOWS), Next)


def test_an_empty_text_is_not_a_fault_of_the_machine():
    assert isinstance(enrich(with_data(text=""), ORIGIN, WORKFLOWS), Next)


def test_fields_that_the_workflow_does_not_know_are_kept():
    event = with_data(branch="Leeds")
    assert enrich(event, ORIGIN, WORKFLOWS).record.event == event
