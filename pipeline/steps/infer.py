"""Inference: asks a provider about a case, and turns a failure into the outcome of its class."""

from dataclasses import replace
from typing import Protocol, assert_never

from pipeline.errors import FailureClass, StepError
from pipeline.outcome import Blocked, Dead, Next, Outcome, Retry, Review
from pipeline.records import Case, ContextField, Event, Inference


class Predicts(Protocol):
    """All that the step needs of a provider."""

    async def predict(self, event: Event, context: tuple[ContextField, ...]) -> Inference:
        """An answer about the event, or a StepError with the class of the failure."""


async def infer(case: Case, provider: Predicts) -> Outcome:
    """The case with the provider's answer. Checks of an earlier answer do not outlive it.

    Only StepError is expected. Any other exception is a fault in the provider and is left to the delivery, which
    ends every exception in an outcome and writes the trace to the log.
    """
    try:
        inference = await provider.predict(case.event, case.context)
    except StepError as error:
        return _outcome(case, error.cause, error.failure)
    return Next(replace(case, inference=inference, checks=()))


def _outcome(case: Case, cause: str, failure: FailureClass) -> Outcome:
    match failure:
        case FailureClass.TRANSIENT | FailureClass.BUDGET:
            return Retry(cause, failure=failure)
        case FailureClass.PERMANENT | FailureClass.POISON:
            return Dead(cause, failure)
        case FailureClass.POLICY:
            return Blocked(cause, case)
        case FailureClass.AMBIGUOUS:
            return Review((cause,), case)
        case _:
            assert_never(failure)
