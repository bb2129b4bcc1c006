"""`lockgate explain` on the whole pipeline: every kind of end that an event can have, told from the topics."""

import json

import pytest

from agents.cli.output import ExitCode
from pipeline.codec import event_headers
from pipeline.records import DecisionOutcome, Event, OutcomeKind
from tests.broker.line import CODEC, WORKFLOW, Line

SURE = "somebody stole my card, please block it now"
MEIER = ["--reviewer", "a.meier", "--reason", "looked at it"]


def event(name, text=SURE, *, source="/bank", subject="cust-1"):
    data = {"text": text, "channel": "chat", "language": "en", "customer_id": subject}
    return Event(source, name, WORKFLOW.event_type, subject, "2026-03-02T10:11:21Z", data)


class Whole(Line):
    """A line with all stages, and a customer."""

    def publish(self, about, *, value=None, headers=None, partition=0):
        headers = event_headers(about) if headers is None else headers
        value = CODEC.encode_event(about.data) if value is None else value
        return self.put("workflow-events", value, key=about.subject.encode(), headers=headers, partition=partition)

    def explained(self, name, *options):
        return self.json("explain", name, *options)

    def at(self, name, place):
        """Whether the event has come there."""
        result = self.run("explain", name, "--json")
        return result.exit_code == ExitCode.OK and json.loads(result.stdout)["place"] == place


@pytest.fixture(scope="module")
def line(kafka, tmp_path_factory):
    line = Whole(kafka, tmp_path_factory.mktemp("explain"))
    customer = {"customer_id": "cust-1", "segment": "retail", "language": "en", "product_id": "prod-1"}
    line.put("context-customers", json.dumps(customer).encode(), key=b"cust-1")
    line.poison_at = line.publish(event("poison"), value=b"{broken", headers=(("content-type", b"application/json"),))
    line.publish(event("sure"))
    line.publish(event("sure"))
    line.publish(event("unsure", "ξψω ξψω"))
    line.publish(event("stranger", subject="cust-unknown"), partition=1)
    line.publish(event("conflict"))
    line.publish(event("conflict", "something else"))
    line.publish(event("odd"), headers=event_headers(Event("/bank", "odd", "no.such.type", "cust-1", None, {})))
    line.publish(event("twice", source="/here"))
    line.publish(event("twice", source="/there"))
    structured = {"specversion": "1.0", "id": "é-1", "source": "/bank", "type": WORKFLOW.event_type}
    structured["data"] = event("x").data
    line.publish(
        event("x"),
        value=json.dumps(structured).encode(),
        headers=(("content-type", b"application/cloudevents+json"),),
    )
    with line.worker():
        line.eventually(lambda: line.at("é-1", "decision"))
        line.eventually(lambda: line.at("stranger", "open_review"))
        yield line


def kinds(story):
    return [record["topic"] for record in story["records"] if record["topic"] != "audit"]


def test_a_decision_is_explained_from_the_event_to_the_outcome(line):
    [decision] = line.explained("sure")["decisions"]
    report = DecisionOutcome(decision["decision_id"], 1, OutcomeKind.EXECUTED, 1.5, 1_764_000_000_000, "cards")
    line.put("decision-outcomes", CODEC.encode(report), key=decision["decision_id"].encode(), partition=1)
    story = line.explained(decision["decision_id"])
    assert (story["event_id"], story["place"], story["workflow"]) == ("sure", "decision", "ticket_triage")
    assert story["event"]["data"]["text"] == SURE
    customer = next(fact for fact in story["context"] if fact["name"] == "customer")
    assert customer["value"]["segment"] == "retail"
    assert 0 <= customer["age_ms"] < 600_000
    assert story["inference"]["answer"]["intent"] == "card_lost_stolen"
    assert {result["verdict"] for result in story["checks"]} == {"pass"}
    assert decision["reasons"] == ["checks_passed", "confidence_reached"]
    assert story["outcomes"][0]["cost"] == 1.5
    assert story["release"] == decision["release"]
    for topic in ("workflow-enriched", "workflow-inferred", "workflow-validated", "decisions", "decision-outcomes"):
        assert topic in kinds(story)


