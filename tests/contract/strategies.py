"""Values as hypothesis draws them: everything that the types allow, ugly parts first."""

from hypothesis import strategies as st

from pipeline.records import (
    Audit,
    BlockedItem,
    Case,
    CheckResult,
    ContextField,
    Decision,
    DecisionOutcome,
    Event,
    Inference,
    OutcomeKind,
    Position,
    ReviewItem,
    ReviewVerdict,
    Verdict,
    VerdictKind,
)

LONG = st.integers(-(2**63), 2**63 - 1)
INT = st.integers(-(2**31), 2**31 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)

text = st.text(st.characters(codec="utf-8"), max_size=40)
json_text = st.text(max_size=40)  # with halves of surrogate pairs, which JSON can spell
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | json_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_text, inner, max_size=3),
    max_leaves=8,
)
json_object = st.dictionaries(json_text, json_value, max_size=4)


def tuple_of(items):
    return st.lists(items, max_size=3).map(tuple)


positions = st.builds(Position, text, INT, LONG, LONG)
events = st.builds(Event, text, text, text, st.none() | text, st.none() | text, json_object)
cases = st.builds(
    Case,
    event=events,
    origin=positions,
    workflow=text,
    release=text,
    context=tuple_of(st.builds(ContextField, text, json_value, text, st.none() | LONG)),
    inference=st.none() | st.builds(Inference, text, text, json_object, st.none() | NUMBER, text, NUMBER),
    checks=tuple_of(st.builds(CheckResult, text, st.sampled_from(Verdict), text)),
)
decisions = st.builds(
    Decision,
    decision_id=text,
    revision=INT,
    supersedes=st.none() | text,
    source=text,
    event_id=text,
    subject=st.none() | text,
    workflow=text,
    release=text,
    action=text,
    answer=json_object,
    confidence=st.none() | NUMBER,
    reasons=tuple_of(text),
    decided_by=text,
    origin=positions,
)
reviews = st.builds(ReviewItem, text, tuple_of(text), cases, LONG)
blocked = st.builds(BlockedItem, text, cases)
audits = st.builds(Audit, text, text, text, positions, LONG, st.dictionaries(text, text, max_size=4))
verdicts = st.builds(
    ReviewVerdict,
    review_id=text,
    kind=st.sampled_from(VerdictKind),
    answer=st.none() | json_object,
    reviewer=st.none() | text,
    reason=text,
    decided_ms=LONG,
    revision=INT,
    item=text,
    digest=text,
)
outcomes = st.builds(DecisionOutcome, text, INT, st.sampled_from(OutcomeKind), st.none() | NUMBER, LONG, text)
