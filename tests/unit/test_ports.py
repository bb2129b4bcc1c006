"""What agents get for a case: its own workflow in its own release, or a failure that says why not."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

import pipeline.workflows
from agents.app import build_app
from agents.ports import Ports
from agents.sources import context_views
from pipeline.config import Settings
from pipeline.errors import ConfigError, FailureClass, StepError
from pipeline.records import Case, Event, Position
from pipeline.steps.enrich import Missing
from pipeline.topics import load_topics
from pipeline.workflow import ContextRule, load_workflow

SHIPPED = load_workflow(Path(pipeline.workflows.__file__).parent / "ticket_triage")
CUSTOMER = ContextRule(
    name="customer", source="customers", key="subject", required=True, max_age="30d", fields=["customer_id"]
)
WORKFLOW = SHIPPED.model_copy(update={"context": (CUSTOMER,)})
EVENT = Event("bank", "1", WORKFLOW.event_type, "c-1", None, {"text": "hello"})
CASE = Case(EVENT, Position("workflow-events", 0, 0, 0), WORKFLOW.name, WORKFLOW.release)


class Port:
    closed = False

    async def lookup(self, key):
        return Missing(key)

    async def close(self):
        self.closed = True


PROVIDER, SOURCE = Port(), Port()
PORTS = Ports({WORKFLOW.event_type: WORKFLOW}, {WORKFLOW.name: PROVIDER}, {"context-customers": SOURCE})

either = pytest.mark.parametrize("ask", [PORTS.workflow, PORTS.provider], ids=["workflow", "provider"])


def test_a_case_gets_its_workflow_and_its_provider():
    assert PORTS.workflow(CASE) is WORKFLOW
    assert PORTS.provider(CASE) is PROVIDER


@either
def test_a_case_of_another_release_waits_for_it(ask):
    with pytest.raises(StepError, match="release_not_loaded: other") as refusal:
        ask(replace(CASE, release="other"))
    assert refusal.value.failure is FailureClass.TRANSIENT


@either
@pytest.mark.parametrize("case", [replace(CASE, workflow="x"), replace(CASE, event=replace(EVENT, type="x"))])
def test_a_case_of_an_unknown_workflow_is_given_up(ask, case):
    with pytest.raises(StepError, match="unknown_workflow") as refusal:
        ask(case)
    assert refusal.value.failure is FailureClass.PERMANENT


def test_context_is_looked_up_as_the_workflow_of_the_event_declares():
    assert asyncio.run(PORTS.look_up(EVENT)) == {"customer": Missing("c-1")}


def test_nothing_is_looked_up_for_an_event_of_no_workflow():
    assert asyncio.run(PORTS.look_up(replace(EVENT, type="x"))) == {}


def test_closing_the_ports_closes_providers_and_sources():
    provider, source = Port(), Port()
    asyncio.run(Ports({}, {"w": provider}, {"context-customers": source}).close())
    assert provider.closed
    assert source.closed


def test_two_workflows_share_the_view_of_a_topic():
    views = context_views(Settings(), {}, load_topics(), [WORKFLOW, WORKFLOW])
    assert {name: view.topic for name, view in views.items()} == {"context-customers": "dev.context-customers"}


def test_context_from_a_topic_that_nobody_declared_is_refused_with_the_file_named():
    rule = CUSTOMER.model_copy(update={"source": "custmers"})
    with pytest.raises(ConfigError, match=r"workflow\.yaml: context customer: .*did you mean 'context-customers'"):
        context_views(Settings(), {}, load_topics(), [WORKFLOW.model_copy(update={"context": (rule,)})])


@pytest.mark.parametrize(("stage", "viewed"), [("enrichment", True), ("validation", False)])
def test_only_a_worker_that_enriches_keeps_views(stage, viewed, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("agents.app.context_views", lambda *_: asked.append(stage) or {})
    build_app(Settings(data_dir=tmp_path), "127.0.0.1:1", [stage], slot="s")
    assert bool(asked) == viewed
