"""What must be done so that a cluster has the topics that topics.yaml declares: a pure function of both.

Nothing here talks to Kafka, so a plan can be shown, tested, and applied later. Never does a plan delete. What would
break a promise is refused with TopicPlanRefused: fewer partitions, and replicas that the cluster cannot hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import TopicPlanRefused
from pipeline.topics import STAGE_INPUT, STAGES, Topic, Topics


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic that the cluster has. `own` are the settings made for this topic, the others come from the broker."""

    partitions: int
    replication: int
    settings: Mapping[str, str]
    own: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the cluster has of one environment: its topics by their names in Kafka."""

    brokers: int
    topics: Mapping[str, Existing]


@dataclass(frozen=True, slots=True)
class Create:
    """A topic to be made. `replication` None leaves it to the cluster."""

    topic: str
    partitions: int
    replication: int | None
    settings: Mapping[str, str]

    def __str__(self) -> str:
        copies = "the cluster's replication" if self.replication is None else f"replication {self.replication}"
        settings = ", ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return f"+ {self.topic}: {self.partitions} partitions, {copies}, {settings}"


@dataclass(frozen=True, slots=True)
class Grow:
    """A topic that gets more partitions."""

    topic: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"~ {self.topic}: {self.before} -> {self.after} partitions"


@dataclass(frozen=True, slots=True)
class Change:
    """One setting of a topic that gets another value."""

    topic: str
    setting: str
    before: str | None
    after: str

    def __str__(self) -> str:
        return f"~ {self.topic}: {self.setting} {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class Remark:
    """What somebody should know and `apply` does not touch: drift, a topic that nobody declared."""

    topic: str
    text: str

    def __str__(self) -> str:
        return f"! {self.topic}: {self.text}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` will do, and what it leaves alone."""

    environment: str
    creates: tuple[Create, ...] = ()
    grows: tuple[Grow, ...] = ()
    changes: tuple[Change, ...] = ()
    drift: tuple[Remark, ...] = ()
    unknown: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()
    stages_must_be_drained: bool = False

    @property
    def empty(self) -> bool:
        """Whether `apply` would change nothing."""
        return not (self.creates or self.grows or self.changes)

    def lines(self) -> list[str]:
        """The plan for people, one thing a line: `+` made, `~` changed, `!` left alone."""
        return [
            str(part)
            for parts in (self.creates, self.grows, self.changes, self.drift, self.unknown, self.notes)
            for part in parts
        ]


def decide(
    cluster: Cluster,
    topics: Topics,
    environment: str,
    *,
    replication: int | None = None,
    local: bool = False,
) -> Plan:
    """The plan for a cluster, or TopicPlanRefused with everything that stands against it."""
    creates: list[Create] = []
    grows: list[Grow] = []
    changes: list[Change] = []
    drift: list[Remark] = []
    refusals: list[str] = []
    for topic in _outputs_before_inputs(topics):
        name = topics.physical(environment, topic.name)
        wanted = replication or topic.replication
        copies = None if wanted == "broker" else wanted
        if copies is not None and copies > cluster.brokers and local and replication is None:
            copies = cluster.brokers
        existing = cluster.topics.get(name)
        if existing is None:
            if copies is not None and copies > cluster.brokers:
                refusals.append(_too_few_brokers(name, copies, cluster.brokers))
            creates.append(Create(name, topic.partitions, copies, topic.kafka_settings(copies)))
            continue
        if existing.partitions > topic.partitions:
            refusals.append(
                f"{name} has {existing.partitions} partitions and {topic.partitions} are declared: Kafka cannot take "
                "partitions away. Declare as many as there are, or use another environment"
            )
        elif existing.partitions < topic.partitions:
            grows.append(Grow(name, existing.partitions, topic.partitions))
        if copies is not None and existing.replication != copies:
            drift.append(
                Remark(name, f"has {existing.replication} replicas, not {copies}: reassign them with Kafka's tools")
            )
        declared = topic.kafka_settings(existing.replication)
        changes += _changes(name, existing, declared)
        drift += _foreign_settings(name, existing, declared)
    if refusals:
        raise TopicPlanRefused("\n".join(refusals))
    return Plan(
        environment,
        tuple(creates),
        tuple(grows),
        tuple(changes),
        tuple(drift),
        tuple(_unknown(cluster, topics, environment)),
        tuple(_notes(grows, topics, environment)),
        stages_must_be_drained=any(_topic(topics, environment, grow).copartitioned for grow in grows),
    )


def _outputs_before_inputs(topics: Topics) -> list[Topic]:
    """In this order a change that stops half-way leaves no stage with an input wider than its outputs."""
    inputs = [STAGE_INPUT[stage] for stage in reversed(STAGES)]
    return sorted(topics, key=lambda topic: inputs.index(topic.name) if topic.name in inputs else -1)


def _topic(topics: Topics, environment: str, grow: Grow) -> Topic:
    return topics[grow.topic.removeprefix(f"{environment}.")]


def _too_few_brokers(name: str, copies: int, brokers: int) -> str:
    return (
        f"{name} wants {copies} replicas and the cluster has {brokers} broker{'s' * (brokers != 1)}: add brokers, or "
        f"accept fewer copies with --replication {brokers}"
    )


def _changes(name: str, existing: Existing, declared: Mapping[str, str]) -> Iterator[Change]:
    for setting, value in declared.items():
        before = existing.settings.get(setting)
        if before is None or not same_setting(before, value):
            yield Change(name, setting, before, value)


def same_setting(one: str, other: str) -> bool:
    """Whether two spellings mean the same value: 0.1 and 0.10, or the same list in another order."""
    try:
        return float(one) == float(other)
    except ValueError:
        return sorted(one.replace(" ", "").split(",")) == sorted(other.split(","))


def _foreign_settings(name: str, existing: Existing, declared: Mapping[str, str]) -> Iterator[Remark]:
    for setting in sorted(existing.own - declared.keys()):
        yield Remark(name, f"has {setting}={existing.settings.get(setting)}, which topics.yaml does not declare")


def _unknown(cluster: Cluster, topics: Topics, environment: str) -> Iterator[Remark]:
    for name in sorted(cluster.topics):
        if topics.logical(environment, name) is None:
            yield Remark(name, "is not in topics.yaml: left alone")


def _notes(grows: Iterable[Grow], topics: Topics, environment: str) -> Iterator[Remark]:
    for grow in grows:
        topic = _topic(topics, environment, grow)
        if topic.name.startswith("state-"):
            yield Remark(
                grow.topic, "keys that move to another partition are new to the stage: a repeat is not recognised"
            )
        elif "compact" in topic.cleanup:
            yield Remark(grow.topic, "publish every key again: the newest value may now lie in another partition")
