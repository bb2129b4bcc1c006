"""What holds for every step, whatever case it meets."""

import asyncio
from copy import deepcopy
from typing import get_args

import pytest
from hypothesis import given, settings

from pipeline.errors import FailureClass, StepError
from pipeline.outcome import Outcome
from pipeline.steps.enrich import enrich
from pipeline.steps.infer import infer
from pipeline.steps.route import route
from pipeline.steps.validate import validate
from tests.steps.cases import (
    ENRICHED,
    INFERENCE,
    NOW_MS,
    WITH_CONTEXT,
    WORKFLOW,
    WORKFLOWS,
    Provider,
    as_looked_up,
    cases,
    finish,
)

STEPS = {
    "enrich": lambda case: enrich(case.event, case.origin, WORKFLOWS, {}, NOW_MS),
    "enrich-with-context": lambda case: enrich(
        case.event, case.origin, {WORKFLOW.event_type: WITH_CONTEXT}, as_looked_up(case.context), NOW_MS
    ),
    "infer": lambda case: finish(infer(case, Provider(INFERENCE))),
    **{
        f"infer-{failure}": lambda case, failure=failure: finish(infer(case, Provider(StepError("why", failure))))
        for failure in FailureClass
    },
    "validate": lambda case: validate(case, WORKFLOW),
    "route": lambda case: route(case, WORKFLOW),
}

each_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
any_case = settings(max_examples=60, deadline=None)


@each_step
@any_case
@given(case=cases)
def test_it_returns_an_outcome_for_any_case_and_never_raises(step, case):
    assert isinstance(step(case), get_args(Outcome))


@each_step
@any_case
@given(case=cases)
def test_it_leaves_its_input_as_it_was(step, case):
    before = repr(deepcopy(case))
    step(case)
    assert repr(case) == before


@each_step
@any_case
@given(case=cases)
def test_it_says_the_same_about_the_same_case(step, case):
    assert repr(step(case)) == repr(step(deepcopy(case)))


def test_a_cancelled_inference_stays_cancelled():
    async def cancel_while_it_waits():
        class Never:
            async def predict(self, event, context):
                await asyncio.Event().wait()

        task = asyncio.create_task(infer(ENRICHED, Never()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_while_it_waits())
