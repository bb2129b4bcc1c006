"""Single behaviours of the window: lanes, parked keys, repeats, and the end of a tenure."""

import pytest

from pipeline.errors import EncodeError
from pipeline.outcome import Next, Retry
from pipeline.stream import output
from pipeline.stream.limits import RetryLimits
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.window import once_key
from tests.engine.builders import ROUTE
from tests.engine.window_bench import DONE, Bench, Exits, running

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