def test_every_stage_has_audited_how_it_ended(line):
    story = line.explained("sure")
    audited = [record["what"].partition(" (")[0] for record in story["records"] if record["topic"] == "audit"]
    assert sorted(audited) == [
        "enrichment: duplicate",
        "enrichment: enriched",
        "inference: inferred",
        "routing: decided",
        "validation: validated",
    ]


def test_records_come_in_the_order_of_time_with_their_places(line):
    records = line.explained("sure")["records"]
    assert [record["timestamp_ms"] for record in records] == sorted(record["timestamp_ms"] for record in records)
    assert [record["offset"] for record in records if record["topic"] == "workflow-events"] == [1, 2]
    assert {record["partition"] for record in records if record["topic"] != "decision-outcomes"} == {0}


def test_people_are_in_the_story_with_what_they_said(line):
    [review] = line.explained("unsure")["reviews"]
    assert "no_confidence" in review["reasons"]
    line.json("review", "decide", review["review_id"], "--modify", "intent=refund", *MEIER)
    story = line.explained(review["review_id"])
    assert story["place"] == "decision"
    [verdict] = story["verdicts"]
    assert (verdict["kind"], verdict["reviewer"], verdict["reason"], verdict["outcome"]) == (
        "modify", "a.meier", "looked at it", "decided",
    )  # fmt: skip
    line.json("correct", review["review_id"], "--intent", "fees", *MEIER)
    text = line.run("explain", "unsure").stdout
    assert "to people, because check_abstained:confidence, no_confidence" in text
    assert "modify by a.meier (looked at it); decided" in text
    assert f"supersedes {review['review_id']}" in text


def test_missing_context_is_told(line):
    story = line.explained("stranger")
    assert (story["place"], story["reviews"][0]["reasons"]) == ("open_review", ["context_missing:customer"])
    assert story["inference"] is None
    assert "no model was asked" in line.run("explain", "stranger").stdout


def test_a_dead_letter_is_told_with_its_cause_and_its_place(line):
    story = line.explained("odd")
    assert story["place"] == "dead_letter"
    [letter] = story["dead_letters"]
    assert (letter["stage"], letter["cause"]) == ("enrichment", "unknown_event_type")
    assert f"lockgate dlq show {letter['place']}" in line.run("explain", "odd").stdout


def test_what_nobody_can_read_is_found_by_its_position(line):
    name = f"workflow-events-0-{line.poison_at}"
    story = line.explained(name)
    assert (story["event_id"], story["event"], story["place"]) == (None, None, "dead_letter")
    assert kinds(story) == ["workflow-events", "dead-letter"]
    assert line.run("explain", name).stdout.startswith("event unreadable: a dead letter\n")


def test_the_second_of_a_conflict_is_told_beside_the_first(line):
    story = line.explained("conflict")
    assert story["place"] == "decision"
    assert story["dead_letters"][0]["cause"].startswith("conflict")


def test_a_structured_event_is_found_by_its_id_however_it_is_spelt(line):
    story = line.explained("é-1")
    assert (story["event_id"], story["place"]) == ("é-1", "decision")
    assert kinds(story)[0] == "workflow-events"


def test_one_id_of_two_publishers_must_be_told_apart(line):
    result = line.run("explain", "twice")
    assert result.exit_code == ExitCode.USAGE
    assert "/here, /there" in result.stderr
    assert line.explained("twice", "--source", "/there")["source"] == "/there"


@pytest.mark.parametrize("name", ["never", "workflow-events-0-999", "0" * 32])
def test_what_is_not_there_is_not_found_and_it_is_said_where_was_looked(line, name):
    result = line.run("explain", name)
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "Searched: workflow-events" in result.stderr
    assert "decision-outcomes" in result.stderr


def test_nothing_in_the_text_can_steer_a_terminal(line):
    line.publish(event("\x1b[31m", "\x1b[2J red"))
    line.eventually(lambda: line.run("explain", "\x1b[31m").exit_code == ExitCode.OK)
    assert "\x1b" not in line.run("explain", "\x1b[31m").stdout
