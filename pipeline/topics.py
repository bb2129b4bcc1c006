"""The declaration of every topic, read from topics.yaml and checked before anything uses it.

Stage topics share one partition count, because a stage writes to the partition number that it read from:
that is what keeps the order of a key, and what lets one process own a key in every topic.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.config import explain, nearest, read_yaml
from pipeline.errors import ConfigError
from pipeline.share import share

STAGES = ("enrichment", "inference", "validation", "routing")
STAGE_INPUT = {
    "enrichment": "workflow-events",
    "inference": "workflow-enriched",
    "validation": "workflow-inferred",
    "routing": "workflow-validated",
}
PARTIES = ("publisher", "context-owner", "downstream", "people", "operator")
VERDICTS = "review-verdicts"
SIDE_INPUT = {"routing": VERDICTS}
"""What a stage reads beside its input, partition by partition."""
EXITS = ("decisions", "human-review", "dead-letter", "blocked", "audit")
REQUIRED = (
    *STAGE_INPUT.values(),
    *EXITS,
    VERDICTS,
    *(f"{kind}-{stage}" for kind in ("retry", "state") for stage in STAGES),
)

HEADER_ROOM = 64 * 1024
"""What Lockgate's own headers may add to a record that is parked or dies."""

FOREVER = -1
_STAGE = "<stage>"
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITS_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _duration(text: Any) -> Any:
    if text == "forever":
        return FOREVER
    found = re.fullmatch(r"(\d+) ?(ms|s|m|h|d)", str(text))
    if not found or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no duration: write 30m, 12h, 7d or forever")
    return int(found[1]) * _UNITS_MS[found[2]]


def _size(text: Any) -> Any:
    found = re.fullmatch(r"(\d+) ?(B|KiB|MiB|GiB)", str(text))
    if not found:
        raise ValueError(f"{text!r} is no size: write 64 KiB or 1 MiB")
    return int(found[1]) * _UNITS_BYTES[found[2]]


Duration: TypeAlias = Annotated[int, BeforeValidator(_duration)]
Size: TypeAlias = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=2**30)]
Partitions: TypeAlias = Annotated[int, Field(ge=1, le=10_000)]
Replication: TypeAlias = Annotated[int, Field(ge=1, le=15)] | Literal["broker"]
Insync: TypeAlias = Annotated[int, Field(ge=1, le=15)]
Cleanup: TypeAlias = Literal["delete", "compact", "compact,delete"]
TopicSetting: TypeAlias = Literal[
    "compression.type",
    "delete.retention.ms",
    "max.compaction.lag.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "retention.bytes",
    "segment.bytes",
    "segment.ms",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Defaults(_Strict):
    partitions: Partitions
    replication: Replication
    cleanup: Cleanup
    retention: Duration
    max_message: Size
    min_insync_replicas: Insync | None = None


class _Declared(_Strict):
    description: Annotated[str, Field(min_length=10)]
    producers: Annotated[tuple[str, ...], Field(min_length=1)]
    consumers: Annotated[tuple[str, ...], Field(min_length=1)]
    schema_: Annotated[str, Field(alias="schema")]
    key: Annotated[str, Field(min_length=3)]
    partitions: Partitions | None = None
    replication: Replication | None = None
    cleanup: Cleanup | None = None
    retention: Duration | None = None
    max_message: Size | None = None
    min_insync_replicas: Insync | None = None
    settings: dict[TopicSetting, str | int | float] = {}


class _File(_Strict):
    defaults: _Defaults
    topics: dict[str, _Declared]


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as declared, defaults filled in. Times are in ms (-1: for ever), sizes in bytes."""

    name: str
    description: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    schema: str
    key: str
    partitions: int
    replication: int | Literal["broker"]
    cleanup: str
    retention_ms: int
    max_message: int
    min_insync_replicas: int | None
    settings: Mapping[str, str]

    @property
    def copartitioned(self) -> bool:
        """Whether a stage reads or writes it by partition number, so that all such topics have one count."""
        read = (*STAGE_INPUT.values(), VERDICTS)
        return self.name in read or not set(STAGES).isdisjoint(self.producers)

    def kafka_settings(self, replicas: int | None) -> dict[str, str]:
        """The settings in Kafka's words, for a topic with so many replicas (None: the cluster's default).

        `min.insync.replicas` never exceeds the replicas, which would let nobody write.
        """
        settings = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message),
        }
        if "delete" in self.cleanup:
            # By the broker's clock, and by time alone: a record whose publisher gave it an old timestamp, or
            # one that has waited for long, is not to be removed before its time.
            settings |= {"message.timestamp.type": "LogAppendTime", "retention.bytes": "-1"}
        if self.min_insync_replicas is not None and replicas is not None:
            settings["min.insync.replicas"] = str(min(self.min_insync_replicas, replicas))
        return settings | dict(self.settings)


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics by their logical names, and the partition count that stage topics share."""

    partitions: int
    by_name: Mapping[str, Topic]

    def __getitem__(self, name: str) -> Topic:
        """The topic of a logical name. ConfigError when there is none."""
        try:
            return self.by_name[name]
        except KeyError:
            raise ConfigError(f"no topic {name!r} in topics.yaml; {nearest(name, self.by_name)}") from None

    def __iter__(self) -> Iterator[Topic]:
        """Every topic, in the order of the file."""
        return iter(self.by_name.values())

    def physical(self, environment: str, name: str) -> str:
        """The name in Kafka of a declared topic."""
        return f"{environment}.{self[name].name}"

    def logical(self, environment: str, physical: str) -> str | None:
        """The declared name of a topic in Kafka; None when it is not one of ours in this environment."""
        prefix, _, name = physical.partition(".")
        return name if prefix == environment and name in self.by_name else None

    @property
    def max_message(self) -> int:
        """The largest record that any topic takes: what producers must be allowed to send."""
        return max(topic.max_message for topic in self)


