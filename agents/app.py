"""The composition root: the only place that knows which stage reads what, and what answers behind each port."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import pipeline.workflows
from agents import enrichment, inference, routing, validation
from agents.ports import Ports
from agents.shell import StreamApp
from agents.sources import context_views, start_before_stages
from pipeline.codec import Codec
from pipeline.config import Settings, client_config
from pipeline.errors import ConfigError, DecodeError
from pipeline.models.fallback import Fallback
from pipeline.models.local import LocalModel
from pipeline.models.rules import RulesModel
from pipeline.records import Case, Event, ReviewVerdict
from pipeline.stream.case_exits import CaseExits
from pipeline.stream.delivery import Delivery
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.route import Route, Side
from pipeline.stream.stage import LoopClock, Stage
from pipeline.topics import SIDE_INPUT, VERDICTS, load_topics
from pipeline.workflow import Workflow, load_workflows

WORKFLOWS = Path(pipeline.workflows.__file__).parent


@dataclass(frozen=True, slots=True)
class _Link:
    """One stage of the chain: what it reads, where its records go on, and how many it works on at a time."""

    source: str
    onward: str
    register: Callable[[StreamApp, Ports], None]
    slots: int


CHAIN: Mapping[str, _Link] = {
    "enrichment": _Link("workflow-events", "workflow-enriched", enrichment.register, 64),
    "inference": _Link("workflow-enriched", "workflow-inferred", inference.register, 256),
    "validation": _Link("workflow-inferred", "workflow-validated", validation.register, 16),
    "routing": _Link("workflow-validated", "decisions", routing.register, 16),
}
STAGES = tuple(CHAIN)


def build_app(
    settings: Settings,
    bootstrap: str,
    stages: Sequence[str] | None = None,
    *,
    slot: str,
    limits: StageLimits | None = None,
    workflows: Path = WORKFLOWS,
) -> StreamApp:
    """A worker's app with these stages, or all. Models are loaded or trained here, so it may take seconds.

    Raises ConfigError for an unknown stage or a workflow that contradicts itself.
    """
    wanted = tuple(stages or STAGES)
    if unknown := sorted(set(wanted) - CHAIN.keys()):
        raise ConfigError(f"unknown stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    declared = load_workflows(workflows)
    config = client_config(settings, **{"bootstrap.servers": bootstrap})
    views = context_views(settings, config, load_topics(), declared.values()) if "enrichment" in wanted else {}
    codec = Codec()
    ports = Ports(declared, _providers(declared, settings) if "inference" in wanted else {}, views, codec)
    app = StreamApp(settings.environment)
    start_before_stages(app, views)
    app.after_stages.append(ports.close)
    for name in wanted:
        app.add_stage(
            _stage(name, settings, config, codec, declared, slot, limits or StageLimits()), slots=CHAIN[name].slots
        )
    for name in wanted:
        CHAIN[name].register(app, ports)
    return app


def _providers(workflows: Mapping[str, Workflow], settings: Settings) -> dict[str, Fallback]:
    """The workflow's model, then its rules, if it has any."""
    return {workflow.name: provider_of(workflow, settings) for workflow in workflows.values()}


def provider_of(workflow: Workflow, settings: Settings) -> Fallback:
    """Who answers for a workflow. Made for one event loop; a model that is not in the cache is trained here."""
    rules = [] if workflow.rules is None else [RulesModel.start(workflow)]
    return Fallback([LocalModel.start(workflow, settings.cache_dir), *rules], workflow.deadline_s)


def _stage(
    name: str,
    settings: Settings,
    config: Mapping[str, Any],
    codec: Codec,
    workflows: Mapping[str, Workflow],
    slot: str,
    limits: StageLimits,
) -> Stage:
    link = CHAIN[name]
    topics = load_topics()

    def physical(logical: str) -> str:
        return topics.physical(settings.environment, logical)

    entrance, beside = link.source == "workflow-events", SIDE_INPUT.get(name)
    route = Route(
        stage=name,
        group=f"{settings.environment}.{name}",
        source=link.source,
        input=physical(link.source),
        retry=physical(f"retry-{name}"),
        dead_letter=physical("dead-letter"),
        state=physical(f"state-{name}") if entrance or beside else None,
        side=Side(physical(beside), beside) if beside else None,
    )
    exits = CaseExits(
        codec=codec,
        stage=name,
        source=link.source,
        onward=physical(link.onward),
        review=physical("human-review"),
        blocked=physical("blocked"),
        audit=physical("audit"),
        clock=LoopClock(),
    )
    return Stage(
        route,
        limits,
        config,
        transactional_id=f"{settings.environment}.{name}.{slot}",
        decode=event_decoder(codec) if entrance else stage_decoder(codec),
        exits=exits,
        identify=identity_of if entrance else None,
        retry_limits=retry_rules(workflows, limits),
    )


def event_decoder(codec: Codec) -> Callable[[Delivery], Event]:
    """Decodes what publishers wrote."""
    return lambda delivery: codec.decode_event(delivery.value, delivery.headers, delivery.key)


def stage_decoder(codec: Codec) -> Callable[[Delivery], Case | ReviewVerdict]:
    """Decodes what the stage before wrote, and what people said."""

    def decode(delivery: Delivery) -> Case | ReviewVerdict:
        if delivery.value is None:
            raise DecodeError(f"no value: {delivery.track.source} never holds a deletion")
        if delivery.track.source == VERDICTS:
            return codec.decode_verdict(delivery.value)
        return codec.decode_case(delivery.value)

    return decode


def identity_of(event: Event) -> tuple[str, str]:
    """Source and id: what makes two records the same event."""
    return event.source, event.id


def retry_rules(
    workflows: Mapping[str, Workflow], limits: StageLimits
) -> Callable[[Event | Case | ReviewVerdict], RetryLimits]:
    """The retry rule of a record's workflow, within the stage's own bounds for lanes; a verdict has the stage's."""
    rules = {
        event_type: replace(
            limits.retry,
            attempts=workflow.retry.attempts,
            ceiling_s=workflow.retry.ceiling_s,
            base_s=workflow.retry.base_s,
            cap_s=workflow.retry.cap_s,
            jitter=workflow.retry.jitter,
        )
        for event_type, workflow in workflows.items()
    }

    def rule(record: Event | Case | ReviewVerdict) -> RetryLimits:
        match record:
            case Event(type=event_type) | Case(event=Event(type=event_type)):
                return rules.get(event_type, limits.retry)
            case ReviewVerdict():
                return limits.retry
            case _:
                assert_never(record)

    return rule
