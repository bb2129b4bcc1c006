"""What a stage writes about an event when it is finished with it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import Codec, event_headers
from pipeline.errors import FailureClass
from pipeline.outcome import Blocked, Dead, Next, Review
from pipeline.records import CheckResult, Decision, Event, Position, Verdict, decision_id
from pipeline.stream import output
from pipeline.stream.case_exits import CaseExits
from pipeline.stream.exits import conclude
from pipeline.stream.route import Side
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.profile import quick
from tests.engine.test_once import BESIDE
from tests.engine.test_once import a_tenure as a_tenure_with_side
from tests.steps.cases import ENRICHED, EVENT, INFERRED, ORIGIN, VALIDATED, WORKFLOW

CODEC = Codec()
NOW_S = 1_748_772_009.5
REVIEW_ID = decision_id(EVENT, WORKFLOW.name, 1)
DECISION = Decision(
    REVIEW_ID, 1, None, EVENT.source, EVENT.id, EVENT.subject, WORKFLOW.name, WORKFLOW.release,
    "freeze_card", {"action": "freeze_card"}, 0.9, ("checks_passed", "confidence_reached"), "auto", ORIGIN,
)  # fmt: skip


class Clock:
    def time(self):
        return NOW_S


def exits(stage="routing", source="in"):
    return CaseExits(CODEC, stage, source, "dev.on", "dev.review", "dev.blocked", "dev.audit", Clock())


def headers(*more):
    return (
        *event_headers(EVENT),
        ("traceparent", b"00-1-2-01"),
        (output.ORIGIN_PARTITION, b"3"),
        (output.ORIGIN_OFFSET, b"41"),
        (output.ORIGIN_TIMESTAMP, b"1748772000000"),
        *more,
    )


def a_case_record(track=None, **more):
    return a_delivery(track, 7, key=b"customer-7", value=b"bytes", headers=headers(), **more)


def written(outcome, delivery=None, stage="routing", route=ROUTE):
    """The records of an outcome, the audit record decoded and last."""
    delivery = delivery or a_case_record()
    *others, audit = conclude(route, exits(stage), delivery, outcome, NOW_S)
    assert audit.topic == "dev.audit"
    return others, CODEC.decode_audit(audit.value), audit


@pytest.mark.parametrize(
    ("stage", "outcome", "topic", "kind", "detail"),
    [
        (
            "enrichment",
            Next(ENRICHED),
            "dev.on",
            "enriched",
            {"workflow": "ticket_triage", "release": WORKFLOW.release},
        ),
        (
            "inference",
            Next(INFERRED),
            "dev.on",
            "inferred",
            {"provider": "local", "model": "0123456789abcdef", "confidence": "0.93"},
        ),
        ("validation", Next(VALIDATED), "dev.on", "validated", {"checks": "5", "not_passed": ""}),
        (
            "routing",
            Next(DECISION, once=REVIEW_ID),
            "dev.on",
            "decided",
            {
                "decision_id": REVIEW_ID,
                "revision": "1",
                "action": "freeze_card",
                "decided_by": "auto",
                "reasons": "checks_passed,confidence_reached",
            },
        ),
        (
            "inference",
            Review(("a", "b"), ENRICHED),
            "dev.review",
            "review",
            {"review_id": REVIEW_ID, "reasons": "a,b"},
        ),
        ("routing", Blocked("allowed_actions", VALIDATED), "dev.blocked", "blocked", {"control": "allowed_actions"}),
        ("routing", Dead("because"), "dev.dead", "dead", {"class": "permanent", "cause": "because"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_event_that_a_stage_is_finished_with_is_audited_once(stage, outcome, topic, kind, detail):
    [record], audit, raw = written(outcome, stage=stage)
    assert record.topic == topic
    assert (audit.stage, audit.kind, audit.detail) == (stage, kind, detail)
    assert (audit.identity, audit.origin, audit.at_ms) == (EVENT.identity, ORIGIN, 1_748_772_009_500)
    assert raw.key == b"customer-7"


def test_a_check_that_did_not_pass_is_named():
    checks = (*VALIDATED.checks[:-1], CheckResult("confidence", Verdict.ABSTAIN, "none_given"))
    _, audit, _ = written(Next(replace(VALIDATED, checks=checks)), stage="validation")
    assert audit.detail == {"checks": "5", "not_passed": "confidence:abstain"}


def test_a_correction_names_what_it_supersedes():
    _, audit, _ = written(Next(replace(DECISION, revision=2, supersedes="d1")))
    assert (audit.detail["revision"], audit.detail["supersedes"]) == ("2", "d1")


def test_identity_and_first_position_stand_in_the_headers_of_all_that_is_written():
    for outcome in (Next(DECISION), Review((), VALIDATED), Blocked("c", VALIDATED), Dead("because")):
        others, _, audit = written(outcome)
        for record in (*others, audit):
            said = dict(record.headers)
            assert (said["ce_source"], said["ce_id"], said["ce_subject"]) == (b"bank/chat", b"m-1", b"customer-7")
            assert (said[output.ORIGIN_PARTITION], said[output.ORIGIN_OFFSET]) == (b"3", b"41")
            assert said["traceparent"] == b"00-1-2-01"


def test_a_structured_event_is_named_by_headers_from_the_first_stage_on():
    """Its attributes stand in its value; what else stands in its headers says nothing about it."""
    delivery = a_delivery(None, 41, headers=(("content-type", b"application/cloudevents+json"), ("ce_id", b"other")))
    delivery.record = EVENT
    [record], _, audit = written(Next(ENRICHED), delivery, stage="enrichment")
    for one in (record, audit):
        said = [content for name, content in one.headers if name == "ce_id"]
        assert said == [b"m-1"]
        assert dict(one.headers)["ce_source"] == b"bank/chat"


# -- dead letters -------------------------------------------------------------------------------------------


def test_bytes_that_nobody_can_read_are_audited_by_their_position():
    tenure = a_tenure(5)
    _, audit, _ = written(Dead("poison", FailureClass.POISON), a_delivery(tenure.input, 99), stage="enrichment")
    assert (audit.identity, audit.origin) == ("in-5-99", Position("in", 5, 99, 1_099))
    assert audit.detail == {"class": "poison", "cause": "poison"}


def test_what_can_be_named_is_named_even_if_it_cannot_be_read():
    _, audit, _ = written(Dead("poison"))
    assert (audit.identity, audit.origin) == (EVENT.identity, ORIGIN)


def test_a_publisher_cannot_say_where_its_event_lies():
    """At the entrance the headers are the publisher's, and the position is where it was read."""
    route = replace(ROUTE, source="workflow-events")
    tenure = a_tenure(5)
    tenure.input.source = "workflow-events"
    delivery = a_delivery(tenure.input, 99, headers=headers())
    delivery.record = Event("s", "1", "t", None, None, {})
    _, audit, _ = written(Dead("unknown_event_type"), delivery, stage="enrichment", route=route)
    assert (audit.identity, audit.origin) == ("1:s/1", Position("workflow-events", 5, 99, 1_099))


