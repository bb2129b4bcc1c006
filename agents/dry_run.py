"""The four steps in a row without Kafka: where an event would go, and why. Nothing is written anywhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from agents.ports import Ports
from pipeline.errors import StepError
from pipeline.outcome import Blocked, Dead, Next, Outcome, Retry, Review
from pipeline.records import Case, Decision, Event, Position
from pipeline.steps.enrich import enrich
from pipeline.steps.infer import infer
from pipeline.steps.route import route
from pipeline.steps.validate import validate
from pipeline.stream.identity import Fresh, Repeat, admit
from pipeline.stream.state import State

Settled: TypeAlias = Decision | Review | Dead | Blocked | Retry | Repeat
"""Where an event comes to rest. A Repeat is dropped, or is a dead letter when its bytes are others."""

_REMEMBERED = 1_000_000


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one event. `case` is as far as it got; None when it never was one."""

    stage: str
    settled: Settled
    case: Case | None


class DryRun:
    """Runs events one after the other, as the stages of one worker would."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._seen = State(_REMEMBERED)

    async def run(self, event: Event, origin: Position, key: bytes | None, value: bytes, now_ms: int) -> Trial:
        """The end of an event. `key` and `value` are its bytes, by which a repeat is recognised."""
        seen = admit(
            self._seen,
            source=event.source,
            event_id=event.id,
            key=key,
            value=value,
            now_ms=now_ms,
            horizon_ms=0,  # all of it happens now
        )
        if not isinstance(seen, Fresh):
            return Trial("enrichment", seen, None)
        looked_up = await self._ports.look_up(event)
        outcome: Outcome = enrich(event, origin, self._ports.workflows, looked_up, now_ms)
        case = _case_of(outcome)
        stage = "enrichment"
        for following in ("inference", "validation", "routing"):
            if case is None or not isinstance(outcome, Next):
                break
            stage = following
            outcome = await self._step(stage, case)
            case = _case_of(outcome) or case
        return Trial(stage, _settled(outcome), case)

    async def _step(self, stage: str, case: Case) -> Outcome:
        try:
            if stage == "inference":
                return await infer(case, self._ports.provider(case))
            workflow = self._ports.workflow(case)
            return validate(case, workflow) if stage == "validation" else route(case, workflow)
        except StepError as error:
            return Dead(error.cause, error.failure)


def _case_of(outcome: Outcome) -> Case | None:
    match outcome:
        case Next(record=Case() as case) | Review(case=case) | Blocked(case=case):
            return case
        case _:
            return None


def _settled(outcome: Outcome) -> Settled:
    match outcome:
        case Next(record=record):
            assert isinstance(record, Decision), "only routing ends with a record, and it is a decision"
            return record
        case Review() | Dead() | Blocked() | Retry():
            return outcome
        case _:
            assert_never(outcome)


def place_of(settled: Settled) -> str:
    """The place in the words of `lockgate demo`."""
    match settled:
        case Decision():
            return "decision"
        case Review():
            return "open_review"
        case Dead() | Repeat.CONFLICT:
            return "dead_letter"
        case Blocked():
            return "blocked"
        case Retry():
            return "waiting_retry"
        case Repeat.DUPLICATE:
            return "duplicate"
        case _:
            assert_never(settled)


def reasons_of(settled: Settled) -> Iterable[str]:
    """Why it goes there, in codes."""
    match settled:
        case Decision(reasons=reasons) | Review(reasons=reasons):
            return reasons
        case Dead(cause=cause) | Retry(cause=cause):
            return (cause,)
        case Blocked(control=control):
            return (control,)
        case Repeat.DUPLICATE:
            return ("the same event came before",)
        case Repeat.CONFLICT:
            return ("conflict: the identity came before with other bytes",)
        case _:
            assert_never(settled)
