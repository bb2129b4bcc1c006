"""The four steps without Kafka: records in, places out, with the context that ships with the workflow."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from agents.cli.demo_data import context_of
from agents.cli.drafting import Draft
from pipeline.codec import Codec
from pipeline.context.entries import Entries, ViewLimits
from pipeline.context.port import look_up
from pipeline.errors import DecodeError
from pipeline.models.local import LocalModel, model_digest, train
from pipeline.outcome import Blocked, Dead, Next, Outcome, Review
from pipeline.records import Case, Decision, Json, Position
from pipeline.steps.enrich import LookedUp, enrich
from pipeline.steps.infer import infer
from pipeline.steps.route import route
from pipeline.steps.validate import validate
from pipeline.stream.identity import Fresh, Repeat, admit
from pipeline.stream.state import State
from pipeline.workflow import load_workflow, read_training


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a record ended, why, and what a model had answered by then."""

    place: str
    reasons: tuple[str, ...]
    answer: Mapping[str, Json] | None = None
    confidence: float | None = None


class _Files:
    """A context source made of a file, by the rules of the view that reads topics."""

    def __init__(self, name: str, drafts: tuple[Draft, ...]) -> None:
        self.name = name
        self._entries = Entries(name, ViewLimits())
        self._entries.add_partitions([0])
        for offset, draft in enumerate(drafts):
            self._entries.put(0, offset, draft.timestamp_ms, draft.key, draft.value)
        self._entries.settle()

    async def lookup(self, key: str) -> LookedUp:
        return self._entries.find(key)

    async def close(self) -> None:
        pass


class Offline:
    """One life of a pipeline: it remembers the identities that it has seen."""

    def __init__(self, folder: Path) -> None:
        self.workflow = load_workflow(folder)
        self.now_ms = round(time.time() * 1000)
        self._sources = {
            f"context-{name}": _Files(f"context-{name}", drafts) for name, drafts in context_of(folder, self.now_ms)
        }
        self._model = LocalModel(self.workflow, train(read_training(self.workflow)), model_digest(self.workflow))
        self._codec = Codec()
        self._seen = State(limit=100_000)

    async def place(self, draft: Draft) -> Placed:
        """Where the record ends. To be called in the order in which records are published."""
        try:
            event = self._codec.decode_event(draft.value, draft.headers, draft.key)
        except DecodeError as error:
            return Placed("dead_letter", (str(error),))
        seen = admit(
            self._seen,
            source=event.source,
            event_id=event.id,
            key=draft.key,
            value=draft.value,
            now_ms=self.now_ms,
            horizon_ms=86_400_000,
        )
        match seen:
            case Repeat.DUPLICATE:
                return Placed("duplicate", ("duplicate",))
            case Repeat.CONFLICT:
                return Placed("dead_letter", ("conflict",))
            case Fresh():
                pass
            case _:
                assert_never(seen)
        workflows = {self.workflow.event_type: self.workflow}
        looked_up = await look_up(event, self.workflow.context, self._sources)
        outcome = enrich(
            event, Position("workflow-events", 0, draft.line, self.now_ms), workflows, looked_up, self.now_ms
        )
        if isinstance(outcome, Next):
            outcome = await infer(_case(outcome), self._model)
        if isinstance(outcome, Next):
            outcome = validate(_case(outcome), self.workflow)
        if isinstance(outcome, Next):
            outcome = route(_case(outcome), self.workflow)
        return _placed(outcome)

    async def close(self) -> None:
        await self._model.close()


def _case(outcome: Next) -> Case:
    assert isinstance(outcome.record, Case)
    return outcome.record


def _placed(outcome: Outcome) -> Placed:
    match outcome:
        case Next(record=Decision() as decision):
            return Placed("decision", decision.reasons, decision.answer, decision.confidence)
        case Review(reasons=reasons, case=case):
            answer = case.inference
            return Placed("review", reasons, answer and answer.answer, answer and answer.confidence)
        case Dead(cause=cause):
            return Placed("dead_letter", (cause,))
        case Blocked(control=control):
            return Placed("blocked", (control,))
        case _:
            raise AssertionError(f"a sample must not end in {type(outcome).__name__}")
