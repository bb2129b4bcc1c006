from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from pipeline.codec import Codec
from pipeline.errors import FailureClass
from pipeline.outcome import Dead, Next
from pipeline.records import (
    Decision,
    ReviewItem,
    ReviewVerdict,
    VerdictKind,
    decision_id,
    enclosed,
)
from pipeline.steps.judge import Lane, judge
from tests.contract.strategies import verdicts as any_verdicts
from tests.steps.cases import ANSWER, EVENT, INFERENCE, ORIGIN, VALIDATED, WORKFLOW, WORKFLOWS, cases

CODEC = Codec()
REVIEW_ID = decision_id(EVENT, WORKFLOW.name, 1)
LANE = Lane(ORIGIN.partition, EVENT.subject.encode())
ITEM = ReviewItem(REVIEW_ID, ("low_confidence",), VALIDATED, 1_748_772_001_000)
OTHER = WORKFLOW.answer("charge_unrecognised")


def verdict(kind, reviewed=ITEM, **changes):
    content, digest = enclosed(CODEC.encode(reviewed))
    said = ReviewVerdict(
        review_id=REVIEW_ID,
        kind=kind,
        answer=None,
        reviewer="a.meier",
        reason="because",
        decided_ms=1_748_772_600_000,
        revision=1,
        item=content,
        digest=digest,
    )
    if kind is VerdictKind.EXPIRE:
        said = replace(said, reviewer=None)
    if kind in (VerdictKind.MODIFY, VerdictKind.CORRECT):
        said = replace(said, answer=OTHER)
    return replace(said, **changes)


def judged(said, *, workflows=WORKFLOWS, lane=LANE, knows=lambda name: False):
    return judge(said, workflows, CODEC, lane, knows)


def about(case):
    return replace(ITEM, case=case)


APPROVE, MODIFY, REJECT, EXPIRE, CORRECT = VerdictKind
ON_REVIEWS = [APPROVE, MODIFY, REJECT, EXPIRE]


# -- reviews ------------------------------------------------------------------------------------------------


def test_an_approved_answer_is_decided_as_it_was_proposed():
    assert judged(verdict(APPROVE)) == Next(
        Decision(
            decision_id=REVIEW_ID,
            revision=1,
            supersedes=None,
            source="bank/chat",
            event_id="m-1",
            subject="customer-7",
            workflow="ticket_triage",
            release=WORKFLOW.release,
            action="freeze_card",
            answer=ANSWER,
            confidence=None,
            reasons=("approved",),
            decided_by="person:a.meier",
            origin=ORIGIN,
        ),
        once=REVIEW_ID,
    )


def test_a_modified_answer_is_decided_as_the_person_wrote_it():
    decision = judged(verdict(MODIFY)).record
    assert (decision.action, decision.answer, decision.reasons) == ("open_dispute", OTHER, ("modified",))


def test_after_a_rejection_nothing_happens_and_the_proposed_answer_is_gone():
    decision = judged(verdict(REJECT)).record
    assert (decision.action, decision.answer, decision.reasons) == ("none", {"action": "none"}, ("rejected",))


def test_an_expiry_is_the_clocks_and_no_rejection():
    decision = judged(verdict(EXPIRE)).record
    assert (decision.action, decision.reasons, decision.decided_by) == ("none", ("expired",), "clock")


def test_an_expiry_ends_in_the_declared_safe_action():
    careful = WORKFLOW.model_copy(update={"safe_action": "hand_over"})
    decision = judged(verdict(EXPIRE), workflows={WORKFLOW.event_type: careful}).record
    assert (decision.action, decision.answer) == ("hand_over", {"action": "hand_over"})


@pytest.mark.parametrize("kind", ON_REVIEWS)
def test_every_verdict_on_a_review_is_one_use_of_the_same_name(kind):
    outcome = judged(verdict(kind))
    assert outcome.once == outcome.record.decision_id == REVIEW_ID


@pytest.mark.parametrize("kind", ON_REVIEWS)
def test_a_verdict_on_a_case_of_an_older_release_keeps_that_release(kind):
    old = about(replace(VALIDATED, release="0" * 12))
    assert judged(verdict(kind, old)).record.release == "0" * 12


def test_a_case_that_never_got_an_answer_can_be_answered_by_a_person():
    bare = about(replace(VALIDATED, inference=None, checks=()))
    assert judged(verdict(MODIFY, bare)).record.action == "open_dispute"
    assert judged(verdict(APPROVE, bare)).cause.startswith("nothing_proposed")


def test_a_case_without_a_subject_is_decided_without_a_key():
    unkeyed = replace(VALIDATED, event=replace(EVENT, subject=None))
    assert judged(verdict(APPROVE, about(unkeyed)), lane=Lane(3, None)).record.subject is None
    assert judged(verdict(APPROVE, about(unkeyed)), lane=Lane(3, b"")).cause.startswith("key_mismatch")


