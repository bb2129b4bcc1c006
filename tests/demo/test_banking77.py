"""The short form of `python -m tests.demo.banking77`: each seventh question, and what holds without the set."""

from collections import Counter

import pytest

from pipeline.workflow import load_workflow, read_training
from tests.demo.banking77 import CSV, FRESH, NAME, Ending, Question, derive, intent_name, measure, questions, run
from tests.demo.expected import FOLDER

needs_the_set = pytest.mark.skipif(
    not CSV.is_file(), reason=f"banking77 is not in {CSV}: the set is no part of this project"
)


def question(number, intent, *, customer=0, held_out=False):
    return Question(f"q-{number}", f"question {number} about {intent}", intent, customer, held_out)


def mapped():
    from pipeline.config import read_yaml

    return [intent_name(label) for label in read_yaml(FOLDER / "banking77.yaml")]


def test_every_intent_of_the_set_has_an_answer_that_the_workflow_allows(tmp_path):
    names = mapped()
    folder = derive(tmp_path / NAME, [question(number, intent) for number, intent in enumerate(names)])
    workflow = load_workflow(folder / NAME)
    assert len(names) == len(set(names)) == 77
    assert set(workflow.intents) == {*names, "other"}
    assert workflow.queues <= load_workflow(FOLDER).queues


def test_what_is_held_out_is_not_trained_on(tmp_path):
    asked = [question(number, intent, held_out=number % 5 == 0) for number, intent in enumerate(mapped() * 5)]
    folder = derive(tmp_path / NAME, asked)
    trained = {example.text for example in read_training(load_workflow(folder / NAME))}
    assert [q for q in asked if (q.text in trained) is q.held_out] == []


def test_the_figures_count_held_out_questions_that_a_model_was_asked():
    held_out = [question(number, "loan") for number in range(5)]
    answers = [("decision", "loan"), ("decision", "fees"), ("review", "loan"), ("review", None)]
    endings = {
        f"q-{number}": Ending(place, (), intent and {"intent": intent})
        for number, (place, intent) in enumerate(answers)
    }
    figures = measure(held_out, endings)
    assert (figures["events"], figures["asked"], figures["automated"], figures["wrong"]) == (5, 3, 2, 1)
    assert (figures["accuracy"], figures["share_automated"], figures["error_among_automated"]) == (0.6667, 0.4, 0.5)


@needs_the_set
def test_a_fifth_of_each_intent_is_held_out_and_a_tenth_of_the_events_lacks_a_sound_customer():
    asked = questions(CSV)
    assert len(asked) == len({q.id for q in asked}) == 10_003
    of_intent = Counter(q.intent for q in asked)
    held_out = Counter(q.intent for q in asked if q.held_out)
    assert set(of_intent) == set(mapped())
    assert all(abs(held_out[intent] - count / 5) <= 2 for intent, count in of_intent.items())
    assert sum(q.customer >= FRESH for q in asked) == 1_000
    assert asked == questions(CSV)


@needs_the_set
@pytest.mark.broker
@pytest.mark.timeout(240)
def test_each_seventh_question_finds_its_place_and_sure_answers_are_mostly_right(line, tmp_path):
    asked = questions(CSV, every=7)
    figures = run(line, asked, tmp_path / NAME, bound_s=120)
    assert figures["faults"] == {}
    assert figures["conserved"]
    assert figures["published"] == len(asked) > 1_300
    unsound = figures["unsound_customers"]
    assert (
        unsound["events"]
        == unsound["review"]
        == unsound["context_missing:customer"] + unsound["context_stale:customer"]
    )
    held_out = figures["held_out"]
    assert held_out["accuracy"] > 0.7
    assert held_out["share_automated"] > 0.3
    assert held_out["error_among_automated"] < 0.1
