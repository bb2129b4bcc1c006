"""Providers in a row: who answers, who is asked after whom, and what is left when nobody can."""

import asyncio
from pathlib import Path

import pytest

import pipeline.workflows
from pipeline.errors import FailureClass, StepError
from pipeline.models.fallback import Fallback
from pipeline.models.rules import RulesModel
from pipeline.records import Event, Inference
from pipeline.workflow import load_workflow

EVENT = Event("bank", "1", "type", "c", None, {"text": "I lost my card"})
CLASSES_FOR_THE_NEXT = [FailureClass.TRANSIENT, FailureClass.BUDGET, FailureClass.PERMANENT]


class Model:
    """Answers, fails with what it was given, or hangs."""

    def __init__(self, name, failure=None, *, hangs=False):
        self.name, self.model = name, f"{name}-1"
        self.failure, self.hangs = failure, hangs
        self.asked = self.closed = 0

    async def predict(self, event, context):
        self.asked += 1
        await asyncio.sleep(0)  # as any provider that works beside the loop: it needs a moment of its own
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return Inference(self.name, self.model, {"intent": "x"}, 0.9, "probability", 1.0)

    async def close(self):
        self.closed += 1


def asked(*models, deadline_s=30.0):
    async def ask():
        return await Fallback(models, deadline_s).predict(EVENT, ())

    return asyncio.run(ask())


def test_the_first_one_answers_and_nobody_else_is_asked():
    second = Model("rules")
    assert asked(Model("local"), second).provider == "local"
    assert second.asked == 0


@pytest.mark.parametrize("failure", CLASSES_FOR_THE_NEXT)
def test_when_it_fails_the_next_one_answers_under_its_own_name(failure):
    assert asked(Model("local", StepError("down", failure)), Model("rules")).provider == "rules"


@pytest.mark.parametrize("failure", sorted(set(FailureClass) - set(CLASSES_FOR_THE_NEXT)))
def test_what_is_not_the_providers_to_mend_asks_nobody_else(failure):
    rules = Model("rules")
    with pytest.raises(StepError, match=r"^no$") as refusal:
        asked(Model("local", StepError("no", failure)), rules)
    assert refusal.value.failure is failure
    assert rules.asked == 0


def test_a_fault_in_a_provider_is_not_covered_up():
    with pytest.raises(ZeroDivisionError):
        asked(Model("local", ZeroDivisionError()), Model("rules"))


def test_when_all_fail_the_last_class_counts_and_every_cause_is_told():
    models = [
        Model("local", StepError("local: down", FailureClass.TRANSIENT)),
        Model("rules", StepError("rules: no text", FailureClass.PERMANENT)),
    ]
    with pytest.raises(StepError) as refusal:
        asked(*models)
    assert refusal.value.failure is FailureClass.PERMANENT
    assert refusal.value.cause == "local: down; rules: no text"


def test_a_model_that_hangs_leaves_the_rules_their_time():
    assert asked(Model("local", hangs=True), Model("rules"), deadline_s=0.05).provider == "rules"


def test_past_the_deadline_the_failure_is_transient():
    with pytest.raises(StepError, match=r"local: no answer within 0\.05 s") as refusal:
        asked(Model("local", hangs=True), deadline_s=0.05)
    assert refusal.value.failure is FailureClass.TRANSIENT


def test_all_together_keep_the_deadline():
    async def hurry():
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(StepError, match=r"a: no answer.*; b: no answer.*; c: no answer"):
            await Fallback([Model(name, hangs=True) for name in "abc"], 0.3).predict(EVENT, ())
        return loop.time() - began

    assert 0.29 < asyncio.run(hurry()) < 3


def test_a_cancelled_call_asks_nobody_else():
    rules = Model("rules")

    async def cancel_while_it_waits():
        task = asyncio.create_task(Fallback([Model("local", hangs=True), rules], 30).predict(EVENT, ()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_while_it_waits())
    assert rules.asked == 0


def test_it_counts_who_answered_and_says_so_once_when_another_one_does(caplog):
    local, rules = Model("local", StepError("down", FailureClass.TRANSIENT)), Model("rules")

    async def ask():
        chain = Fallback([local, rules], 30)
        for _ in range(5):
            await chain.predict(EVENT, ())
        local.failure = None
        await chain.predict(EVENT, ())
        return chain.answers

    assert asyncio.run(ask()) == {"rules": 5, "local": 1}
    assert [record.getMessage() for record in caplog.records] == ["rules answers in place of local: down"]


def test_closing_it_closes_everyone():
    models = [Model("local"), Model("rules")]
    asyncio.run(Fallback(models, 30).close())
    assert [model.closed for model in models] == [1, 1]


def test_it_names_whom_it_asks_in_order():
    chain = Fallback([Model("local"), Model("rules")], 30)
    assert (chain.name, chain.model) == ("local>rules", "local-1>rules-1")


def test_the_rules_of_the_shipped_workflow_are_its_last_resort():
    workflow = load_workflow(Path(pipeline.workflows.__file__).parent / "ticket_triage")
    broken = Model("local", StepError("down", FailureClass.TRANSIENT))
    answer = asked(broken, RulesModel.start(workflow))
    assert (answer.provider, answer.answer["action"]) == ("rules", "freeze_card")
