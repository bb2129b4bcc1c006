"""Judging verdicts: what a person or the clock said about an item becomes a decision, if it may.

A verdict brings the item that it is about, byte for byte, so nothing is looked up. It is judged by what its workflow
allows today; the decision keeps the release under which the case was worked on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, assert_never

from pipeline.errors import DecodeError, FailureClass, StepError
from pipeline.outcome import Dead, Next, Outcome
from pipeline.records import (
    NO_ACTION,
    Case,
    Decision,
    Json,
    Position,
    ReviewItem,
    ReviewVerdict,
    Verdict,
    VerdictKind,
    decision_id,
    identity_text,
    revision_id,
)
from pipeline.steps.answer import check_answer
from pipeline.workflow import Check, Workflow

CLOCK = "clock"
_FIRST_REVISION = 1
_NAME_CHARS = 200
_NOTHING: dict[str, Json] = {"action": NO_ACTION}
_T = TypeVar("_T")


class Reads(Protocol):
    """Reads items as they lay in their topics. Both raise DecodeError on anything else."""

    def decode_review(self, data: bytes) -> ReviewItem:
        """What lay in human-review."""

    def decode_decision(self, data: bytes) -> Decision:
        """What lay in decisions."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a verdict lies. Which decisions were made is remembered by partition, and order is kept by key."""

    partition: int
    key: bytes | None


def judge(
    verdict: ReviewVerdict,
    workflows: Mapping[str, Workflow],
    reads: Reads,
    lane: Lane,
    knows: Callable[[str], bool],
) -> Outcome:
    """The decision that a verdict makes, once for its decision_id: of several valid ones the first counts.

    `workflows` is keyed by event type. `knows` says of a decision_id whether it was decided in this partition. An
    invalid verdict is Dead, and leaves its review or decision as it was. Causes name fields and codes, never what
    the verdict says in words of its own.
    """
    try:
        if verdict.kind is VerdictKind.CORRECT:
            decision = _correction(verdict, workflows, reads, lane, knows)
        else:
            decision = _review(verdict, workflows, reads, lane)
    except StepError as error:
        return Dead(error.cause, error.failure)
    return Next(decision, once=decision.decision_id)


def _review(verdict: ReviewVerdict, workflows: Mapping[str, Workflow], reads: Reads, lane: Lane) -> Decision:
    item = _item(verdict, reads.decode_review)
    case = item.case
    expected = decision_id(case.event, case.workflow, _FIRST_REVISION)
    if not expected == item.review_id == verdict.review_id:
        raise StepError("review_id_mismatch: the item is of another review")
    if verdict.revision != _FIRST_REVISION:
        raise StepError(f"revision_mismatch: a review is decided as revision {_FIRST_REVISION}")
    _refuse_other_lane(lane, case.origin, case.event.subject)
    workflow = workflows.get(case.event.type)
    if workflow is None or workflow.name != case.workflow:
        raise StepError(f"unknown_workflow: {case.workflow}")
    answer, reason = _answer(verdict, case, workflow)
    return Decision(
        decision_id=expected,
        revision=_FIRST_REVISION,
        supersedes=None,
        source=case.event.source,
        event_id=case.event.id,
        subject=case.event.subject,
        workflow=case.workflow,
        release=case.release,
        action=str(answer["action"]),
        answer=answer,
        confidence=None,
        reasons=(reason,),
        decided_by=_decided_by(verdict),
        origin=case.origin,
    )


