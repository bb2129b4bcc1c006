"""What one stage promises about single records, on the real broker."""

import asyncio
import time

import pytest

from pipeline.errors import BrokerUnavailable, ConfigError, DecodeError, FailureClass, StageStopped, StepError
from pipeline.outcome import Retry
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.output import Output
from tests.broker.one_stage import FAST, PASS, Copy, Names, eventually, publish, read_all, running

QUICK_RETRY = RetryLimits(base_s=0.05, cap_s=0.2, lane_attempts=2, attempts=6, ceiling_s=20)


@pytest.fixture
def names(environment, create_topics):
    names = Names(environment)
    create_topics(*names.all, partitions=names.partitions)
    return names


def numbered(count, keys=10):
    return [(b"k%d" % (n % keys), b"%06d" % n) for n in range(count)]


def values(messages):
    return sorted(message.value() for message in messages)


def in_key_order(messages):
    last = {}
    for message in messages:
        if last.get(message.key(), b"") >= message.value():
            return False
        last[message.key()] = message.value()
    return True


async def passes(_delivery):
    return PASS


def test_every_record_comes_out_once_and_in_key_order(kafka, names):
    records = numbered(2000, keys=50)
    publish(kafka, names.topic("in"), records)

    async def scenario():
        async with running(kafka, names, passes) as stage:
            await eventually(lambda: stage.counters.committed == len(records))

    asyncio.run(scenario())
    out = read_all(kafka, names.topic("out"))
    assert values(out) == [value for _, value in records]
    assert in_key_order(out)


def test_a_step_that_raises_makes_a_dead_letter_and_stops_nobody(kafka, names):
    publish(kafka, names.topic("in"), numbered(100))

    async def step(delivery):
        if delivery.value == b"000042":
            raise ZeroDivisionError("a fault in the step")
        return PASS

    async def scenario():
        async with running(kafka, names, step) as stage:
            await eventually(lambda: stage.counters.committed == 100)

    asyncio.run(scenario())
    assert len(read_all(kafka, names.topic("out"))) == 99
    (letter,) = read_all(kafka, names.topic("dead"))
    headers = dict(letter.headers())
    assert letter.value() == b"000042"
    assert headers["lockgate_class"] == b"permanent"
    assert headers["lockgate_cause"] == b"ZeroDivisionError: a fault in the step"


def test_bytes_that_cannot_be_decoded_lie_byte_for_byte_in_the_dead_letters(kafka, names):
    key, value = b"\xff\xfe\x00key", bytes(range(256))
    headers = [("h", b"\x80\x81"), ("h", b"twice"), ("h", b""), ("h", None)]
    publish(kafka, names.topic("in"), [(b"k1", b"fine"), (key, value, headers), (b"k2", b"fine too")])

    def decode(delivery):
        if delivery.value.startswith(b"fine"):
            return delivery.value
        raise DecodeError("not what it promises")

    async def scenario():
        async with running(kafka, names, passes, decode=decode) as stage:
            await eventually(lambda: stage.counters.committed == 3)

    asyncio.run(scenario())
    (letter,) = read_all(kafka, names.topic("dead"))
    assert (letter.key(), letter.value(), letter.headers()[:4]) == (key, value, headers)
    added = dict(letter.headers()[4:])
    assert added["lockgate_class"] == b"poison"
    assert added["lockgate_source_topic"] == b"in"
    assert added["lockgate_source_partition"] == b"%d" % letter.partition()


