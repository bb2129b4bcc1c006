"""Single behaviours of the window: what agents may do, and what becomes of the record."""

import asyncio
from functools import wraps
from random import Random

import pytest

from pipeline.errors import DecodeError, EncodeError, FailureClass, StepError
from pipeline.outcome import Dead, Next, Retry
from pipeline.stream import output
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.output import Output
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.window import Counters, Window, once_key
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.clock import VirtualClock

DONE = Next("done")


class Exits:
    def on(self, delivery, outcome):
        return (Output("dev.out", delivery.key, delivery.value),)

    def duplicate(self, delivery, now_s):
        return (Output("dev.audit", delivery.key, delivery.value),)

    def superseded(self, delivery, outcome, now_s):
        return (Output("dev.audit", delivery.key, delivery.value),)


class Bench:
    """A window with time to be moved and a list in place of the committer."""

    def __init__(self, *, decode=lambda delivery: delivery.value, exits=None, retry=None, **options):
        self.clock = VirtualClock()
        self.finished = []
        self.counters = Counters()
        self.limits = StageLimits(deadline_s=10, retry=retry or RetryLimits(base_s=1, cap_s=4, jitter=0))
        self.window = Window(
            ROUTE,
            self.limits,
            decode=decode,
            exits=exits or Exits(),
            push=self.finished.append,
            clock=self.clock,
            random=Random(0),
            counters=self.counters,
            **options,
        )
        self.tenure = a_tenure()

    def admit(self, *values, key=None, track=None, headers=()):
        track = track or self.tenure.input
        batch = [
            a_delivery(track, track.next_offset, key=key, value=value, headers=headers, window=self.window)
            for value in values
        ]
        self.window.admit(batch)
        return batch

    def topics(self):
        return [[record.topic for record in delivery.outputs] for delivery in self.finished]

    def said(self, name):
        """What the last record of the last finished delivery says in a header."""
        return dict(self.finished[-1].outputs[0].headers)[name].decode()


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def agent(window, step):
    """The agent of the manual."""
    while (delivery := await window.get()) is not None:
        async with delivery:
            delivery.resolve(await step(delivery))


def running(test):
    """Runs an async test, which must not wait for ever. What tasks it leaves are cancelled at its end."""

    @wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 10))

    return run


# -- outcomes -------------------------------------------------------------------------------------------------


@running
async def test_a_resolved_record_is_finished_with_its_outputs():
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get() as delivery:
        delivery.resolve(DONE)
    assert bench.topics() == [["dev.out"]]


@running
async def test_the_last_outcome_counts():
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get() as delivery:
        delivery.resolve(DONE)
        delivery.resolve(Dead("on second thought"))
    assert bench.said(output.CAUSE) == "on second thought"


@running
async def test_a_block_left_without_an_outcome_is_a_dead_letter():
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get():
        pass
    assert bench.said(output.CAUSE).startswith("unresolved")


FAILURES = [
    (StepError("bad input"), "dead", "permanent", "bad input"),
    (StepError("forbidden", FailureClass.POLICY), "dead", "policy", "forbidden"),
    (KeyError("x"), "dead", "permanent", "KeyError: 'x'"),
    (StepError("busy", FailureClass.TRANSIENT), "retry", None, None),
    (StepError("spent", FailureClass.BUDGET), "retry", None, None),
    (TimeoutError("slow"), "retry", None, None),
    (ConnectionResetError("gone"), "retry", None, None),
]


@pytest.mark.parametrize(("error", "end", "kind", "cause"), FAILURES, ids=lambda value: repr(value)[:30])
@running
async def test_an_exception_becomes_an_outcome_by_its_class(error, end, kind, cause):
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get():
        raise error
    if end == "retry":
        assert (bench.finished, bench.counters.retried) == ([], 1)
    else:
        assert bench.topics() == [["dev.dead"]]
        assert (bench.said(output.CLASS), bench.said(output.CAUSE)) == (kind, cause)


@running
async def test_something_that_is_no_outcome_is_a_dead_letter_and_the_key_goes_on():
    bench = Bench()
    bench.admit(b"1", b"2", key=b"k")
    async with await bench.window.get() as delivery:
        delivery.resolve("yes")
    assert bench.topics() == [["dev.dead"]]
    assert (await bench.window.get()).value == b"2"


@pytest.mark.parametrize("error", [EncodeError("no field x"), ValueError("a fault")])
@running
async def test_an_outcome_that_cannot_be_written_is_a_dead_letter_and_the_agent_lives(error):
    class Broken(Exits):
        def on(self, delivery, outcome):
            raise error

    bench = Bench(exits=Broken())
    bench.admit(b"1", b"2", key=b"k")
    for _ in range(2):
        async with await bench.window.get() as delivery:
            delivery.resolve(DONE)
    assert bench.topics() == [["dev.dead"], ["dev.dead"]]
    assert str(error) in bench.said(output.CAUSE)
    assert bench.tenure.out == 0


