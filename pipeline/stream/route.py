"""The topics of one stage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Side:
    """A second input with as many partitions as the first. Its partition p is read by the owner of input p.

    Its records keep the order of their keys among themselves, not with those of the input; a failing one is tried
    again in its lane and never parked.
    """

    topic: str
    source: str
    """Its name as topics.yaml has it."""


@dataclass(frozen=True, slots=True)
class Route:
    """The topics of one stage. Physical names, but for `source`, the input's name as topics.yaml has it."""

    stage: str
    group: str
    source: str
    input: str
    retry: str
    dead_letter: str
    state: str | None = None
    """The topic of the stage's keyed memory; None for a stage that remembers nothing."""
    side: Side | None = None

    @property
    def read(self) -> tuple[str, ...]:
        """Every topic whose progress this stage commits."""
        return (self.input, self.retry, *((self.side.topic,) if self.side is not None else ()))
