"""What the agents work with besides the record: workflows, and who answers for them about models and context."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.codec import Codec
from pipeline.context.port import Source, look_up
from pipeline.errors import FailureClass, StepError
from pipeline.models.port import Provider
from pipeline.records import Case, Event
from pipeline.steps.enrich import LookedUp
from pipeline.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Ports:
    """Made once, by the composition root. Workflows by event type, providers by workflow name, sources by topic."""

    workflows: Mapping[str, Workflow]
    providers: Mapping[str, Provider]
    sources: Mapping[str, Source] = field(default_factory=dict)
    codec: Codec = field(default_factory=Codec)

    def workflow(self, case: Case) -> Workflow:
        """The workflow of a case, in the release that the case is stamped with.

        StepError (permanent) when this worker does not have it, transient when it has another release of it: the
        case waits for its own and is never judged by another.
        """
        workflow = self.workflows.get(case.event.type)
        if workflow is None or workflow.name != case.workflow:
            raise StepError(f"unknown_workflow: {case.workflow}")
        if workflow.release != case.release:
            raise StepError(f"release_not_loaded: {case.release}", FailureClass.TRANSIENT)
        return workflow

    def provider(self, case: Case) -> Provider:
        """The provider that answers for a case. StepError as in `workflow`."""
        return self.providers[self.workflow(case).name]

    async def look_up(self, event: Event) -> Mapping[str, LookedUp]:
        """What the workflow of an event wants to be known around it, as the sources have it now."""
        workflow = self.workflows.get(event.type)
        return {} if workflow is None else await look_up(event, workflow.context, self.sources)

    async def close(self) -> None:
        """Closes providers and sources. Call it when all stages are drained; safe to call again."""
        ports: list[Provider | Source] = [*self.providers.values(), *self.sources.values()]
        await asyncio.gather(*(port.close() for port in ports))