@pytest.mark.parametrize(
    ("error", "kind"), [(DecodeError("no avro"), "poison"), (RuntimeError("a fault"), "permanent")]
)
@running
async def test_what_cannot_be_decoded_is_a_dead_letter_without_an_agent(error, kind):
    def decode(delivery):
        if delivery.value == b"bad":
            raise error
        return delivery.value

    bench = Bench(decode=decode)
    bench.admit(b"bad", b"good", key=b"k")
    assert (await bench.window.get()).value == b"good"
    assert bench.topics() == [["dev.dead"]]
    assert bench.said(output.CLASS) == kind


# -- agents that misbehave ------------------------------------------------------------------------------------


@running
async def test_a_step_past_its_deadline_is_cancelled_and_the_agent_goes_on():
    bench = Bench()
    bench.admit(b"slow", b"quick")
    started = asyncio.Event()

    async def step(delivery):
        if delivery.value == b"slow" and not started.is_set():
            started.set()
            await asyncio.Event().wait()
        return DONE

    task = asyncio.create_task(agent(bench.window, step))
    await started.wait()
    bench.clock.advance(10.1)
    bench.window.sweep()
    await turns()
    assert [delivery.value for delivery in bench.finished] == [b"quick"]
    assert (bench.counters.overdue, bench.counters.retried, task.cancelling()) == (1, 1, 0)
    bench.clock.advance(1)
    await turns()
    assert [delivery.value for delivery in bench.finished] == [b"quick", b"slow"]
    assert not task.done()


@running
async def test_a_step_within_its_deadline_is_left_alone():
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get() as delivery:
        bench.clock.advance(9.9)
        bench.window.sweep()
        await turns()
        delivery.resolve(DONE)
    assert bench.topics() == [["dev.out"]]


@running
async def test_an_agent_that_swallows_its_deadline_keeps_its_outcome_and_no_cancellation():
    bench = Bench()
    bench.admit(b"1")
    started = asyncio.Event()

    async def step(delivery):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return DONE

    task = asyncio.create_task(agent(bench.window, step))
    await started.wait()
    bench.clock.advance(11)
    bench.window.sweep()
    await turns()
    assert bench.topics() == [["dev.out"]]
    assert task.cancelling() == 0


@running
async def test_a_stopped_agent_gives_its_record_back_uncounted():
    bench = Bench()
    bench.admit(b"1")
    started = asyncio.Event()

    async def step(delivery):
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(agent(bench.window, step))
    await started.wait()
    task.cancel()
    await turns()
    assert task.cancelled()
    delivery = await bench.window.get()
    assert (delivery.value, delivery.attempt, bench.counters.requeued) == (b"1", 1, 1)


@running
async def test_an_agent_that_is_stopped_at_its_deadline_stops():
    bench = Bench()
    bench.admit(b"1", b"2")
    started = asyncio.Event()

    async def step(delivery):
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(agent(bench.window, step))
    await started.wait()
    bench.clock.advance(11)
    bench.window.sweep()
    task.cancel()
    await turns()
    assert task.cancelled()
    assert (bench.finished, bench.counters.requeued, bench.tenure.out) == ([], 1, 0)


@running
async def test_a_cancellation_inside_the_step_is_a_failed_attempt_and_the_agent_goes_on():
    bench = Bench()
    bench.admit(b"1", b"2")

    async def step(delivery):
        if delivery.value == b"1":
            inner = asyncio.create_task(asyncio.sleep(60))
            inner.cancel()
            await inner
        return DONE

    task = asyncio.create_task(agent(bench.window, step))
    await turns(10)
    assert not task.done()
    assert [delivery.value for delivery in bench.finished] == [b"2"]
    assert bench.counters.retried == 1


@running
async def test_an_agent_that_ends_before_its_block_costs_the_record_an_attempt():
    bench = Bench(retry=RetryLimits(base_s=1, cap_s=4, jitter=0, lane_attempts=3, attempts=3))
    bench.admit(b"1")

    async def crash():
        await bench.window.get()
        raise RuntimeError("before the block")

    for _ in range(3):
        task = asyncio.create_task(crash())
        await turns()
        assert isinstance(task.exception(), RuntimeError)
        bench.window.sweep()
        bench.clock.advance(5)
    assert bench.topics() == [["dev.dead"]]
    assert bench.said(output.ATTEMPT) == "3"


@running
async def test_an_agent_that_never_enters_loses_the_record_and_may_not_settle_it_later():
    bench = Bench()
    bench.admit(b"1")
    sleeper = await bench.window.get()
    bench.clock.advance(11)
    bench.window.sweep()
    bench.clock.advance(1)
    async with await bench.window.get() as delivery:
        delivery.resolve(DONE)
    assert delivery is not sleeper
    async with sleeper:
        sleeper.resolve(Dead("too late"))
    assert bench.topics() == [["dev.out"]]


