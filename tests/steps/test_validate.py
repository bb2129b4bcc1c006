import math
from dataclasses import replace

import pytest

from pipeline.errors import FailureClass
from pipeline.outcome import Dead, Next, Retry
from pipeline.records import CheckResult, Verdict
from pipeline.steps.validate import validate
from pipeline.workflow import ANSWER_FIELDS, Check
from tests.steps.cases import ANSWER, INFERENCE, INFERRED, PASSED, VALIDATED, WORKFLOW


def results_of(answer=ANSWER, confidence=0.9):
    case = replace(INFERRED, inference=replace(INFERENCE, answer=answer, confidence=confidence))
    return {result.check: (result.verdict, result.reason) for result in validate(case, WORKFLOW).record.checks}


def test_a_good_answer_passes_every_check():
    assert validate(INFERRED, WORKFLOW) == Next(VALIDATED)


@pytest.mark.parametrize("intent", WORKFLOW.intents)
def test_every_declared_answer_passes(intent):
    assert {verdict for verdict, _ in results_of(WORKFLOW.answer(intent)).values()} == {Verdict.PASS}


def test_every_check_of_the_workflow_is_made_whatever_the_answer():
    assert set(results_of({})) == set(WORKFLOW.checks)


@pytest.mark.parametrize("field", ANSWER_FIELDS)
def test_an_answer_without_a_field_fails_the_schema(field):
    answer = {name: value for name, value in ANSWER.items() if name != field}
    assert results_of(answer)["output_schema"] == (Verdict.FAIL, f"missing:{field}")


@pytest.mark.parametrize("field", ANSWER_FIELDS)
@pytest.mark.parametrize("value", [None, True, 3, ["pin"], {"a": 1}], ids=repr)
def test_a_field_of_another_type_fails_the_schema(field, value):
    assert results_of({**ANSWER, field: value})["output_schema"] == (Verdict.FAIL, f"type:{field}")


def test_more_fields_than_asked_for_fail_the_schema_without_being_quoted():
    assert results_of({**ANSWER, "my card is 4929": "x"})["output_schema"] == (Verdict.FAIL, "unexpected:1")


def test_a_priority_that_nobody_declared_fails_the_schema():
    assert results_of({**ANSWER, "priority": "whenever"})["output_schema"] == (Verdict.FAIL, "value:priority")


@pytest.mark.parametrize(
    ("check", "field"),
    [(Check.INTENT_KNOWN, "intent"), (Check.QUEUE_KNOWN, "queue"), (Check.ALLOWED_ACTIONS, "action")],
)
def test_a_value_that_the_workflow_does_not_hold_fails_its_check(check, field):
    assert results_of({**ANSWER, field: "send_all_money"})[check] == (Verdict.FAIL, "not_declared")


@pytest.mark.parametrize(
    ("check", "field"),
    [(Check.INTENT_KNOWN, "intent"), (Check.QUEUE_KNOWN, "queue"), (Check.ALLOWED_ACTIONS, "action")],
)
def test_a_check_with_nothing_to_look_at_abstains(check, field):
    assert results_of({**ANSWER, field: ["a"]})[check] == (Verdict.ABSTAIN, "nothing_to_check")


def test_an_answer_without_confidence_makes_the_check_abstain():
    assert results_of(confidence=None)["confidence"] == (Verdict.ABSTAIN, "none_given")


@pytest.mark.parametrize("confidence", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_confidence_out_of_range_fails(confidence):
    assert results_of(confidence=confidence)["confidence"] == (Verdict.FAIL, "out_of_range")


@pytest.mark.parametrize("confidence", [0, 0.0, 1, 1.0])
def test_the_ends_of_the_range_are_within_it(confidence):
    assert results_of(confidence=confidence)["confidence"] == (Verdict.PASS, "ok")


def test_results_that_came_with_the_case_are_replaced():
    forged = replace(INFERRED, checks=(CheckResult("confidence", Verdict.FAIL, "old"),))
    assert validate(forged, WORKFLOW).record.checks == PASSED


def test_a_case_without_an_answer_is_dead():
    outcome = validate(replace(INFERRED, inference=None), WORKFLOW)
    assert isinstance(outcome, Dead)
    assert outcome.cause.startswith("no_inference")


def test_a_case_of_another_workflow_is_dead():
    outcome = validate(replace(INFERRED, workflow="claims"), WORKFLOW)
    assert outcome == Dead("workflow_mismatch: a case of claims came with ticket_triage", FailureClass.PERMANENT)


def test_a_case_of_another_release_waits_for_it():
    outcome = validate(replace(INFERRED, release="0" * 12), WORKFLOW)
    assert outcome == Retry("release_not_loaded: 000000000000", failure=FailureClass.TRANSIENT)
