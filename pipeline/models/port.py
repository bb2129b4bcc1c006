"""The port of every provider: what the pipeline may rely on, whatever answers behind it."""

from typing import Protocol

from pipeline.errors import StepError
from pipeline.records import Event
from pipeline.steps.infer import Predicts


class Provider(Predicts, Protocol):
    """Answers for one workflow. Made for one event loop; `predict` may be called many times at once.

    `predict` raises StepError and nothing else: transient or budget to be tried again, permanent to be given up.
    A cancelled call leaves the others alone.
    """

    @property
    def name(self) -> str:
        """What people call it: local, rules."""

    @property
    def model(self) -> str:
        """Exactly what answered: equal names give equal answers for equal events, where the provider can."""

    async def close(self) -> None:
        """Answers what was asked, refuses what comes later, frees what it holds. Safe to call again."""


def text_of(event: Event, field: str) -> str:
    """The text a model reads. StepError (permanent) when the data holds none: enrichment should have seen it."""
    text = event.data.get(field)
    if not isinstance(text, str):
        raise StepError(f"data.{field}: expected string")
    return text
