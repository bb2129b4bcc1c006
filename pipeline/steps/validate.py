"""Validation: says of every declared check whether the answer passes it. It decides nothing: routing does.

A check that has nothing to look at abstains; the check that found the gap fails.
"""

from collections.abc import Container
from dataclasses import replace

from pipeline.errors import FailureClass
from pipeline.outcome import Dead, Next, Outcome, Retry
from pipeline.records import Case, CheckResult, Inference, Json, Verdict
from pipeline.workflow import ANSWER_FIELDS, PRIORITIES, Check, Workflow


def validate(case: Case, workflow: Workflow) -> Outcome:
    """The case with the results of all checks, in place of any it carried. `workflow` is the case's own.

    Dead when there is no answer or the workflow is another one; Retry when it is another release of it.
    Reasons name fields of ours, never what the answer says: an answer may hold anything.
    """
    if case.workflow != workflow.name:
        return Dead(f"workflow_mismatch: a case of {case.workflow} came with {workflow.name}")
    if case.release != workflow.release:
        return Retry(f"release_not_loaded: {case.release}", failure=FailureClass.TRANSIENT)
    if case.inference is None:
        return Dead("no_inference: the case came to validation without an answer")
    return Next(replace(case, checks=_results(case.inference, workflow)))


def _results(inference: Inference, workflow: Workflow) -> tuple[CheckResult, ...]:
    answer = inference.answer
    return (
        _schema(answer),
        _declared(Check.INTENT_KNOWN, answer.get("intent"), workflow.intents),
        _declared(Check.QUEUE_KNOWN, answer.get("queue"), workflow.queues),
        _declared(Check.ALLOWED_ACTIONS, answer.get("action"), workflow.allowed_actions),
        _confidence(inference.confidence),
    )


def _schema(answer: dict[str, Json]) -> CheckResult:
    faults = [f"missing:{name}" for name in ANSWER_FIELDS if name not in answer]
    faults += [f"type:{name}" for name in ANSWER_FIELDS if name in answer and not isinstance(answer[name], str)]
    priority = answer.get("priority")
    if isinstance(priority, str) and priority not in PRIORITIES:
        faults.append("value:priority")
    if unexpected := len(answer.keys() - set(ANSWER_FIELDS)):
        faults.append(f"unexpected:{unexpected}")
    return _result(Check.OUTPUT_SCHEMA, Verdict.FAIL if faults else Verdict.PASS, ",".join(faults) or "ok")


def _declared(check: Check, value: Json, known: Container[str]) -> CheckResult:
    if not isinstance(value, str):
        return _result(check, Verdict.ABSTAIN, "nothing_to_check")
    if value not in known:
        return _result(check, Verdict.FAIL, "not_declared")
    return _result(check, Verdict.PASS, "ok")


def _confidence(confidence: float | None) -> CheckResult:
    if confidence is None:
        return _result(Check.CONFIDENCE, Verdict.ABSTAIN, "none_given")
    if not 0 <= confidence <= 1:  # not a number is in no range either
        return _result(Check.CONFIDENCE, Verdict.FAIL, "out_of_range")
    return _result(Check.CONFIDENCE, Verdict.PASS, "ok")


def _result(check: Check, verdict: Verdict, reason: str) -> CheckResult:
    return CheckResult(check.value, verdict, reason)
