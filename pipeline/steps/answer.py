"""What is wrong with an answer: asked in the same way of a model's and of a person's.

A check that has nothing to look at abstains; the check that found the gap fails. Reasons name fields of ours, never
what the answer says: an answer may hold anything.
"""

from collections.abc import Container

from pipeline.records import CheckResult, Json, Verdict
from pipeline.workflow import ANSWER_FIELDS, PRIORITIES, Check, Workflow


def check_answer(answer: dict[str, Json], workflow: Workflow) -> tuple[CheckResult, ...]:
    """The result of every check that looks at the answer alone."""
    return (
        _schema(answer),
        _declared(Check.INTENT_KNOWN, answer.get("intent"), workflow.intents),
        _declared(Check.QUEUE_KNOWN, answer.get("queue"), workflow.queues),
        _declared(Check.ALLOWED_ACTIONS, answer.get("action"), workflow.allowed_actions),
    )


def _schema(answer: dict[str, Json]) -> CheckResult:
    faults = [f"missing:{name}" for name in ANSWER_FIELDS if name not in answer]
    faults += [f"type:{name}" for name in ANSWER_FIELDS if name in answer and not isinstance(answer[name], str)]
    priority = answer.get("priority")
    if isinstance(priority, str) and priority not in PRIORITIES:
        faults.append("value:priority")
    if unexpected := len(answer.keys() - set(ANSWER_FIELDS)):
        faults.append(f"unexpected:{unexpected}")
    verdict = Verdict.FAIL if faults else Verdict.PASS
    return CheckResult(Check.OUTPUT_SCHEMA.value, verdict, ",".join(faults) or "ok")


def _declared(check: Check, value: Json, known: Container[str]) -> CheckResult:
    if not isinstance(value, str):
        return CheckResult(check.value, Verdict.ABSTAIN, "nothing_to_check")
    if value not in known:
        return CheckResult(check.value, Verdict.FAIL, "not_declared")
    return CheckResult(check.value, Verdict.PASS, "ok")
