"""Routing: a sure and permitted answer becomes a decision, a forbidden one is blocked, people get the rest."""

from collections.abc import Iterator
from typing import assert_never

from pipeline.errors import FailureClass
from pipeline.outcome import Blocked, Dead, Next, Outcome, Retry, Review
from pipeline.records import Case, CheckResult, Decision, Inference, Verdict, decision_id
from pipeline.workflow import Check, Workflow

_FIRST_REVISION = 1


def route(case: Case, workflow: Workflow) -> Outcome:
    """Where a validated case goes. `workflow` is the case's own.

    Next(Decision) only when every check of the workflow is there and has passed, none other says otherwise, and
    the confidence reaches the threshold; once for its id, so that there is never a second one. Blocked when the
    action is not allowed, whatever else is true of it. Otherwise Review, with one code for each reason. Dead and
    Retry as in `validate`.
    """
    if case.workflow != workflow.name:
        return Dead(f"workflow_mismatch: a case of {case.workflow} came with {workflow.name}")
    if case.release != workflow.release:
        return Retry(f"release_not_loaded: {case.release}", failure=FailureClass.TRANSIENT)
    if case.inference is None:
        return Dead("no_inference: the case came to routing without an answer")
    action = case.inference.answer.get("action")
    # The control reads the answer itself: it must hold even if the checks were lost or forged on the way.
    forbidden = isinstance(action, str) and action not in workflow.allowed_actions
    if forbidden or any(_forbids(result) for result in case.checks):
        return Blocked(Check.ALLOWED_ACTIONS.value, case)
    reasons = (*_objections(case.checks, workflow), *_doubts(case.inference, workflow))
    if reasons or not isinstance(action, str):
        return Review(reasons or ("no_action",), case)
    decision = _decision(case, case.inference, action)
    return Next(decision, once=decision.decision_id)


def _forbids(result: CheckResult) -> bool:
    return result.check == Check.ALLOWED_ACTIONS and result.verdict is Verdict.FAIL


def _objections(results: tuple[CheckResult, ...], workflow: Workflow) -> Iterator[str]:
    """A code for each check that did not pass. A check that was never made is an objection too."""
    for result in results:
        match result.verdict:
            case Verdict.PASS:
                continue
            case Verdict.FAIL:
                yield f"check_failed:{result.check}"
            case Verdict.ABSTAIN:
                yield f"check_abstained:{result.check}"
            case Verdict.ERROR:
                yield f"check_error:{result.check}"
            case _:
                assert_never(result.verdict)
    made = {result.check for result in results}
    for check in workflow.checks:
        if check not in made:
            yield f"check_missing:{check}"


def _doubts(inference: Inference, workflow: Workflow) -> Iterator[str]:
    if inference.confidence is None:
        yield "no_confidence"
    elif not workflow.threshold <= inference.confidence <= 1:  # what is no number, or above 1, is not sure
        yield "low_confidence"


def _decision(case: Case, inference: Inference, action: str) -> Decision:
    return Decision(
        decision_id=decision_id(case.event, case.workflow, _FIRST_REVISION),
        revision=_FIRST_REVISION,
        supersedes=None,
        source=case.event.source,
        event_id=case.event.id,
        subject=case.event.subject,
        workflow=case.workflow,
        release=case.release,
        action=action,
        answer=inference.answer,
        confidence=inference.confidence,
        reasons=("checks_passed", "confidence_reached"),
        decided_by="auto",
        origin=case.origin,
    )