@pytest.mark.parametrize("fault", ["too large", "unknown topic"])
def test_one_bad_output_among_a_thousand_hurts_only_itself(kafka, names, fault):
    records = numbered(1000, keys=100)
    publish(kafka, names.topic("in"), records)

    def output_of(delivery, _outcome):
        topic, value = names.topic("out"), delivery.value
        if value == b"000500":
            if fault == "too large":
                value = b"x" * 3_000_000  # more than the topic's max.message.bytes, less than the client's
            else:
                topic = f"{names.environment}.never-created"
        return (Output(topic, delivery.key, value, delivery.headers),)

    async def scenario():
        async with running(kafka, names, passes, exits=Copy(names, output_of)) as stage:
            await eventually(lambda: stage.counters.committed == 1000, 90)
            assert stage.counters.outputs_buried == 1

    asyncio.run(scenario())
    out = read_all(kafka, names.topic("out"))
    assert values(out) == [value for _, value in records if value != b"000500"]
    assert in_key_order(out)
    (letter,) = read_all(kafka, names.topic("dead"))
    assert letter.value() == b"000500"
    assert dict(letter.headers())["lockgate_cause"].startswith(b"output refused: ")


def test_a_step_past_its_deadline_is_cancelled_and_its_record_tried_again(kafka, names):
    publish(kafka, names.topic("in"), numbered(20))
    hung = []

    async def step(delivery):
        if delivery.value == b"000007" and not hung:
            hung.append(delivery.value)
            await asyncio.sleep(3600)
        return PASS

    async def scenario():
        limits = StageLimits(**FAST, deadline_s=0.5, retry=QUICK_RETRY)
        async with running(kafka, names, step, limits=limits) as stage:
            await eventually(lambda: stage.counters.committed == 20)
            assert stage.counters.overdue == 1

    asyncio.run(scenario())
    assert hung
    out = read_all(kafka, names.topic("out"))
    assert len(out) == 20
    assert in_key_order(out)


def test_an_agent_cancelled_in_the_middle_of_its_work_loses_nothing(kafka, names):
    publish(kafka, names.topic("in"), numbered(40))
    began = []

    async def step(delivery):
        began.append(delivery.value)
        if len(began) <= 3:
            await asyncio.sleep(3600)
        return PASS

    async def scenario():
        async with running(kafka, names, step) as stage:
            await eventually(lambda: len(began) >= 3)
            for task in stage.agents[:4]:
                task.cancel()
            await eventually(lambda: stage.counters.committed == 40)

    asyncio.run(scenario())
    out = read_all(kafka, names.topic("out"))
    assert len(out) == 40
    assert in_key_order(out)


def test_a_failing_key_is_parked_with_its_followers_and_keeps_its_order(kafka, names):
    """k3 fails for a while: its records go to the retry topic and come out in order; the other keys never wait."""
    publish(kafka, names.topic("in"), numbered(200))
    healed = asyncio.Event()
    tries = []

    async def step(delivery):
        if delivery.key == b"k3" and not healed.is_set():
            tries.append(time.monotonic())
            return Retry("the provider is away")
        return PASS

    async def scenario():
        limits = StageLimits(**FAST, retry=RetryLimits(base_s=0.05, cap_s=0.2, lane_attempts=2, attempts=1000))
        async with running(kafka, names, step, limits=limits) as stage:
            await eventually(lambda: stage.counters.parked == 20)
            await eventually(lambda: stage.counters.committed >= 200)
            assert len(read_all(kafka, names.topic("out"))) == 180
            await eventually(lambda: len(tries) > 5)
            healed.set()
            await eventually(lambda: stage.counters.committed == 220)

    asyncio.run(scenario())
    out = read_all(kafka, names.topic("out"))
    assert len(out) == 200
    assert in_key_order(out)
    assert not read_all(kafka, names.topic("dead"))


def test_parked_keys_are_known_again_after_a_restart(kafka, names):
    """Records of a parked key that arrive after the restart still come out behind the parked ones."""
    publish(kafka, names.topic("in"), numbered(100))

    async def fails_k3(delivery):
        return Retry("the provider is away") if delivery.key == b"k3" else PASS

    limits = StageLimits(**FAST, retry=RetryLimits(base_s=0.05, cap_s=0.2, lane_attempts=1, attempts=10_000))

    async def before():
        async with running(kafka, names, fails_k3, limits=limits) as stage:
            await eventually(lambda: stage.counters.parked == 10 and stage.counters.committed >= 100)

    async def after():
        seen = []

        async def step(delivery):
            if delivery.key == b"k3":
                seen.append(delivery.value)
            return PASS

        async with running(kafka, names, step, limits=limits):
            await eventually(lambda: len(seen) == 20)

    asyncio.run(before())
    publish(kafka, names.topic("in"), [(b"k%d" % (n % 10), b"%06d" % n) for n in range(100, 200)])
    asyncio.run(after())
    out = read_all(kafka, names.topic("out"))
    assert len(out) == 200
    assert in_key_order(out)