def _correction(
    verdict: ReviewVerdict,
    workflows: Mapping[str, Workflow],
    reads: Reads,
    lane: Lane,
    knows: Callable[[str], bool],
) -> Decision:
    before = _item(verdict, reads.decode_decision)
    identity = identity_text(before.source, before.event_id)
    if not revision_id(identity, before.workflow, before.revision) == before.decision_id == verdict.review_id:
        raise StepError("decision_id_mismatch: the item is another decision")
    if verdict.revision != before.revision + 1:
        raise StepError(f"revision_mismatch: revision {before.revision} is corrected by {before.revision + 1}")
    _refuse_other_lane(lane, before.origin, before.subject)
    workflow = next((known for known in workflows.values() if known.name == before.workflow), None)
    if workflow is None:
        raise StepError(f"unknown_workflow: {before.workflow}")
    if not knows(before.decision_id):
        raise StepError("unknown_decision: routing made none of this id here, or so long ago that it forgot")
    answer = _given(verdict)
    return Decision(
        decision_id=revision_id(identity, before.workflow, verdict.revision),
        revision=verdict.revision,
        supersedes=before.decision_id,
        source=before.source,
        event_id=before.event_id,
        subject=before.subject,
        workflow=before.workflow,
        release=before.release,
        action=str(answer["action"]) if answer == _NOTHING else _permitted(answer, workflow),
        answer=answer,
        confidence=None,
        reasons=("corrected",),
        decided_by=_decided_by(verdict),
        origin=before.origin,
    )


def _item(verdict: ReviewVerdict, read: Callable[[bytes], _T]) -> _T:
    try:
        return read(verdict.item_bytes)
    except DecodeError as error:
        raise StepError(f"item: {error}", FailureClass.POISON) from error
    except ValueError as error:
        raise StepError(f"digest_mismatch: {error}") from error


def _refuse_other_lane(lane: Lane, origin: Position, subject: str | None) -> None:
    """In another partition it would be unknown what was decided; under another key it would lose its order."""
    if lane.partition != origin.partition:
        raise StepError(f"partition_mismatch: the item is of partition {origin.partition}")
    if lane.key != (None if subject is None else subject.encode("utf-8", "surrogatepass")):
        raise StepError("key_mismatch: the record key is not the subject of the item")


def _decided_by(verdict: ReviewVerdict) -> str:
    reviewer = (verdict.reviewer or "").strip()
    if verdict.kind is VerdictKind.EXPIRE:
        if reviewer:
            raise StepError("reviewer_unexpected: only the clock lets a review expire")
        return CLOCK
    if not reviewer:
        raise StepError("reviewer_missing: a person's verdict bears a name", FailureClass.POLICY)
    if len(reviewer) > _NAME_CHARS or not reviewer.isprintable():
        raise StepError(f"reviewer_invalid: a name is one line of at most {_NAME_CHARS} characters")
    return f"person:{reviewer}"


def _answer(verdict: ReviewVerdict, case: Case, workflow: Workflow) -> tuple[dict[str, Json], str]:
    """The answer that the verdict stands for, permitted, and the reason code of the decision."""
    kind = verdict.kind
    if kind is not VerdictKind.MODIFY and kind is not VerdictKind.CORRECT and verdict.answer is not None:
        raise StepError(f"answer_unexpected: {kind.value} brings none of its own")
    match kind:
        case VerdictKind.APPROVE:
            if case.inference is None:
                raise StepError("nothing_proposed: the case came to people without an answer")
            _permitted(case.inference.answer, workflow)
            return case.inference.answer, "approved"
        case VerdictKind.MODIFY:
            answer = _given(verdict)
            _permitted(answer, workflow)
            return answer, "modified"
        case VerdictKind.REJECT:
            return dict(_NOTHING), "rejected"
        case VerdictKind.EXPIRE:
            return {"action": workflow.safe_action}, "expired"
        case VerdictKind.CORRECT:
            raise AssertionError("a correction is no verdict on a review")
        case _:
            assert_never(kind)


def _given(verdict: ReviewVerdict) -> dict[str, Json]:
    if verdict.answer is None:
        raise StepError(f"answer_missing: {verdict.kind.value} brings the whole answer")
    return verdict.answer


def _permitted(answer: dict[str, Json], workflow: Workflow) -> str:
    """The action of an answer that may be published: what people decide passes the checks of every answer."""
    faults = [result for result in check_answer(answer, workflow) if result.verdict is not Verdict.PASS]
    if any(fault.check == Check.ALLOWED_ACTIONS and fault.verdict is Verdict.FAIL for fault in faults):
        raise StepError(f"action_not_allowed: {workflow.name} does not declare it", FailureClass.POLICY)
    if faults:
        raise StepError("answer_invalid: " + ", ".join(f"{fault.check} ({fault.reason})" for fault in faults))
    return str(answer["action"])
