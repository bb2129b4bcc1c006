"""The example of a downstream system: each decision once, nothing stale, no report lost."""

from dataclasses import replace

import pytest

from agents.examples.outcome_consumer import NAME, Memory
from pipeline.records import Decision, Position

FIRST = Decision(
    "d1", 1, None, "/bank", "m-1", "c-1", "ticket_triage", "r", "freeze_card", {"action": "freeze_card"}, 0.9,
    ("checks_passed",), "auto", Position("workflow-events", 0, 10, 0),
)  # fmt: skip
CORRECTED = replace(FIRST, decision_id="d1b", revision=2, supersedes="d1", action="none")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "done.sqlite"


@pytest.fixture
def memory(file):
    return Memory(file)


def at(offset, name):
    return replace(FIRST, decision_id=name, origin=replace(FIRST.origin, offset=offset))


def took(memory, decision, lane="0:aa"):
    return memory.take(decision, lane).partition(":")[0]


def owed(memory):
    return [(report.decision_id, report.revision, report.outcome.value) for report in memory.unreported()]


def test_a_decision_is_carried_out_once(memory):
    assert [took(memory, FIRST), took(memory, FIRST)] == ["executed", "repeat"]
    assert owed(memory) == [("d1", 1, "executed")]


def test_what_was_carried_out_is_known_after_a_restart(memory, file):
    took(memory, FIRST)
    memory.close()
    assert took(Memory(file), FIRST) == "repeat"


def test_a_decision_about_an_older_event_of_the_key_is_refused(memory):
    assert [took(memory, at(12, "new")), took(memory, at(11, "old"))] == ["executed", "stale"]
    assert owed(memory) == [("new", 1, "executed"), ("old", 1, "rejected")]


def test_other_keys_have_an_order_of_their_own(memory):
    took(memory, at(12, "new"))
    assert took(memory, at(11, "old"), "0:bb") == "executed"


def test_without_a_key_there_is_no_order(memory):
    assert [took(memory, at(12, "new"), None), took(memory, at(11, "old"), None)] == ["executed", "executed"]


def test_a_correction_takes_back_what_was_done_before(memory):
    assert [took(memory, FIRST), took(memory, CORRECTED)] == ["executed", "executed"]
    assert owed(memory) == [("d1", 1, "executed"), ("d1", 1, "reversed"), ("d1b", 2, "executed")]


def test_the_corrected_decision_is_stale_when_its_correction_came_first(memory):
    assert [took(memory, CORRECTED), took(memory, FIRST)] == ["executed", "stale"]
    assert owed(memory) == [("d1b", 2, "executed"), ("d1", 1, "rejected")]


def test_a_report_is_owed_until_it_is_published_whatever_happens_between(memory, file):
    took(memory, FIRST)
    memory.close()
    again = Memory(file)
    [report] = again.unreported()
    assert (report.outcome.value, report.cost, report.reported_by) == ("executed", 1.0, NAME)
    again.reported()
    assert owed(again) == []
    assert owed(Memory(file)) == []


def test_work_and_report_are_written_down_together_or_not_at_all(memory, monkeypatch):
    def fail(_):
        raise RuntimeError("the work failed")

    with monkeypatch.context() as broken:
        broken.setattr("agents.examples.outcome_consumer.carry_out", fail)
        with pytest.raises(RuntimeError):
            took(memory, FIRST)
    assert owed(memory) == []
    assert took(memory, FIRST) == "executed"
