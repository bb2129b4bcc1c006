"""Brings the topics of a cluster to what topics.yaml declares: looks, decides, shows, applies. Never deletes.

Applied twice, it changes nothing the second time. More partitions are refused while a stage has work in its topics,
because the key of waiting records would then point to another partition, and order would be lost.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from pipeline.errors import BrokerUnavailable, TopicPlanRefused
from pipeline.stream.drained import undone
from pipeline.stream.topic_plan import Change, Cluster, Create, Existing, Plan, decide, same_setting
from pipeline.topics import SIDE_INPUT, STAGE_INPUT, Topics

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 20.0
VISIBLE_TIMEOUT_S = 30.0
_NO_ANSWER = (
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
)


def plan(
    config: Mapping[str, Any],
    topics: Topics,
    environment: str,
    *,
    replication: int | None = None,
    local: bool = False,
) -> Plan:
    """What is to be done on the cluster that `config` (a client's configuration) leads to.

    `replication` overrides the declared one. `local` is for the one-process broker of this machine: topics get
    as many replicas as it has brokers, where any other cluster with too few is refused. Raises TopicPlanRefused,
    or BrokerUnavailable.
    """
    cluster = look(config, environment)
    decided = decide(cluster, topics, environment, replication=replication, local=local)
    if decided.stages_must_be_drained:
        _refuse_undrained(config, environment, cluster)
    return decided


def apply(config: Mapping[str, Any], decided: Plan) -> None:
    """Carries a plan out and returns when the cluster shows the result.

    Whether stages are drained is looked at again first. When it fails half-way, a new plan holds what is left.
    """
    if decided.stages_must_be_drained:
        _refuse_undrained(config, decided.environment, look(config, decided.environment))
    admin = _admin(config)
    created = (
        admin.create_topics(
            [_new_topic(create) for create in decided.creates],
            request_timeout=REQUEST_TIMEOUT_S,
            operation_timeout=REQUEST_TIMEOUT_S,
        )
        if decided.creates
        else {}
    )
    for name, future in created.items():
        _done(future, f"creating {name}", unless=KafkaError.TOPIC_ALREADY_EXISTS)
    for grow in decided.grows:  # one by one, in the order of the plan: no input may ever have more than its outputs
        grown = admin.create_partitions([NewPartitions(grow.topic, grow.after)], request_timeout=REQUEST_TIMEOUT_S)
        _done(grown[grow.topic], f"growing {grow.topic}")
    altered = admin.incremental_alter_configs(_alterations(decided.changes)) if decided.changes else {}
    for resource, future in altered.items():
        _done(future, f"changing the settings of {resource.name}")
    _wait_until_visible(config, admin, decided)


def look(config: Mapping[str, Any], environment: str) -> Cluster:
    """What the cluster has of an environment. BrokerUnavailable when it does not answer."""
    admin = _admin(config)
    try:
        metadata = admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerUnavailable(
            f"{config.get('bootstrap.servers')} does not list its topics: {_words(error)}"
        ) from error
    ours = {name: topic for name, topic in metadata.topics.items() if name.startswith(f"{environment}.")}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in ours]
    described = admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S) if resources else {}
    found = {}
    for resource, future in described.items():
        entries = _done(future, f"reading the settings of {resource.name}")
        partitions = ours[resource.name].partitions
        found[resource.name] = Existing(
            partitions=len(partitions),
            replication=min((len(partition.replicas) for partition in partitions.values()), default=0),
            settings={name: entry.value for name, entry in entries.items() if entry.value is not None},
            own=frozenset(
                name for name, entry in entries.items() if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            ),
        )
    return Cluster(len(metadata.brokers), found)


def _refuse_undrained(config: Mapping[str, Any], environment: str, cluster: Cluster) -> None:
    busy = []
    for stage, source in STAGE_INPUT.items():
        beside = [SIDE_INPUT[stage]] if stage in SIDE_INPUT else []
        names = [f"{environment}.{name}" for name in (source, f"retry-{stage}", *beside)]
        partitions = [
            (name, n) for name in names if name in cluster.topics for n in range(cluster.topics[name].partitions)
        ]
        for (name, number), why in undone(config, f"{environment}.{stage}", partitions).items():
            busy.append(f"{stage}: {name}[{number}]: {why}")
    if busy:
        shown = "\n".join(busy[:10]) + (f"\n... and {len(busy) - 10} more" if len(busy) > 10 else "")
        raise TopicPlanRefused(
            "more partitions would move keys while records wait, and break their order. Stop the publishers, let the "
            f"workers finish, and try again. Not done:\n{shown}"
        )


def _new_topic(create: Create) -> NewTopic:
    return NewTopic(
        create.topic,
        num_partitions=create.partitions,
        replication_factor=-1 if create.replication is None else create.replication,
        config=dict(create.settings),
    )


def _alterations(changes: Iterable[Change]) -> list[ConfigResource]:
    by_topic: dict[str, list[ConfigEntry]] = {}
    for change in changes:
        entry = ConfigEntry(change.setting, change.after, incremental_operation=AlterConfigOpType.SET)
        by_topic.setdefault(change.topic, []).append(entry)
    return [
        ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries) for topic, entries in by_topic.items()
    ]


def _wait_until_visible(config: Mapping[str, Any], admin: AdminClient, decided: Plan) -> None:
    """What was applied reaches every broker a moment later; a worker that starts before would see the old state."""
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while missing := sorted(_without_leaders(admin, decided) or _unchanged(config, decided)):
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"applied, but the cluster does not show it yet: {', '.join(missing)}")
        time.sleep(0.05)


def _without_leaders(admin: AdminClient, decided: Plan) -> set[str]:
    wanted = {create.topic: create.partitions for create in decided.creates}
    wanted |= {grow.topic: grow.after for grow in decided.grows}
    seen = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics if wanted else {}
    led = {name: sum(part.leader >= 0 for part in topic.partitions.values()) for name, topic in seen.items()}
    return {name for name, partitions in wanted.items() if led.get(name, 0) < partitions}


def _unchanged(config: Mapping[str, Any], decided: Plan) -> set[str]:
    seen = look(config, decided.environment).topics if decided.changes else {}
    return {
        change.topic
        for change in decided.changes
        if not same_setting(seen[change.topic].settings.get(change.setting, ""), change.after)
    }


def _admin(config: Mapping[str, Any]) -> AdminClient:
    return AdminClient(dict(config), logger=log)


def _done(future: "Future[Any]", doing: str, unless: int | None = None) -> Any:
    try:
        return future.result(REQUEST_TIMEOUT_S * 2)
    except TimeoutError as error:
        raise BrokerUnavailable(f"{doing}: the cluster does not answer") from error
    except KafkaException as error:
        code = error.args[0].code()
        if code == unless:
            return None
        if code in _NO_ANSWER:
            raise BrokerUnavailable(f"{doing}: the cluster does not answer: {_words(error)}") from error
        raise TopicPlanRefused(f"{doing}: the cluster refused: {_words(error)}") from error


def _words(error: KafkaException) -> str:
    return str(error.args[0].str())
