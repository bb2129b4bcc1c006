"""Batches: single questions become batches beside the loop, and no question is answered for another."""

import asyncio
import threading

import pytest

from pipeline.errors import FailureClass, StepError
from pipeline.models.batch import Batches

NEVER_S = 3600.0  # a batch that starts by itself in a test has another reason


def doubled(items):
    return [item * 2 for item in items]


class Gate:
    """A run that stops in its thread until it is let through, and remembers its batches."""

    def __init__(self):
        self.batches = []
        self.reached = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(list(items))
        self.reached.release()
        assert self.open.acquire(timeout=10)
        return doubled(items)

    async def until_reached(self):
        assert await asyncio.to_thread(self.reached.acquire, timeout=10)


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def settle():
    """Lets every task that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_each_caller_gets_the_answer_to_its_own_question():
    async def scenario():
        batches = Batches(doubled)
        assert await asyncio.gather(*(batches.ask(number) for number in range(200))) == list(range(0, 400, 2))
        await batches.close()

    run(scenario)


def test_a_full_batch_starts_at_once():
    async def scenario():
        seen = []
        batches = Batches(lambda items: seen.append(len(items)) or doubled(items), size=4, wait_s=NEVER_S)
        await asyncio.gather(*(batches.ask(number) for number in range(8)))
        assert seen == [4, 4]
        await batches.close()

    run(scenario)


def test_a_single_question_does_not_wait_for_company_longer_than_said():
    async def scenario():
        batches = Batches(doubled, wait_s=0.002)
        assert await batches.ask(21) == 42
        await batches.close()

    run(scenario)


def test_questions_that_come_while_a_batch_runs_form_the_next_ones_of_the_right_size():
    async def scenario():
        gate = Gate()
        batches = Batches(gate, size=3, wait_s=0.0)
        first = asyncio.create_task(batches.ask(1))
        await gate.until_reached()
        others = [asyncio.create_task(batches.ask(number)) for number in (2, 3, 4, 5)]
        await settle()
        assert gate.batches == [[1]]
        gate.open.release(3)
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10]
        assert gate.batches == [[1], [2, 3, 4], [5]]
        await batches.close()

    run(scenario)


def test_the_work_is_done_beside_the_event_loop():
    async def scenario():
        threads = []
        batches = Batches(lambda items: threads.append(threading.current_thread()) or doubled(items), wait_s=0.0)
        await batches.ask(1)
        await batches.ask(2)
        assert threading.current_thread() not in threads
        assert len(set(threads)) == 1
        await batches.close()

    run(scenario)


def test_one_bad_item_does_not_fail_its_batch():
    def fussy(items):
        if 13 in items:
            raise ValueError("thirteen")
        return doubled(items)

    async def scenario():
        batches = Batches(fussy, size=4, wait_s=NEVER_S)
        results = await asyncio.gather(*(batches.ask(n) for n in (12, 13, 14, 15)), return_exceptions=True)
        assert results[0::2] + results[3:] == [24, 28, 30]
        assert isinstance(results[1], ValueError)
        await batches.close()

    run(scenario)


def test_answers_that_cannot_be_told_apart_are_given_to_nobody():
    async def scenario():
        batches = Batches(lambda items: [0, 0, 0], size=2, wait_s=NEVER_S)
        results = await asyncio.gather(batches.ask(1), batches.ask(2), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError]
        await batches.close()

    run(scenario)


def test_when_no_thread_can_be_had_the_callers_are_told():
    async def scenario():
        batches = Batches(doubled, wait_s=0.0)
        batches._worker.shutdown()
        with pytest.raises(RuntimeError):
            await batches.ask(1)
        await batches.close()

    run(scenario)


def test_a_caller_cancelled_while_its_batch_runs_leaves_the_others_their_answers():
    async def scenario():
        gate = Gate()
        batches = Batches(gate, size=2, wait_s=NEVER_S)
        gone, stays = (asyncio.create_task(batches.ask(number)) for number in (1, 2))
        await gate.until_reached()
        gone.cancel()
        gate.open.release()
        assert await stays == 4
        assert gone.cancelled()
        await batches.close()

    run(scenario)


def test_a_caller_cancelled_before_its_batch_starts_is_not_worked_for():
    async def scenario():
        seen = []
        batches = Batches(lambda items: seen.append(list(items)) or doubled(items), size=3, wait_s=NEVER_S)
        gone, stays = (asyncio.create_task(batches.ask(number)) for number in (1, 2))
        await settle()
        gone.cancel()
        await settle()
        assert await batches.ask(3) == 6
        assert await stays == 4
        assert seen == [[2, 3]]
        await batches.close()

    run(scenario)


def test_closing_answers_what_was_asked_and_refuses_what_comes_later():
    async def scenario():
        gate = Gate()
        batches = Batches(gate, size=2, wait_s=NEVER_S)
        asked = [asyncio.create_task(batches.ask(number)) for number in (1, 2, 3)]
        await gate.until_reached()
        closing = asyncio.create_task(batches.close())
        await settle()
        with pytest.raises(StepError) as refusal:
            await batches.ask(4)
        assert refusal.value.failure is FailureClass.TRANSIENT
        gate.open.release(2)
        await closing
        assert await asyncio.gather(*asked) == [2, 4, 6]
        await batches.close()

    run(scenario)


def test_closing_leaves_no_thread_behind():
    async def scenario():
        before = set(threading.enumerate())
        batches = Batches(doubled, wait_s=0.0)
        await batches.ask(1)
        (worker,) = set(threading.enumerate()) - before
        await batches.close()
        worker.join(timeout=10)
        assert not worker.is_alive()

    run(scenario)


def test_a_cancelled_close_does_not_take_the_answers_away():
    async def scenario():
        gate = Gate()
        batches = Batches(gate, size=1)
        asked = asyncio.create_task(batches.ask(1))
        await gate.until_reached()
        closing = asyncio.create_task(batches.close())
        await settle()
        closing.cancel()
        gate.open.release()
        assert await asked == 2
        await batches.close()

    run(scenario)
