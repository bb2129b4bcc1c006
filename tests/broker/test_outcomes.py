"""What downstream reports: the example consumer against duplicates, stale and aborted decisions; the command."""

import json
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import replace

import pytest
from confluent_kafka import Producer

from agents.cli.output import ExitCode
from pipeline.records import Decision, DecisionOutcome, OutcomeKind, Position
from tests.broker.line import CODEC, ROOT, Line


def decision(name, offset, key="c-1", **changes):
    made = Decision(
        name, 1, None, "/bank", f"m-{offset}", key, "ticket_triage", "r", "send_status", {"action": "send_status"},
        0.9, ("checks_passed",), "auto", Position("workflow-events", 0, offset, 0),
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(scope="module")
def line(kafka, tmp_path_factory):
    """An environment with decisions in it, some of them twice, late, corrected or never committed."""
    line = Line(kafka, tmp_path_factory.mktemp("outcomes"))
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions()

    def write(*decisions, commit=True):
        producer.begin_transaction()
        for one in decisions:
            key = None if one.subject is None else one.subject.encode()
            producer.produce(f"{line.environment}.decisions", CODEC.encode(one), key, 0)
        producer.flush(20)
        producer.commit_transaction() if commit else producer.abort_transaction()

    first = decision("first", 10)
    write(first, first, decision("second", 12))
    write(decision("aborted", 13), commit=False)
    write(
        decision("late", 11),
        decision("other key", 3, "c-2"),
        decision("no key", 2, None),
        decision("no key 2", 1, None),
    )
    write(first, decision("corrected", 12, revision=2, supersedes="second", action="none"))
    return line


def consume(line):
    """What the example prints in one run, as counts of its first words."""
    command = [sys.executable, "-m", "agents.examples.outcome_consumer", *line.options, "--idle", "4"]
    ended = subprocess.run(
        [*command, "--memory", str(line.folder / "done.sqlite")], cwd=ROOT, capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    return Counter(text.partition(":")[0] for text in ended.stdout.splitlines())


def test_the_example_carries_out_each_decision_once_drops_stale_ones_and_reports(line):
    assert consume(line) == {"executed": 6, "repeat": 2, "stale": 1}
    reports = line.read("decision-outcomes", CODEC.decode_outcome)
    assert sorted((r.decision_id, r.revision, r.outcome.value) for r in reports) == [
        ("corrected", 2, "executed"),
        ("first", 1, "executed"),
        ("late", 1, "rejected"),
        ("no key", 1, "executed"),
        ("no key 2", 1, "executed"),
        ("other key", 1, "executed"),
        ("second", 1, "executed"),
        ("second", 1, "reversed"),
    ]
    assert {message.key().decode() for message in line.records("decision-outcomes")} == {r.decision_id for r in reports}
    assert consume(line) == {}
    assert len(line.records("decision-outcomes")) == len(reports)


def test_outcomes_are_counted_with_their_cost_and_repeats_count_once(line):
    for _ in range(2):
        report = DecisionOutcome("first", 1, OutcomeKind.REWORKED, 2.5, 1_764_000_000_000, "elsewhere")
        line.put("decision-outcomes", CODEC.encode(report), key=b"first")
    told = line.json("outcomes", "--decision", "first")
    assert (told["totals"]["reworked"], told["repeats"]) == ({"count": 1, "cost": 2.5}, 1)
    assert told["newest"][-1]["reported_by"] == "elsewhere"
    text = line.run("outcomes").stdout
    assert "reworked" in text
    assert "repeated reports, left out: 1" in text


def test_a_decision_without_a_report_is_not_found(line):
    result = line.run("outcomes", "--decision", "never")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "nothing was reported of decision never" in result.stderr


def test_what_is_no_report_is_named_and_the_others_are_counted(line):
    line.put("decision-outcomes", b'{"outcome": "executed"}', key=b"x")
    result = line.run("outcomes", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert "is no outcome" in result.stderr
    assert json.loads(result.stdout)["count"] >= 1


def test_without_reports_that_is_said(kafka, tmp_path):
    assert Line(kafka, tmp_path).run("outcomes").stdout == "no outcomes were reported\n"
