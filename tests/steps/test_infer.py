from dataclasses import replace

import pytest

from pipeline.errors import FailureClass, StepError
from pipeline.outcome import Blocked, Dead, Next, Retry, Review
from pipeline.records import ContextField
from pipeline.steps.infer import infer
from tests.steps.cases import ENRICHED, INFERENCE, INFERRED, VALIDATED, Provider, finish


def infer_with(result, case=ENRICHED):
    return finish(infer(case, Provider(result)))


def test_the_answer_travels_with_the_case():
    assert infer_with(INFERENCE) == Next(INFERRED)


def test_the_provider_sees_the_event_and_its_context():
    context = (ContextField("customer", "gold", "context-customer", 5),)
    provider = Provider(INFERENCE)
    finish(infer(replace(ENRICHED, context=context), provider))
    assert provider.asked == [(ENRICHED.event, context)]


def test_checks_of_an_earlier_answer_do_not_vouch_for_the_new_one():
    assert infer_with(INFERENCE, VALIDATED).record.checks == ()


OUTCOMES = {
    FailureClass.TRANSIENT: Retry("why", failure=FailureClass.TRANSIENT),
    FailureClass.BUDGET: Retry("why", failure=FailureClass.BUDGET),
    FailureClass.PERMANENT: Dead("why", FailureClass.PERMANENT),
    FailureClass.POISON: Dead("why", FailureClass.POISON),
    FailureClass.POLICY: Blocked("why", ENRICHED),
    FailureClass.AMBIGUOUS: Review(("why",), ENRICHED),
}


@pytest.mark.parametrize("failure", FailureClass)
def test_the_class_of_a_failure_chooses_the_outcome(failure):
    assert infer_with(StepError("why", failure)) == OUTCOMES[failure]


def test_a_fault_in_the_provider_is_left_to_the_delivery():
    with pytest.raises(ZeroDivisionError):
        infer_with(ZeroDivisionError())
