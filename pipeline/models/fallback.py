"""Providers in a row behind one port: the first answers, and when it cannot, the next one does. Rules come last."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from pipeline.errors import FailureClass, StepError
from pipeline.models.port import Provider
from pipeline.records import ContextField, Event, Inference

log = logging.getLogger(__name__)

_ANOTHER_MAY = (FailureClass.TRANSIENT, FailureClass.BUDGET, FailureClass.PERMANENT)
"""Another provider may do better. Poison, policy and an ambiguous answer are not the provider's to mend."""
_SILENCE_S = 30.0
"""The log says at most this often that another one answers."""


class Fallback:
    """Whoever answers is named in the answer. All of them together have `deadline_s`, shared equally by those left:
    a model that hangs leaves the rules their time.
    """

    def __init__(self, providers: Sequence[Provider], deadline_s: float) -> None:
        if not providers:
            raise ValueError("a chain needs a provider")
        self.answers: Counter[str] = Counter()
        """How many each provider has given, by its name."""
        self._providers = tuple(providers)
        self._deadline_s = deadline_s
        self._silent_until_s = 0.0

    @property
    def name(self) -> str:
        """Who is asked, in this order."""
        return ">".join(provider.name for provider in self._providers)

    @property
    def model(self) -> str:
        """The models, in the same order."""
        return ">".join(provider.model for provider in self._providers)

    async def predict(self, event: Event, context: tuple[ContextField, ...]) -> Inference:
        """The first answer. StepError with the class of the last failure when nobody has one, and every cause in it.

        A cancelled call ends at once: nobody else is asked.
        """
        ends_s = asyncio.get_running_loop().time() + self._deadline_s
        causes: list[str] = []
        failure = FailureClass.TRANSIENT
        for asked, provider in enumerate(self._providers):
            share_s = (ends_s - asyncio.get_running_loop().time()) / (len(self._providers) - asked)
            try:
                async with asyncio.timeout(share_s):
                    inference = await provider.predict(event, context)
            except TimeoutError:
                failure = FailureClass.TRANSIENT
                causes.append(f"{provider.name}: no answer within {share_s:.3g} s")
            except StepError as error:
                if error.failure not in _ANOTHER_MAY:
                    raise
                failure = error.failure
                causes.append(error.cause)
            else:
                self._note(provider.name, causes)
                return inference
        raise StepError("; ".join(causes), failure)

    async def close(self) -> None:
        """Closes every provider."""
        await asyncio.gather(*(provider.close() for provider in self._providers))

    def _note(self, answered: str, causes: list[str]) -> None:
        self.answers[answered] += 1
        now_s = asyncio.get_running_loop().time()
        if causes and now_s >= self._silent_until_s:
            self._silent_until_s = now_s + _SILENCE_S
            log.warning("%s answers in place of %s: %s", answered, self._providers[0].name, "; ".join(causes))