@pytest.mark.parametrize(
    ("said", "cause", "failure"),
    [
        (verdict(APPROVE, review_id="0" * 32), "review_id_mismatch", FailureClass.PERMANENT),
        (verdict(APPROVE, replace(ITEM, review_id="0" * 32)), "review_id_mismatch", FailureClass.PERMANENT),
        (verdict(APPROVE, digest="0" * 64), "digest_mismatch", FailureClass.PERMANENT),
        (verdict(APPROVE, item="not base64"), "digest_mismatch", FailureClass.PERMANENT),
        (verdict(APPROVE, item=enclosed(b"{}")[0], digest=enclosed(b"{}")[1]), "item: ", FailureClass.POISON),
        (verdict(APPROVE, VALIDATED), "item: ", FailureClass.POISON),
        (verdict(APPROVE, revision=2), "revision_mismatch", FailureClass.PERMANENT),
        (verdict(APPROVE, about(replace(VALIDATED, workflow="claims"))), "review_id_mismatch", FailureClass.PERMANENT),
        (verdict(APPROVE, reviewer=None), "reviewer_missing", FailureClass.POLICY),
        (verdict(REJECT, reviewer="  "), "reviewer_missing", FailureClass.POLICY),
        (verdict(REJECT, reviewer="x" * 201), "reviewer_invalid", FailureClass.PERMANENT),
        (verdict(REJECT, reviewer="a\nb"), "reviewer_invalid", FailureClass.PERMANENT),
        (verdict(EXPIRE, reviewer="a.meier"), "reviewer_unexpected", FailureClass.PERMANENT),
        (verdict(MODIFY, answer=None), "answer_missing", FailureClass.PERMANENT),
        (verdict(APPROVE, answer=OTHER), "answer_unexpected", FailureClass.PERMANENT),
        (verdict(REJECT, answer=OTHER), "answer_unexpected", FailureClass.PERMANENT),
        (verdict(MODIFY, answer={**OTHER, "action": "close_account"}), "action_not_allowed", FailureClass.POLICY),
        (verdict(MODIFY, answer={"action": "none"}), "action_not_allowed", FailureClass.POLICY),
        (verdict(MODIFY, answer={**OTHER, "queue": "nowhere"}), "answer_invalid: queue_known", FailureClass.PERMANENT),
        (verdict(MODIFY, answer={**OTHER, "note": "x"}), "answer_invalid: output_schema", FailureClass.PERMANENT),
        (verdict(MODIFY, answer={"action": "hand_over"}), "answer_invalid: output_schema", FailureClass.PERMANENT),
        (verdict(MODIFY, answer={**OTHER, "action": 7}), "answer_invalid: output_schema", FailureClass.PERMANENT),
    ],
)
def test_an_invalid_verdict_is_a_dead_letter_with_its_cause(said, cause, failure):
    outcome = judged(said)
    assert isinstance(outcome, Dead)
    assert outcome.cause.startswith(cause)
    assert outcome.failure is failure


def test_a_proposed_answer_that_is_forbidden_cannot_be_approved():
    forged = replace(VALIDATED, inference=replace(INFERENCE, answer={**ANSWER, "action": "close_account"}))
    outcome = judged(verdict(APPROVE, about(forged)))
    assert (outcome.cause.partition(":")[0], outcome.failure) == ("action_not_allowed", FailureClass.POLICY)


def test_an_item_of_a_workflow_that_is_not_here_is_refused():
    other = replace(VALIDATED, workflow="claims")
    said = replace(ITEM, review_id=decision_id(EVENT, "claims", 1), case=other)
    assert judged(verdict(APPROVE, said, review_id=said.review_id)).cause == "unknown_workflow: claims"
    assert judged(verdict(APPROVE), workflows={}).cause == "unknown_workflow: ticket_triage"


@pytest.mark.parametrize(
    ("lane", "cause"),
    [
        (Lane(4, b"customer-7"), "partition_mismatch"),
        (Lane(3, b"customer-8"), "key_mismatch"),
        (Lane(3, None), "key_mismatch"),
    ],
)
@pytest.mark.parametrize("kind", ON_REVIEWS)
def test_a_verdict_that_lies_elsewhere_than_its_case_is_refused(kind, lane, cause):
    """In another partition a second decision would not be noticed."""
    assert judged(verdict(kind), lane=lane).cause.startswith(cause)


def test_no_cause_repeats_what_the_verdict_says():
    secret = "4111-1111"
    for said in (
        verdict(MODIFY, answer={**OTHER, "action": secret}),
        verdict(MODIFY, answer={**OTHER, secret: secret}),
        verdict(APPROVE, review_id=secret, reason=secret),
        verdict(APPROVE, item=secret, digest=secret),
    ):
        assert secret not in judged(said).cause


# -- corrections --------------------------------------------------------------------------------------------

FIRST = judged(verdict(APPROVE)).record


def correction(before=FIRST, **changes):
    changes = {"review_id": before.decision_id, "revision": before.revision + 1} | changes
    return verdict(CORRECT, before, **changes)


def corrected(said, *, known=(FIRST.decision_id,), **more):
    return judged(said, knows=lambda name: name in known, **more)


