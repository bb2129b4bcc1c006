import asyncio
import shutil
from pathlib import Path

import pytest

import pipeline.workflows
from pipeline.errors import ConfigError, FailureClass, StepError
from pipeline.models.rules import RulesModel
from pipeline.records import Event
from pipeline.workflow import load_workflow, read_training

WORKFLOW = load_workflow(Path(pipeline.workflows.__file__).parent / "ticket_triage")


def ask(model, text):
    return asyncio.run(model.predict(Event("s", "1", WORKFLOW.event_type, None, None, {"text": text}), ()))


def start(tmp_path, rules):
    folder = tmp_path / "ticket_triage"
    shutil.copytree(WORKFLOW.folder, folder)
    (folder / "rules.yaml").write_text(rules, "utf-8")
    return RulesModel.start(load_workflow(folder))


def test_a_phrase_anywhere_in_the_text_in_any_case_is_enough():
    inference = ask(RulesModel.start(WORKFLOW), "Help! I have LOST  my\ncard")
    assert inference.answer == WORKFLOW.answer("card_lost_stolen")
    assert (inference.provider, inference.confidence, inference.confidence_source) == ("rules", 0.9, "declared")


@pytest.mark.parametrize("text", ["spin it", "pinned note"])
def test_a_part_of_a_word_is_not_the_word(text):
    assert ask(RulesModel.start(WORKFLOW), text).answer == WORKFLOW.answer("other")


def test_a_rule_may_be_written_in_any_case_too(tmp_path):
    assert ask(start(tmp_path, "rules: [{intent: pin, any: [PIN Code]}]"), "my pin code").answer["intent"] == "pin"


def test_the_first_rule_that_matches_wins():
    assert ask(RulesModel.start(WORKFLOW), "my pin and my card was stolen").answer["intent"] == "card_lost_stolen"


def test_a_rule_without_confidence_sorts_but_does_not_decide(tmp_path):
    model = start(tmp_path, "rules: [{intent: loan, any: [loan]}]")
    inference = ask(model, "a loan please")
    assert (inference.answer["intent"], inference.confidence) == ("loan", None)


@pytest.mark.parametrize("text", ["", "nothing that a rule knows"])
def test_no_match_is_the_fallback_without_confidence(text):
    inference = ask(RulesModel.start(WORKFLOW), text)
    assert (inference.answer, inference.confidence) == (WORKFLOW.answer("other"), None)


def test_the_model_is_named_by_its_rules(tmp_path):
    assert start(tmp_path, "rules: [{intent: loan, any: [loan]}]").model != RulesModel.start(WORKFLOW).model


def test_data_without_a_text_is_a_permanent_failure():
    with pytest.raises(StepError) as failure:
        ask(RulesModel.start(WORKFLOW), None)
    assert failure.value.failure is FailureClass.PERMANENT


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ("rules: []", "rules: .*at least 1"),
        ("", "rules.yaml"),
        ("rules: [{intent: loans, any: [loan]}]", "unknown intent 'loans'; did you mean 'loan'"),
        ("rules: [{intent: loan, any: []}]", "any: .*at least 1"),
        ("rules: [{intent: loan, any: [' ']}]", "any"),
        ("rules: [{intent: loan, any: [loan], confidence: 2}]", "confidence"),
        ("rules: [{intent: loan, phrases: [loan]}]", "phrases"),
    ],
    ids=["none", "empty", "unknown", "no-phrase", "blank", "too-sure", "unknown-key"],
)
def test_rules_that_cannot_be_meant_are_refused(tmp_path, rules, complaint):
    with pytest.raises(ConfigError, match=complaint):
        start(tmp_path, rules)


def test_a_workflow_without_rules_is_refused():
    with pytest.raises(ConfigError, match="no rules are named"):
        RulesModel.start(WORKFLOW.model_copy(update={"rules": None}))


def test_no_shipped_rule_vouches_for_more_than_it_keeps():
    """Each confidence is held against the training file: the share of the messages it takes that it takes rightly."""
    model = RulesModel.start(WORKFLOW)
    kept = {}
    for example in read_training(WORKFLOW):
        inference = ask(model, example.text)
        if inference.confidence is not None:
            kept.setdefault((inference.answer["intent"], inference.confidence), []).append(
                inference.answer["intent"] == example.intent
            )
    assert len(kept) >= 3
    for (_, vouched), right in kept.items():
        assert len(right) >= 10
        assert sum(right) / len(right) >= vouched
