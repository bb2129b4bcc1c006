"""Names that may be used once, and a second input beside the first: what people's verdicts rest on."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from pipeline.errors import EncodeError
from pipeline.outcome import Dead, Next
from pipeline.stream.committer import Committer, Membership
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.progress import Progress
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.route import Side
from pipeline.stream.state import State
from pipeline.stream.tenure import Tenure
from pipeline.stream.transaction import Committed
from pipeline.stream.window import Counters, Window, once_key
from tests.engine.builders import ROUTE, a_delivery

BESIDE = replace(ROUTE, side=Side("dev.beside", "beside"))


class Clock:
    def time(self):
        return 1_700_000_000.0

    def call_later(self, delay_s, call, *args):
        raise AssertionError("nothing here is tried again")


class Exits:
    """Names what was written; refuses what is called unwritable."""

    def on(self, delivery, outcome):
        if outcome.record == "unwritable":
            raise EncodeError("it does not fit")
        return (Output("dev.out", delivery.key, outcome.record.encode()),)

    def duplicate(self, delivery, now_s):
        raise AssertionError("no identities here")

    def superseded(self, delivery, outcome, now_s):
        return (Output("dev.audit", delivery.key, b"superseded " + outcome.once.encode()),)

    def dead(self, delivery, cause, failure, now_s):
        return ()


def a_tenure(state=None):
    return Tenure(
        BESIDE,
        0,
        1,
        progress={topic: Progress(0) for topic in BESIDE.read},
        parked=ParkedKeys(),
        state=state or State(1_000),
    )


@pytest.fixture
def stage():
    """A window with one tenure; `finish(track, outcome)` hands out one record and settles it."""
    return Bench()


class Bench:
    def __init__(self):
        self.tenure = a_tenure()
        self.finished = []
        self.window = Window(
            BESIDE,
            StageLimits(),
            decode=lambda delivery: delivery.value,
            exits=Exits(),
            push=self.finished.append,
            clock=Clock(),
            random=Random(0),
            counters=Counters(),
        )

    def finish(self, outcome, track=None):
        """What was written for a record with this outcome, by topic, state changes included."""
        track = track or self.tenure.input

        async def work():
            self.window.admit([a_delivery(track, track.next_offset, window=self.window)])
            delivery = self.window.get_nowait()
            async with delivery:
                delivery.resolve(outcome(delivery) if callable(outcome) else outcome)

        asyncio.run(work())
        return [(record.topic, record.value) for record in self.finished[-1].outputs]


def test_the_first_use_of_a_name_is_written_with_its_record(stage):
    written = stage.finish(Next("yes", once="d1"))
    assert written == [("dev.out", b"yes"), ("dev.state", b"1700000000000")]
    assert stage.finished[-1].outputs[1].key == once_key("d1")


def test_a_second_use_of_a_name_is_dropped_and_audited(stage):
    stage.finish(Next("yes", once="d1"))
    assert stage.finish(Next("no", once="d1")) == [("dev.audit", b"superseded d1")]
    assert stage.window.counters.superseded == 1


def test_both_inputs_share_the_names(stage):
    stage.finish(Next("yes", once="d1"), stage.tenure.input)
    assert stage.finish(Next("no", once="d1"), stage.tenure.side) == [("dev.audit", b"superseded d1")]


def test_other_names_and_records_without_one_are_free(stage):
    stage.finish(Next("yes", once="d1"))
    assert stage.finish(Next("yes", once="d2"))[0] == ("dev.out", b"yes")
    assert stage.finish(Next("yes")) == [("dev.out", b"yes")]
    assert stage.finish(Next("yes")) == [("dev.out", b"yes")]


def test_a_name_is_known_from_its_first_use_on(stage):
    seen = []

    def look(delivery):
        seen.append(delivery.knows("d1"))
        return Next("yes", once="d1")

    stage.finish(look)
    stage.finish(look)
    assert seen == [False, True]


@pytest.mark.parametrize("outcome", [Next("unwritable", once="d1"), Dead("invalid")], ids=["unwritable", "dead"])
def test_a_dead_letter_uses_up_no_name(stage, outcome):
    assert stage.finish(outcome)[0][0] == "dev.dead"
    assert stage.finish(Next("yes", once="d1"))[0] == ("dev.out", b"yes")


def test_a_restored_state_knows_the_names(stage):
    stage.finish(Next("yes", once="d1"))
    state = State(1_000)
    for record in stage.finished[-1].outputs:
        if record.topic == "dev.state":
            state.restore(record.key, record.value)
    stage.tenure = a_tenure(state)
    assert stage.finish(Next("no", once="d1")) == [("dev.audit", b"superseded d1")]


def test_the_letter_of_a_record_of_the_second_input_names_that_input(stage):
    stage.finish(Dead("invalid"), stage.tenure.side)
    assert dict(stage.finished[-1].outputs[0].headers)["lockgate_source_topic"] == b"beside"


class Transactions:
    """Everything is committed at once."""

    def __init__(self):
        self.committed = []

    def renew(self):
        pass

    def run(self, outputs, offsets, member):
        self.committed.append((outputs, offsets))
        return Committed()


class Group:
    def membership(self):
        return Membership(0, "member")


def test_what_comes_from_both_inputs_is_committed_in_one_round_each_with_its_offset(stage):
    transactions = Transactions()
    committer = Committer(
        BESIDE,
        StageLimits(round_s=0.0, revoke_grace_s=0.0),
        transactions=transactions,
        group=Group(),
        counters=Counters(),
        on_failure=lambda failure: None,
        pause=lambda seconds: None,
    )
    stage.finish(Next("one"), stage.tenure.input)
    stage.finish(Next("two"), stage.tenure.side)
    for delivery in stage.finished:
        committer.push(delivery)
    committer.round()
    [(outputs, offsets)] = transactions.committed
    assert sorted(output.value for _, output in outputs) == [b"one", b"two"]
    assert sorted((topic, offset) for topic, _, offset, _ in offsets) == [("dev.beside", 1), ("dev.in", 1)]
    assert stage.tenure.settled()
