"""Which topics a proof speaks about: the way of an event, and the side exits from it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.proof.ledger import Record

STAGES = ("enrichment", "inference", "validation", "routing")
WAY = ("workflow-events", "workflow-enriched", "workflow-inferred", "workflow-validated", "decisions")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage with the physical names of its topics. A stage without retries has no retry topic."""

    name: str
    input: str
    output: str
    group: str
    retry: str | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """Stages in order, each reading what the one before it wrote, with the exits that they share.

    `final` names the place of what came out at the end. `prefix` stands before the logical names that
    `lockgate_source_topic` carries. `is_duplicate` tells which audit records speak of a dropped repeat.
    """

    stages: tuple[Stage, ...]
    dead_letter: str | None = None
    review: str | None = None
    blocked: str | None = None
    audit: str | None = None
    is_duplicate: Callable[[Record], bool] | None = None
    final: str = "decision"
    prefix: str = ""
    keeps_partition: bool = True
    """Whether each stage writes to the partition number that it read from."""
    from_the_start: bool = True
    """Whether the entrance is workflow-events itself, so that `lockgate_origin_*` means positions in it."""

    def __post_init__(self) -> None:
        for one, following in zip(self.stages, self.stages[1:], strict=False):
            if one.output != following.input:
                raise ValueError(f"{following.name} reads {following.input}, but {one.name} writes {one.output}")
        if (self.audit is None) != (self.is_duplicate is None):
            raise ValueError("an audit topic and the way to read duplicates from it belong together")

    @property
    def entrance(self) -> str:
        return self.stages[0].input

    @property
    def exits(self) -> dict[str, str]:
        """Topic -> name of the place, for every topic where the way of an event ends."""
        named = {
            self.stages[-1].output: self.final,
            self.dead_letter: "dead_letter",
            self.review: "open_review",
            self.blocked: "blocked",
        }
        return {topic: place for topic, place in named.items() if topic is not None}

    @property
    def topics(self) -> tuple[str, ...]:
        """Everything that must be read for this proof."""
        wanted = [self.entrance, *self.exits]
        for stage in self.stages:
            wanted += [stage.output, *([stage.retry] if stage.retry else [])]
        if self.audit:
            wanted.append(self.audit)
        return tuple(dict.fromkeys(wanted))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(stage.group for stage in self.stages)

    def physical(self, topic: str) -> str:
        return topic if topic in self.topics else self.prefix + topic


def chain(environment: str, is_duplicate: Callable[[Record], bool] | None = None) -> Topology:
    """The whole pipeline of one environment, from workflow-events to decisions."""
    at = [f"{environment}.{topic}" for topic in WAY]
    stages = tuple(
        Stage(name, at[i], at[i + 1], f"{environment}.{name}", f"{environment}.retry-{name}")
        for i, name in enumerate(STAGES)
    )
    return _with_exits(environment, stages, is_duplicate, from_the_start=True)


def single(environment: str, name: str, is_duplicate: Callable[[Record], bool] | None = None) -> Topology:
    """One stage of the pipeline on its own: what it reads counts as published."""
    i = STAGES.index(name)
    stage = Stage(
        name,
        f"{environment}.{WAY[i]}",
        f"{environment}.{WAY[i + 1]}",
        f"{environment}.{name}",
        f"{environment}.retry-{name}",
    )
    return _with_exits(environment, (stage,), is_duplicate, from_the_start=i == 0)


def _with_exits(
    environment: str,
    stages: tuple[Stage, ...],
    is_duplicate: Callable[[Record], bool] | None,
    *,
    from_the_start: bool,
) -> Topology:
    return Topology(
        stages,
        dead_letter=f"{environment}.dead-letter",
        review=f"{environment}.human-review",
        blocked=f"{environment}.blocked",
        audit=f"{environment}.audit" if is_duplicate else None,
        is_duplicate=is_duplicate,
        prefix=f"{environment}.",
        from_the_start=from_the_start,
    )
