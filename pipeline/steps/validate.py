"""Validation: says of every declared check whether the answer passes it. It decides nothing: routing does."""

from dataclasses import replace

from pipeline.errors import FailureClass
from pipeline.outcome import Dead, Next, Outcome, Retry
from pipeline.records import Case, CheckResult, Verdict
from pipeline.steps.answer import check_answer
from pipeline.workflow import Check, Workflow


def validate(case: Case, workflow: Workflow) -> Outcome:
    """The case with the results of all checks, in place of any it carried. `workflow` is the case's own.

    Dead when there is no answer or the workflow is another one; Retry when it is another release of it.
    """
    if case.workflow != workflow.name:
        return Dead(f"workflow_mismatch: a case of {case.workflow} came with {workflow.name}")
    if case.release != workflow.release:
        return Retry(f"release_not_loaded: {case.release}", failure=FailureClass.TRANSIENT)
    if case.inference is None:
        return Dead("no_inference: the case came to validation without an answer")
    checks = (*check_answer(case.inference.answer, workflow), _confidence(case.inference.confidence))
    return Next(replace(case, checks=checks))


def _confidence(confidence: float | None) -> CheckResult:
    if confidence is None:
        return CheckResult(Check.CONFIDENCE.value, Verdict.ABSTAIN, "none_given")
    if not 0 <= confidence <= 1:  # not a number is in no range either
        return CheckResult(Check.CONFIDENCE.value, Verdict.FAIL, "out_of_range")
    return CheckResult(Check.CONFIDENCE.value, Verdict.PASS, "ok")
