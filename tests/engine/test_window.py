"""Single behaviours of the window: what agents may do, and what becomes of the record."""

import asyncio

import pytest

from pipeline.errors import DecodeError, EncodeError, FailureClass, StepError
from pipeline.outcome import Dead, Retry
from pipeline.stream import output
from pipeline.stream.limits import RetryLimits
from tests.engine.window_bench import DONE, Bench, Exits, running, turns


async def agent(window, step):
    """The agent of the manual."""
    while (delivery := await window.get()) is not None:
        async with delivery:
            delivery.resolve(await step(delivery))


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