@running
async def test_a_late_outcome_of_an_earlier_attempt_changes_nothing():
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get() as first:
        first.resolve(Retry("not yet"))
    bench.clock.advance(1)
    async with await bench.window.get() as second:
        second.resolve(DONE)
        first.resolve(Dead("from the first attempt"))
    assert bench.topics() == [["dev.out"]]


@running
async def test_the_sweeper_asks_the_retry_rule_with_the_decoded_record():
    asked = []

    def rule(record):
        asked.append(record)
        return RetryLimits()

    bench = Bench(retry_limits=rule)
    bench.admit(b"1")
    await bench.window.get()
    bench.clock.advance(11)
    bench.window.sweep()
    assert asked == [b"1"]


# -- waiting --------------------------------------------------------------------------------------------------


@running
async def test_waiting_agents_get_one_record_each():
    bench = Bench()
    got = [asyncio.create_task(bench.window.get()) for _ in range(3)]
    await turns()
    bench.admit(b"1", b"2")
    await turns()
    assert sorted(task.result().value for task in got if task.done()) == [b"1", b"2"]
    for task in got:
        task.cancel()


@running
async def test_a_cancelled_wait_passes_its_wake_up_on():
    bench = Bench()
    first = asyncio.create_task(bench.window.get())
    second = asyncio.create_task(bench.window.get())
    await turns()
    bench.admit(b"1")
    first.cancel()
    await turns()
    assert second.result().value == b"1"


@running
async def test_after_the_end_nobody_gets_anything_and_nobody_waits():
    bench = Bench()
    waiting = asyncio.create_task(bench.window.get())
    await turns()
    bench.window.end()
    bench.admit(b"1")
    await turns()
    assert waiting.result() is None
    assert await bench.window.get() is None


# -- keys -----------------------------------------------------------------------------------------------------


@running
async def test_one_record_of_a_key_is_out_and_others_do_not_wait_for_it():
    bench = Bench()
    bench.admit(b"1", b"2", key=b"k")
    bench.admit(b"3", b"4")
    assert [(bench.window.get_nowait()).value for _ in range(3)] == [b"1", b"3", b"4"]
    assert bench.window.get_nowait() is None


@running
async def test_while_a_record_backs_off_its_key_waits():
    bench = Bench()
    bench.admit(b"1", b"2", key=b"k")
    async with await bench.window.get() as delivery:
        delivery.resolve(Retry("later"))
    assert bench.window.get_nowait() is None
    bench.clock.advance(1)
    assert bench.window.get_nowait().value == b"1"


def parked_records(bench):
    return [r for delivery in bench.finished for r in delivery.outputs if r.topic == ROUTE.retry]


async def fail_twice(bench):
    for _ in range(2):
        async with await bench.window.get() as delivery:
            delivery.resolve(Retry("later"))
        bench.clock.advance(4)


@running
async def test_a_key_whose_budget_is_spent_is_parked_with_all_that_follows():
    bench = Bench(retry=RetryLimits(base_s=1, cap_s=4, jitter=0, lane_attempts=2))
    bench.admit(b"1", b"2", b"3", key=b"k")
    await fail_twice(bench)
    assert bench.window.get_nowait() is None
    assert [record.value for record in parked_records(bench)] == [b"1", b"2", b"3"]
    assert bench.tenure.parked.total == 3


@running
async def test_a_parked_record_goes_on_where_it_stopped_and_frees_its_key():
    bench = Bench(retry=RetryLimits(base_s=1, cap_s=4, jitter=0, lane_attempts=2, attempts=4))
    bench.admit(b"1", key=b"k", headers=(("ce_id", b"7"),))
    await fail_twice(bench)
    (record,) = parked_records(bench)
    bench.admit(record.value, key=record.key, track=bench.tenure.retry, headers=record.headers)
    delivery = await bench.window.get()
    assert (delivery.attempt, delivery.headers, delivery.source_offset) == (3, (("ce_id", b"7"),), 0)
    async with delivery:
        delivery.resolve(DONE)
    assert bench.tenure.parked.total == 0
    bench.admit(b"2", key=b"k")
    assert bench.window.get_nowait().value == b"2"


@running
async def test_in_the_retry_topic_a_record_is_tried_until_its_ceiling_and_then_dies():
    bench = Bench(retry=RetryLimits(base_s=1, cap_s=4, jitter=0, lane_attempts=1, attempts=3))
    bench.admit(b"1", key=b"k")
    async with await bench.window.get() as delivery:
        delivery.resolve(Retry("later"))
    (record,) = parked_records(bench)
    bench.admit(record.value, key=record.key, track=bench.tenure.retry, headers=record.headers)
    await fail_twice(bench)
    assert bench.topics()[-1] == ["dev.dead"]
    assert bench.said(output.CAUSE) == "later (attempts: 3 of 3)"
    assert bench.tenure.parked.total == 0


