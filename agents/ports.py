"""What the agents work with besides the record: workflows and their providers, looked up for a case."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import StepError
from pipeline.models.port import Provider
from pipeline.records import Case
from pipeline.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Ports:
    """Made once by the composition root. `workflows` by event type, `providers` by workflow name."""

    workflows: Mapping[str, Workflow]
    providers: Mapping[str, Provider]

    def workflow(self, case: Case) -> Workflow:
        """The workflow of a case. StepError (permanent) when this worker does not have it."""
        workflow = self.workflows.get(case.event.type)
        if workflow is None or workflow.name != case.workflow:
            raise StepError(f"unknown_workflow: {case.workflow}")
        return workflow

    def provider(self, case: Case) -> Provider:
        """The provider that answers for a case. StepError (permanent) when this worker does not have it."""
        try:
            return self.providers[case.workflow]
        except KeyError:
            raise StepError(f"unknown_workflow: {case.workflow}") from None