def test_a_key_that_never_recovers_becomes_dead_letters_at_the_ceiling(kafka, names):
    publish(kafka, names.topic("in"), numbered(100))

    async def step(delivery):
        if delivery.key == b"k3":
            raise StepError("out of budget", FailureClass.BUDGET)
        return PASS

    async def scenario():
        async with running(kafka, names, step, limits=StageLimits(**FAST, retry=QUICK_RETRY)) as stage:
            await eventually(lambda: stage.counters.dead == 10)
            await eventually(lambda: stage.counters.committed == stage.counters.finished)

    asyncio.run(scenario())
    letters = read_all(kafka, names.topic("dead"))
    assert [letter.value() for letter in letters] == [b"%06d" % n for n in range(3, 100, 10)]
    for letter in letters:
        headers = dict(letter.headers())
        assert headers["lockgate_class"] == b"budget"
        assert headers["lockgate_cause"] == b"out of budget (attempts: 6 of 6)"
        assert headers["lockgate_source_topic"] == b"in"
    assert len(read_all(kafka, names.topic("out"))) == 90


def test_a_repeat_is_dropped_and_audited_also_after_a_restart(kafka, names):
    def identify(record):
        return "source", record.decode().split("|")[0]

    async def run_until(count):
        async with running(kafka, names, passes, identify=identify) as stage:
            await eventually(lambda: stage.counters.committed == count)

    publish(kafka, names.topic("in"), [(b"a", b"1|x"), (b"a", b"2|x"), (b"a", b"1|x")])
    asyncio.run(run_until(3))
    publish(kafka, names.topic("in"), [(b"a", b"2|x"), (b"a", b"3|x")])
    asyncio.run(run_until(2))

    assert values(read_all(kafka, names.topic("out"))) == [b"1|x", b"2|x", b"3|x"]
    assert values(read_all(kafka, names.topic("audit"))) == [b"1|x", b"2|x"]


def test_the_same_identity_with_other_bytes_is_a_conflict(kafka, names):
    publish(kafka, names.topic("in"), [(b"a", b"1|x"), (b"a", b"1|other")])

    async def scenario():
        identify = lambda record: ("source", record.decode().split("|")[0])  # noqa: E731
        async with running(kafka, names, passes, identify=identify) as stage:
            await eventually(lambda: stage.counters.committed == 2)

    asyncio.run(scenario())
    (letter,) = read_all(kafka, names.topic("dead"))
    assert letter.value() == b"1|other"
    assert dict(letter.headers())["lockgate_cause"].startswith(b"conflict")


def test_what_is_done_beyond_a_slow_record_is_not_done_again_after_a_restart(kafka, names):
    records = [(b"k%d" % n, b"%06d" % n) for n in range(400)]
    publish(kafka, names.topic("in"), records)
    worked = []

    def step_of(slow):
        async def step(delivery):
            worked.append(delivery.value)
            if slow and int(delivery.value) % 40 == 0:
                await asyncio.sleep(3600)
            return PASS

        return step

    async def before():
        limits = StageLimits(**{**FAST, "stop_grace_s": 0.1})
        async with running(kafka, names, step_of(slow=True), limits=limits, slots=64) as stage:
            await eventually(lambda: stage.counters.committed == 390)

    async def after():
        worked.clear()
        async with running(kafka, names, step_of(slow=False), slots=64) as stage:
            await eventually(lambda: stage.counters.committed == 10)
            assert stage.counters.skipped_done > 0

    asyncio.run(before())
    asyncio.run(after())
    assert sorted(worked) == [b"%06d" % n for n in range(0, 400, 40)]
    assert values(read_all(kafka, names.topic("out"))) == [value for _, value in records]


