"""A side input, and names that may be used once, on the real broker."""

import asyncio
from dataclasses import replace

import pytest

from pipeline.outcome import Next
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.route import Side
from pipeline.stream.stage import Stage
from tests.broker.one_stage import FAST, Copy, Names, eventually, publish, read_all


class WithSide(Copy):
    """Audits what came second."""

    def superseded(self, delivery, outcome, now_s):
        return (Output(self.names.topic("audit"), delivery.key, delivery.value),)


@pytest.fixture
def names(environment, create_topics):
    names = Names(environment, names=("in", "out", "retry", "dead", "state", "audit", "side"))
    create_topics(*names.all, partitions=names.partitions)
    return names


async def run_until(kafka, names, count, *, use_names=True):
    """A stage that lets a value through once, whichever of its inputs it comes from, until `count` are committed."""
    route = replace(names.route(remembers=True), side=Side(names.topic("side"), "side"))
    stage = Stage(
        route,
        StageLimits(**FAST),
        {"bootstrap.servers": kafka},
        transactional_id=f"{names.environment}.lone.0",
        decode=lambda delivery: delivery.value,
        exits=WithSide(names),
    )
    sources = []

    async def agent():
        while (delivery := await stage.window.get()) is not None:
            async with delivery:
                sources.append(delivery.track.source)
                delivery.resolve(Next(None, once=delivery.value.decode() if use_names else None))

    await stage.start()
    agents = [asyncio.create_task(agent()) for _ in range(4)]
    await eventually(lambda: stage.counters.committed == count)
    await stage.stop()
    stage.window.end()
    await asyncio.gather(*agents)
    return sources


def test_the_side_input_is_read_by_the_owner_of_the_input(kafka, names):
    publish(kafka, names.topic("in"), [(b"k%d" % n, b"in-%d" % n) for n in range(40)])
    publish(kafka, names.topic("side"), [(b"k%d" % n, b"side-%d" % n) for n in range(40)])
    sources = asyncio.run(run_until(kafka, names, 80))
    assert sorted(sources) == ["in"] * 40 + ["side"] * 40
    assert len(read_all(kafka, names.topic("out"))) == 80


def test_the_side_input_goes_on_where_it_was_after_a_restart(kafka, names):
    publish(kafka, names.topic("side"), [(b"k%d" % n, b"a-%d" % n) for n in range(20)])
    asyncio.run(run_until(kafka, names, 20))
    publish(kafka, names.topic("side"), [(b"k%d" % n, b"b-%d" % n) for n in range(20)])
    asyncio.run(run_until(kafka, names, 20, use_names=False))
    values = sorted(message.value() for message in read_all(kafka, names.topic("out")))
    assert values == sorted(b"%s-%d" % (run, n) for run in (b"a", b"b") for n in range(20))


def test_a_name_is_used_once_across_inputs_and_restarts_and_the_rest_is_audited(kafka, names):
    publish(kafka, names.topic("in"), [(b"k1", b"x"), (b"k1", b"y")])
    asyncio.run(run_until(kafka, names, 2))
    publish(kafka, names.topic("side"), [(b"k1", b"x"), (b"k1", b"z"), (b"k1", b"z")])
    asyncio.run(run_until(kafka, names, 3))
    assert sorted(message.value() for message in read_all(kafka, names.topic("out"))) == [b"x", b"y", b"z"]
    assert sorted(message.value() for message in read_all(kafka, names.topic("audit"))) == [b"x", b"z"]
