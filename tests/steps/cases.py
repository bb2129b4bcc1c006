"""Cases to try the steps with: a plain good one to change one thing of, and every case hypothesis can think of."""

from pathlib import Path

from hypothesis import strategies as st

import pipeline.workflows
from pipeline.records import Case, CheckResult, ContextField, Event, Inference, Position, Verdict
from pipeline.steps.enrich import Found, Missing, Unreadable
from pipeline.workflow import Check, ContextRule, load_workflow

_SHIPPED = load_workflow(Path(pipeline.workflows.__file__).parent / "ticket_triage")
WORKFLOW = _SHIPPED.model_copy(update={"context": ()})
WORKFLOWS = {WORKFLOW.event_type: WORKFLOW}

CUSTOMER = ContextRule(
    name="customer",
    source="customers",
    key="customer_id",
    required=True,
    max_age="30d",
    fields=["customer_id", "tier", "product_id"],
    same={"customer_id": ["customer_id", "subject"]},
)
PRODUCT = ContextRule(
    name="product",
    source="products",
    key="customer.product_id",
    required=False,
    max_age="365d",
    fields=["name"],
    same={"product_id": "customer.product_id"},
)
WITH_CONTEXT = WORKFLOW.model_copy(update={"context": (CUSTOMER, PRODUCT)})
NOW_MS = 1_748_772_000_000

EVENT = Event(
    source="bank/chat",
    id="m-1",
    type=WORKFLOW.event_type,
    subject="customer-7",
    time="2025-06-01T10:00:00Z",
    data={"text": "my card was stolen", "channel": "chat", "language": None, "customer_id": "customer-7"},
)
ORIGIN = Position("workflow-events", 3, 41, 1_748_772_000_000)
ANSWER = WORKFLOW.answer("card_lost_stolen")
INFERENCE = Inference("local", "0123456789abcdef", ANSWER, 0.93, "probability", 2.5)
PASSED = tuple(CheckResult(check.value, Verdict.PASS, "ok") for check in Check)

ENRICHED = Case(EVENT, ORIGIN, WORKFLOW.name, WORKFLOW.release)
INFERRED = Case(EVENT, ORIGIN, WORKFLOW.name, WORKFLOW.release, inference=INFERENCE)
VALIDATED = Case(EVENT, ORIGIN, WORKFLOW.name, WORKFLOW.release, inference=INFERENCE, checks=PASSED)

_text = st.text(max_size=12)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=3,
)


def _objects(names):
    """JSON objects that often have the names that matter."""
    return st.dictionaries(st.sampled_from(names) | _text, _json, max_size=5)


_declared = st.sampled_from(sorted(WORKFLOW.intents)).map(WORKFLOW.answer)
_nearly = st.builds(lambda answer, other: {**answer, **other}, _declared, _objects(["intent", "action", "queue"]))
_positions = st.builds(Position, _text, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
_events = st.builds(
    Event,
    source=_text,
    id=_text,
    type=st.sampled_from([WORKFLOW.event_type]) | _text,
    subject=st.none() | _text,
    time=st.none() | _text,
    data=_objects(["text", "channel", "language", "customer_id"]),
)
_inferences = st.builds(
    Inference,
    provider=_text,
    model=_text,
    answer=_declared | _nearly | _objects(["intent", "queue", "priority", "action"]),
    confidence=st.none() | st.floats(0, 1) | st.floats(),
    confidence_source=_text,
    latency_ms=st.floats(0, 9),
)
_results = st.builds(
    CheckResult, st.sampled_from([check.value for check in Check]) | _text, st.sampled_from(Verdict), _text
)

_any_cases = st.builds(
    Case,
    event=_events,
    origin=_positions,
    workflow=st.just(WORKFLOW.name) | _text,
    release=st.just(WORKFLOW.release) | _text,
    context=st.lists(st.builds(ContextField, _text, _json, _text, st.none() | st.integers(0, 9)), max_size=2).map(
        tuple
    ),
    inference=st.none() | _inferences,
    checks=st.lists(_results, max_size=6).map(tuple),
)


def _checks_but(changed):
    return (*(result for result in PASSED if result.check != changed.check), changed)


# Close to a decision, where a mistake would let one out: at most one thing wrong in each place.
_near_cases = st.builds(
    lambda answer, confidence, checks: Case(
        EVENT,
        ORIGIN,
        WORKFLOW.name,
        WORKFLOW.release,
        inference=Inference("local", "m", answer, confidence, "probability", 1.0),
        checks=checks,
    ),
    answer=_declared | _nearly,
    confidence=st.floats(WORKFLOW.threshold, 1) | st.floats(0, 1) | st.floats() | st.none(),
    checks=st.just(PASSED)
    | _results.map(_checks_but)
    | _results.map(lambda extra: (*PASSED, extra))
    | st.sampled_from(PASSED).map(lambda gone: tuple(result for result in PASSED if result is not gone)),
)

cases = _near_cases | _any_cases


def as_looked_up(context):
    """Found, missing or unreadable by what the fields of a case hold: often under the names that are asked for."""
    names = ("customer", "product")
    found = {}
    for number, field in enumerate(context):
        match field.value:
            case dict():
                looked_up = Found({**field.value, "customer_id": "customer-7"}, field.age_ms, field.source)
            case None:
                looked_up = Missing(field.source)
            case _:
                looked_up = Unreadable(field.age_ms, field.source)
        found[names[number]] = looked_up
    return found


class Provider:
    """Answers what it was given, or fails with it."""

    def __init__(self, result):
        self.result = result
        self.asked = []

    async def predict(self, event, context):
        self.asked.append((event, context))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def finish(coroutine):
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited for something")