def test_a_correction_is_the_next_revision_and_names_the_one_before():
    outcome = corrected(correction())
    second = decision_id(EVENT, WORKFLOW.name, 2)
    assert outcome == Next(
        replace(
            FIRST,
            decision_id=second,
            revision=2,
            supersedes=REVIEW_ID,
            action="open_dispute",
            answer=OTHER,
            reasons=("corrected",),
        ),
        once=second,
    )


def test_a_correction_can_be_corrected():
    second = corrected(correction()).record
    third = corrected(correction(second, answer=ANSWER), known=(second.decision_id,)).record
    assert (third.revision, third.supersedes) == (3, second.decision_id)
    assert third.decision_id == decision_id(EVENT, WORKFLOW.name, 3)


def test_a_correction_may_say_that_nothing_shall_happen():
    assert corrected(correction(answer={"action": "none"})).record.action == "none"


def test_two_corrections_of_one_decision_use_the_same_name():
    assert corrected(correction(answer=ANSWER)).once == corrected(correction(answer=OTHER)).once


@pytest.mark.parametrize(
    ("said", "known", "cause"),
    [
        (correction(), (), "unknown_decision"),
        (correction(revision=3), (REVIEW_ID,), "revision_mismatch"),
        (correction(revision=1), (REVIEW_ID,), "revision_mismatch"),
        (correction(review_id="0" * 32), (REVIEW_ID,), "decision_id_mismatch"),
        (correction(replace(FIRST, event_id="m-2")), (REVIEW_ID,), "decision_id_mismatch"),
        (correction(replace(FIRST, revision=2)), (REVIEW_ID,), "decision_id_mismatch"),
        (correction(item=b64encode(b"x").decode()), (REVIEW_ID,), "digest_mismatch"),
        (verdict(CORRECT, ITEM, revision=2), (REVIEW_ID,), "item: "),
        (correction(answer=None), (REVIEW_ID,), "answer_missing"),
        (correction(answer={**OTHER, "action": "close_account"}), (REVIEW_ID,), "action_not_allowed"),
        (correction(answer={**OTHER, "action": "none"}), (REVIEW_ID,), "action_not_allowed"),
        (correction(reviewer=""), (REVIEW_ID,), "reviewer_missing"),
    ],
)
def test_an_invalid_correction_is_a_dead_letter_with_its_cause(said, known, cause):
    outcome = corrected(said, known=known)
    assert isinstance(outcome, Dead)
    assert outcome.cause.startswith(cause)


def test_a_correction_that_lies_elsewhere_than_its_decision_is_refused():
    assert corrected(correction(), lane=Lane(0, b"customer-7")).cause.startswith("partition_mismatch")
    assert corrected(correction(), lane=Lane(3, b"x")).cause.startswith("key_mismatch")


def test_a_correction_for_a_workflow_that_is_not_here_is_refused():
    assert corrected(correction(), workflows={}).cause == "unknown_workflow: ticket_triage"


# -- whatever it meets --------------------------------------------------------------------------------------

_answers = st.sampled_from([None, ANSWER, OTHER, {"action": "none"}, {**ANSWER, "action": "close_account"}])
_items = st.builds(lambda case: ReviewItem(decision_id(case.event, case.workflow, 1), (), case, 0), cases)


@settings(max_examples=400, deadline=None)
@given(item=_items, kind=st.sampled_from(ON_REVIEWS), answer=_answers, reviewer=st.sampled_from([None, "a.meier"]))
def test_nobody_decides_what_the_workflow_does_not_allow(item, kind, answer, reviewer):
    subject = item.case.event.subject
    lane = Lane(item.case.origin.partition, None if subject is None else subject.encode("utf-8", "surrogatepass"))
    said = verdict(kind, ITEM, review_id=item.review_id, answer=answer, reviewer=reviewer)
    outcome = judge(said, WORKFLOWS, _Holds(item), lane, lambda name: False)
    assert isinstance(outcome, Next | Dead)
    if isinstance(outcome, Next):
        decision = outcome.record
        assert decision.action == decision.answer["action"]
        assert decision.action in (*WORKFLOW.allowed_actions, "none")
        assert (decision.action == "none") == (kind in (REJECT, EXPIRE))
        assert outcome.once == decision.decision_id == item.review_id
        assert item.case.workflow == WORKFLOW.name


@pytest.mark.parametrize("kind", ON_REVIEWS)
def test_the_cases_that_this_is_tried_with_reach_decisions(kind):
    def decides(item):
        subject = item.case.event.subject
        lane = Lane(item.case.origin.partition, None if subject is None else subject.encode("utf-8", "surrogatepass"))
        said = verdict(kind, review_id=item.review_id)
        return isinstance(judge(said, WORKFLOWS, _Holds(item), lane, lambda name: False), Next)

    search = settings(max_examples=2000, derandomize=True, phases=[Phase.generate], database=None, deadline=None)
    assert find(_items, decides, settings=search)


class _Holds:
    """Reads this item, whatever the bytes."""

    def __init__(self, item):
        self.item = item

    def decode_review(self, data):
        return self.item


@settings(max_examples=200, deadline=None)
@given(any_verdicts)
def test_any_verdict_that_decodes_is_judged_and_never_raises(said):
    assert isinstance(judged(said, knows=lambda name: True), Dead)