def test_a_step_far_longer_than_the_session_causes_no_rebalance(kafka, names):
    """13 s of work with a session of 6 s; `make proof` has two minutes with a session of 10 s."""
    publish(kafka, names.topic("in"), [(b"slow", b"000000"), *numbered(50)])

    async def step(delivery):
        if delivery.key == b"slow":
            await asyncio.sleep(13)
        return PASS

    async def scenario():
        async with running(kafka, names, step) as stage:
            await eventually(lambda: stage.counters.committed == 50, 10, "others waited for the slow one")
            rebalances = stage.counters.rebalances
            await eventually(lambda: stage.counters.committed == 51, 20)
            assert stage.counters.rebalances == rebalances == 1

    asyncio.run(scenario())
    assert len(read_all(kafka, names.topic("out"))) == 51


def test_at_its_limit_a_partition_pauses_and_nothing_is_dropped(kafka, names):
    records = numbered(3000, keys=100)
    publish(kafka, names.topic("in"), records)
    gate = asyncio.Event()

    async def step(_delivery):
        await gate.wait()
        return PASS

    async def scenario():
        limits = StageLimits(**FAST, partition_records=100, total_records=300, batch_records=20)
        async with running(kafka, names, step, limits=limits) as stage:
            await eventually(lambda: stage.counters.pauses >= 1)
            await asyncio.sleep(1)
            held = sum(tenure.input.held for tenure in stage.tenures)
            assert held <= 300 + 4 * 20
            gate.set()
            await eventually(lambda: stage.counters.committed == 3000)

    asyncio.run(scenario())
    out = read_all(kafka, names.topic("out"))
    assert values(out) == [value for _, value in records]
    assert in_key_order(out)


def test_a_stage_without_its_topics_says_what_to_do(kafka, environment):
    async def scenario():
        async with running(kafka, Names(environment), passes):
            pass

    with pytest.raises(ConfigError, match=r"missing topics: .*lockgate topics apply"):
        asyncio.run(scenario())


def test_a_stage_without_a_broker_says_which_one_is_silent(environment):
    async def scenario():
        async with running("127.0.0.1:1", Names(environment), passes):
            pass

    with pytest.raises(BrokerUnavailable, match=r"127.0.0.1:1 does not answer"):
        asyncio.run(scenario())


def test_outputs_of_one_record_are_visible_together(kafka, names):
    publish(kafka, names.topic("in"), numbered(100))

    def output_of(delivery, _outcome):
        return (
            Output(names.topic("out"), delivery.key, delivery.value),
            Output(names.topic("audit"), delivery.key, delivery.value),
        )

    async def scenario():
        async with running(kafka, names, passes, exits=Copy(names, output_of)) as stage:
            await eventually(lambda: stage.counters.committed == 100)

    asyncio.run(scenario())
    assert values(read_all(kafka, names.topic("out"))) == values(read_all(kafka, names.topic("audit")))


def test_two_processes_of_one_slot_stop_with_the_reason_and_double_nothing(kafka, names):
    """They fence each other: at least one of them gives up and says why, and what is visible is visible once."""
    publish(kafka, names.topic("in"), numbered(4000, keys=200))

    async def slowly(_delivery):
        await asyncio.sleep(0.05)
        return PASS

    async def scenario():
        async with running(kafka, names, slowly) as one, running(kafka, names, slowly) as two:
            await eventually(lambda: one.failed.done() or two.failed.done(), 60)
            failed = one if one.failed.done() else two
            with pytest.raises(StageStopped, match="LOCKGATE_SLOT"):
                failed.failed.result()

    asyncio.run(scenario())
    out = values(read_all(kafka, names.topic("out")))
    assert len(out) == len(set(out))
