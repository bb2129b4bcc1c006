"""The port of every context source: what the pipeline may rely on, whatever answers behind it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.records import Event
from pipeline.steps.enrich import LookedUp, Missing, referred
from pipeline.workflow import ContextRule


class Source(Protocol):
    """Knows one kind of thing by its key: customers, products. `lookup` may be called many times at once."""

    @property
    def name(self) -> str:
        """What people call it: context-customers."""

    async def lookup(self, key: str) -> LookedUp:
        """The newest that is known under the key. StepError (transient) when the source cannot say.

        Never Missing for any other reason than that nothing is there.
        """

    async def close(self) -> None:
        """Frees what it holds. Safe to call again."""


async def look_up(event: Event, rules: Sequence[ContextRule], sources: Mapping[str, Source]) -> Mapping[str, LookedUp]:
    """What the sources know around an event, by the names of the rules. `sources` are keyed by their topics.

    One after the other, since a key may come from what was found before. An event without the key finds nothing.
    """
    looked_up: dict[str, LookedUp] = {}
    for rule in rules:
        key = referred(rule.key, event, looked_up)
        looked_up[rule.name] = Missing(rule.topic) if key is None else await sources[rule.topic].lookup(key)
    return looked_up