@quick
@given(
    st.text(max_size=2_000), st.lists(st.tuples(st.sampled_from(["ce_id", "ce_source", "x"]), st.binary(max_size=9)))
)
def test_a_dead_letter_is_written_with_its_audit_whatever_it_holds(cause, said):
    delivery = a_delivery(None, 3, headers=tuple(said))
    letter, audit = conclude(ROUTE, exits(), delivery, Dead(cause), NOW_S)
    assert letter.topic == "dev.dead"
    assert len(CODEC.decode_audit(audit.value).detail["cause"].encode()) <= output.CAUSE_LIMIT


def test_a_dead_letter_is_written_even_if_its_audit_cannot_be():
    class Faulty:
        def dead(self, delivery, cause, failure, now_s):
            raise RuntimeError("a fault of ours")

    [letter] = conclude(ROUTE, Faulty(), a_case_record(), Dead("because"), NOW_S)
    assert letter.topic == "dev.dead"


# -- verdicts -----------------------------------------------------------------------------------------------


def test_what_a_verdict_brought_about_can_be_found_by_the_place_of_the_verdict():
    for outcome in (Next(DECISION), Dead("action_not_allowed")):
        delivery = a_case_record(a_tenure_with_side().side)
        _, audit, _ = written(outcome, delivery, route=BESIDE)
        assert audit.detail["verdict"] == "0:7"
    assert BESIDE.side == Side("dev.beside", "beside")


def test_a_verdict_that_came_second_says_what_it_would_have_decided():
    delivery = a_case_record(a_tenure_with_side().side)
    [record] = exits().superseded(delivery, Next(DECISION, once=REVIEW_ID), NOW_S)
    audit = CODEC.decode_audit(record.value)
    assert (audit.kind, audit.identity, audit.origin) == ("superseded", EVENT.identity, ORIGIN)
    assert audit.detail == {"once": REVIEW_ID, "action": "freeze_card", "decided_by": "auto", "verdict": "0:7"}