@running
async def test_only_so_many_keys_may_back_off_in_their_lanes():
    bench = Bench(retry=RetryLimits(base_s=1, cap_s=4, jitter=0, lane_keys=1))
    bench.admit(b"1", key=b"a")
    bench.admit(b"2", key=b"b")
    for _ in range(2):
        async with await bench.window.get() as delivery:
            delivery.resolve(Retry("later"))
    assert [record.value for record in parked_records(bench)] == [b"2"]


# -- identities -----------------------------------------------------------------------------------------------


def first_stage(**options):
    return Bench(identify=lambda record: ("source", record.split(b":")[0].decode()), **options)


@running
async def test_a_repeat_is_dropped_and_audited_while_the_first_is_still_out():
    bench = first_stage()
    bench.admit(b"1:a", b"1:a", b"1:b")
    assert bench.window.get_nowait().value == b"1:a"
    assert bench.window.get_nowait() is None
    assert bench.topics() == [["dev.audit"], ["dev.dead"]]
    assert bench.said(output.CAUSE).startswith("conflict")


@running
async def test_the_identity_is_remembered_in_the_transaction_of_its_record():
    bench = first_stage()
    bench.admit(b"1:a")
    async with await bench.window.get() as delivery:
        delivery.resolve(DONE)
    assert bench.topics() == [["dev.out", "dev.state"]]


@running
async def test_a_record_that_is_handed_out_again_is_no_repeat_of_itself():
    bench = first_stage()
    bench.admit(b"1:a")
    with pytest.raises(GeneratorExit):
        async with await bench.window.get():
            raise GeneratorExit
    assert bench.window.get_nowait().value == b"1:a"
    assert bench.counters.duplicates == 0


@running
async def test_a_repeat_of_a_record_that_waits_behind_a_parked_one_is_recognised():
    bench = first_stage()
    bench.tenure.parked = ParkedKeys({b"k": 1})
    bench.admit(b"1:a", b"1:a", key=b"k")
    assert bench.window.get_nowait() is None
    assert bench.topics() == [["dev.retry", "dev.state"], ["dev.audit"]]


@running
async def test_a_repeat_that_cannot_be_audited_is_a_dead_letter():
    class Broken(Exits):
        def duplicate(self, delivery, now_s):
            raise EncodeError("no audit")

    bench = first_stage(exits=Broken())
    bench.admit(b"1:a", b"1:a")
    bench.window.get_nowait()
    assert bench.window.get_nowait() is None
    assert bench.said(output.CAUSE) == "encode: no audit"


@running
async def test_a_name_that_may_be_used_once_goes_to_the_first_that_used_it():
    bench = Bench()
    bench.admit(b"1", b"2")
    one, other = bench.window.get_nowait(), bench.window.get_nowait()
    for delivery in (other, one):
        async with delivery:
            delivery.resolve(Next("done", once="review-1"))
    assert bench.topics() == [["dev.out", "dev.state"], ["dev.audit"]]
    assert bench.tenure.state.get(once_key("review-1")) is not None


# -- the end of a tenure --------------------------------------------------------------------------------------


@running
async def test_nothing_is_handed_out_of_a_tenure_that_closes_and_what_is_out_may_finish():
    bench = Bench()
    bench.admit(b"1", b"2")
    out = await bench.window.get()
    bench.tenure.closing = True
    assert bench.window.get_nowait() is None
    assert not bench.tenure.settled()
    async with out:
        out.resolve(DONE)
    assert bench.topics() == [["dev.out"]]
    bench.tenure.input.released += 1
    assert bench.tenure.settled()


@running
async def test_what_finishes_after_the_end_is_dropped_and_counted():
    bench = Bench()
    bench.admit(b"1", b"2")
    agents = [bench.window.get_nowait(), bench.window.get_nowait()]
    bench.tenure.closing = True
    bench.tenure.alive = False
    async with agents[0]:
        agents[0].resolve(DONE)
    bench.clock.advance(11)
    bench.window.sweep()
    assert (bench.finished, bench.counters.epoch_drops, bench.tenure.out) == ([], 2, 0)


@running
async def test_a_back_off_that_outlives_its_tenure_hands_nothing_out():
    bench = Bench()
    bench.admit(b"1")
    async with await bench.window.get() as delivery:
        delivery.resolve(Retry("later"))
    bench.tenure.closing = True
    bench.clock.advance(60)
    assert bench.window.get_nowait() is None
    assert bench.tenure.backing_off == 0