def load_topics(path: Path | None = None) -> Topics:
    """The declaration in `path`, or the shipped topics.yaml. ConfigError names the topic and the fault."""
    path = path or share("topics.yaml")
    try:
        file = _File.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from None
    topics = {}
    for name, declared in file.topics.items():
        for topic in _expand(name, declared, file.defaults):
            if topic.name in topics:
                raise ConfigError(f"{path}: {topic.name} is declared twice (once with {_STAGE})")
            topics[topic.name] = topic
    faults = [fault for topic in topics.values() for fault in _faults(topic, file.defaults.partitions)]
    faults += [f"{name} is missing: the stages need it" for name in REQUIRED if name not in topics]
    faults += _too_small(topics)
    if faults:
        raise ConfigError(f"{path}: {'; '.join(faults)}")
    return Topics(file.defaults.partitions, topics)


def _expand(name: str, declared: _Declared, defaults: _Defaults) -> Iterator[Topic]:
    for stage in STAGES if _STAGE in name else ("",):

        def of(text: str, stage: str = stage) -> str:
            return text.replace(_STAGE, stage) if stage else text

        yield Topic(
            name=of(name),
            description=of(declared.description),
            producers=tuple(of(party) for party in declared.producers),
            consumers=tuple(of(party) for party in declared.consumers),
            schema=declared.schema_,
            key=of(declared.key),
            partitions=declared.partitions or defaults.partitions,
            replication=declared.replication or defaults.replication,
            cleanup=declared.cleanup or defaults.cleanup,
            retention_ms=declared.retention or defaults.retention,
            max_message=declared.max_message or defaults.max_message,
            min_insync_replicas=declared.min_insync_replicas or defaults.min_insync_replicas,
            settings={key: str(value) for key, value in declared.settings.items()},
        )


def _faults(topic: Topic, shared: int) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", topic.name) or len(topic.name) > 120:
        yield f"{topic.name!r} is no topic name: small letters, digits and single hyphens"
    for party in (*topic.producers, *topic.consumers):
        if party not in PARTIES and party not in STAGES:
            yield f"{topic.name}: unknown party {party!r}; {nearest(party, PARTIES + STAGES)}"
    schemas = ["bytes", "event", "json", *(path.stem for path in share("schemas").glob("*.avsc"))]
    if topic.schema not in schemas:
        yield f"{topic.name}: unknown schema {topic.schema!r}; {nearest(topic.schema, schemas)}"
    if topic.copartitioned and topic.partitions != shared:
        yield (
            f"{topic.name}: {topic.partitions} partitions, but stages read and write by partition number: "
            f"all their topics have the {shared} of defaults"
        )
    if topic.cleanup == "delete" and topic.name.startswith("state-"):
        yield f"{topic.name}: must be compacted: it is the memory of its stage"


def _too_small(topics: Mapping[str, Topic]) -> Iterator[str]:
    """Whatever may lie in a stage's input must fit its retry topic and the dead letters, headers added."""
    pairs = [(source, target) for stage, source in STAGE_INPUT.items() for target in (f"retry-{stage}", "dead-letter")]
    for source, target in (*pairs, (VERDICTS, "dead-letter")):
        if source not in topics or target not in topics:
            continue
        needed = topics[source].max_message + HEADER_ROOM
        if topics[target].max_message < needed:
            yield f"{target}: max_message must be {needed} B or more, to take every record of {source}"
