"""What is measured: the load, the work per record, and when a run is long enough."""

from dataclasses import dataclass, replace
from enum import StrEnum

RELAYS = ("lockgate", "confluent-loop", "faust", "faust-tuned", "faststream", "faststream-tuned")


class Shape(StrEnum):
    """What a record looks like."""

    VALUE = "value"  # key and 500 bytes
    EVENT = "event"  # the same with the headers of a workflow event, which a system must pass on
    TICKET = "ticket"  # an event of the shipped workflow, in Avro


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    partitions: int
    keys: int
    records: int
    """Preloaded: a multiple of `keys`, every key gets the same number."""
    work_s: float
    """Each record is worked on for this long (asyncio.sleep), one record of a key at a time."""
    paced_per_s: float = 500.0
    paced_s: float = 10.0
    warm_up: float = 0.1
    """Share of the records that come out before the window opens."""
    window_s: float = 10.0
    shape: Shape = Shape.VALUE
    systems: tuple[str, ...] = RELAYS

    @property
    def ceiling(self) -> float | None:
        """Events/s that order per key allows: every key always busy. None where there is no work."""
        return self.keys / self.work_s if self.work_s else None

    def short(self) -> "Scenario":
        """The same shape in a fraction of the time: a smoke run, not a measurement."""
        return replace(
            self,
            records=self.keys * max(1, self.records // self.keys // 5),
            window_s=self.window_s / 3,
            paced_s=self.paced_s / 3,
        )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("passthrough", partitions=8, keys=1_000, records=600_000, work_s=0.0),
        Scenario("passthrough-headers", partitions=8, keys=1_000, records=400_000, work_s=0.0, shape=Shape.EVENT),
        Scenario("work-5ms", partitions=4, keys=100, records=100_000, work_s=0.005),
        Scenario("work-100ms", partitions=8, keys=1_000, records=80_000, work_s=0.1),
        Scenario(
            "pipeline",
            partitions=8,
            keys=1_000,
            records=20_000,
            work_s=0.0,
            warm_up=0.0,  # the first stage runs ahead of the last: what it does before any exit must count
            window_s=40.0,
            shape=Shape.TICKET,
            systems=("lockgate-pipeline",),
        ),
    )
}
