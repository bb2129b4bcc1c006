import math
from dataclasses import replace

import pytest
from hypothesis import Phase, find, given, settings

from pipeline.errors import FailureClass
from pipeline.outcome import Blocked, Dead, Next, Retry, Review
from pipeline.records import CheckResult, Decision, Verdict, decision_id
from pipeline.steps.route import route
from pipeline.workflow import Check
from tests.steps.cases import ANSWER, EVENT, INFERENCE, ORIGIN, PASSED, VALIDATED, WORKFLOW, cases


def validated(answer=ANSWER, confidence=0.93, checks=PASSED):
    inference = replace(INFERENCE, answer=answer, confidence=confidence)
    return replace(VALIDATED, inference=inference, checks=checks)


def with_verdict(check, verdict):
    return tuple(replace(result, verdict=verdict) if result.check == check else result for result in PASSED)


def test_a_sure_and_permitted_answer_becomes_a_decision():
    assert route(VALIDATED, WORKFLOW) == Next(
        Decision(
            decision_id=decision_id(EVENT, "ticket_triage", 1),
            revision=1,
            supersedes=None,
            source="bank/chat",
            event_id="m-1",
            subject="customer-7",
            workflow="ticket_triage",
            release=WORKFLOW.release,
            action="freeze_card",
            answer=ANSWER,
            confidence=0.93,
            reasons=("checks_passed", "confidence_reached"),
            decided_by="auto",
            origin=ORIGIN,
        ),
        once=decision_id(EVENT, "ticket_triage", 1),
    )


def test_the_decision_id_does_not_depend_on_the_answer():
    one = route(validated(WORKFLOW.answer("pin")), WORKFLOW).record
    other = route(validated(WORKFLOW.answer("loan"), confidence=0.99), WORKFLOW).record
    assert one.action != other.action
    assert one.decision_id == other.decision_id


def test_the_threshold_itself_is_sure_enough():
    assert isinstance(route(validated(confidence=WORKFLOW.threshold), WORKFLOW), Next)


def test_an_unsure_answer_goes_to_people():
    case = validated(confidence=WORKFLOW.threshold - 0.001)
    assert route(case, WORKFLOW) == Review(("low_confidence",), case)


@pytest.mark.parametrize("confidence", [math.nan, math.inf, 1.01, -1.0])
def test_a_confidence_that_is_none_is_not_sure_even_if_its_check_was_forged(confidence):
    assert route(validated(confidence=confidence), WORKFLOW).reasons == ("low_confidence",)


def test_an_answer_without_confidence_goes_to_people():
    case = validated(confidence=None, checks=with_verdict("confidence", Verdict.ABSTAIN))
    assert route(case, WORKFLOW).reasons == ("check_abstained:confidence", "no_confidence")


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.FAIL, "check_failed"),
        (Verdict.ABSTAIN, "check_abstained"),
        (Verdict.ERROR, "check_error"),
    ],
)
def test_only_a_pass_is_a_pass(verdict, code):
    case = validated(checks=with_verdict("queue_known", verdict))
    assert route(case, WORKFLOW) == Review((f"{code}:queue_known",), case)


@pytest.mark.parametrize("check", Check)
def test_a_check_that_was_never_made_is_not_passed(check):
    case = validated(checks=tuple(result for result in PASSED if result.check != check))
    assert route(case, WORKFLOW) == Review((f"check_missing:{check}",), case)


def test_a_check_that_both_passed_and_failed_is_not_passed():
    case = validated(checks=(*PASSED, CheckResult("intent_known", Verdict.FAIL, "again")))
    assert route(case, WORKFLOW).reasons == ("check_failed:intent_known",)


def test_every_reason_is_given():
    case = validated(confidence=0.1, checks=with_verdict("intent_known", Verdict.FAIL))
    assert route(case, WORKFLOW).reasons == ("check_failed:intent_known", "low_confidence")


def test_a_failed_action_check_blocks_however_sure_the_answer_is():
    case = validated(confidence=1.0, checks=with_verdict("allowed_actions", Verdict.FAIL))
    assert route(case, WORKFLOW) == Blocked("allowed_actions", case)


def test_an_action_off_the_list_is_blocked_even_if_every_check_says_pass():
    case = validated(answer={**ANSWER, "action": "close_account"})
    assert route(case, WORKFLOW) == Blocked("allowed_actions", case)


@pytest.mark.parametrize("verdict", [Verdict.ABSTAIN, Verdict.ERROR])
def test_an_action_that_could_not_be_checked_goes_to_people(verdict):
    case = validated(checks=with_verdict("allowed_actions", verdict))
    assert isinstance(route(case, WORKFLOW), Review)


def test_an_answer_without_an_action_decides_nothing():
    case = validated(answer={"intent": "pin"})
    assert route(case, WORKFLOW) == Review(("no_action",), case)


def test_a_case_without_an_answer_is_dead():
    outcome = route(replace(VALIDATED, inference=None), WORKFLOW)
    assert isinstance(outcome, Dead)
    assert outcome.cause.startswith("no_inference")


def test_a_case_of_another_workflow_is_dead():
    assert isinstance(route(replace(VALIDATED, workflow="claims"), WORKFLOW), Dead)


def test_a_case_of_another_release_waits_for_it():
    outcome = route(replace(VALIDATED, release="0" * 12), WORKFLOW)
    assert outcome == Retry("release_not_loaded: 000000000000", failure=FailureClass.TRANSIENT)


@settings(max_examples=400, deadline=None)
@given(case=cases)
def test_no_decision_is_made_without_every_pass_and_a_sure_answer(case):
    outcome = route(case, WORKFLOW)
    if isinstance(outcome, Next):
        assert {result.check for result in case.checks} >= set(WORKFLOW.checks)
        assert {result.verdict for result in case.checks} == {Verdict.PASS}
        assert WORKFLOW.threshold <= case.inference.confidence <= 1
        assert outcome.record.action in WORKFLOW.allowed_actions
        assert outcome.once == outcome.record.decision_id == decision_id(case.event, WORKFLOW.name, 1)
        assert (case.workflow, case.release) == (WORKFLOW.name, WORKFLOW.release)


@pytest.mark.parametrize("kind", [Next, Retry, Review, Dead, Blocked])
def test_the_cases_that_this_is_tried_with_reach_every_outcome(kind):
    search = settings(max_examples=2000, derandomize=True, phases=[Phase.generate], database=None, deadline=None)
    assert find(cases, lambda case: isinstance(route(case, WORKFLOW), kind), settings=search)
