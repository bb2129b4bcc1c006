"""One stage in this process on the real broker, with plain asyncio agents, for tests of single behaviours."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from pipeline.outcome import Next
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.route import Route
from pipeline.stream.stage import Stage

FAST = {"session_timeout_s": 6.0, "revoke_grace_s": 2.0, "stop_grace_s": 3.0}


@dataclass
class Names:
    """The topics of a lone stage in an environment."""

    environment: str
    partitions: int = 4
    names: tuple[str, ...] = field(default=("in", "out", "retry", "dead", "state", "audit"))

    def topic(self, name: str) -> str:
        return f"{self.environment}.{name}"

    @property
    def all(self) -> list[str]:
        return [self.topic(name) for name in self.names]

    def route(self, *, remembers: bool = False) -> Route:
        return Route(
            stage="lone",
            group=f"{self.environment}.lone",
            source="in",
            input=self.topic("in"),
            retry=self.topic("retry"),
            dead_letter=self.topic("dead"),
            state=self.topic("state") if remembers else None,
        )


@dataclass
class Copy:
    """Writes what came in, or what `output_of` makes of it; audits repeats."""

    names: Names
    output_of: object = None

    def on(self, delivery, outcome):
        if self.output_of is not None:
            return self.output_of(delivery, outcome)
        return (Output(self.names.topic("out"), delivery.key, delivery.value, delivery.headers),)

    def duplicate(self, delivery, now_s):
        return (Output(self.names.topic("audit"), delivery.key, delivery.value, delivery.headers),)

    def dead(self, delivery, cause, failure, now_s):
        return ()


PASS = Next(None)


@asynccontextmanager
async def running(
    kafka,
    names,
    step,
    *,
    slots=8,
    limits=None,
    slot="0",
    decode=lambda delivery: delivery.value,
    exits=None,
    identify=None,
):
    """A stage that is fed and worked on by `slots` agents: `await step(delivery)` returns an outcome or raises."""
    stage = Stage(
        names.route(remembers=identify is not None),
        limits or StageLimits(**FAST),
        {"bootstrap.servers": kafka},
        transactional_id=f"{names.environment}.lone.{slot}",
        decode=decode,
        exits=exits or Copy(names),
        identify=identify,
    )

    async def agent():
        while (delivery := await stage.window.get()) is not None:
            async with delivery:
                delivery.resolve(await step(delivery))

    await stage.start()
    agents = [asyncio.create_task(agent()) for _ in range(slots)]
    stage.agents = agents
    try:
        yield stage
    finally:
        await stage.stop()
        stage.window.end()
        for task in agents:
            task.cancel()
        await asyncio.gather(*agents, return_exceptions=True)


def publish(kafka, topic, records, partitions=4):
    """Publishes (key, value[, headers]) tuples; a key's partition is its own for ever. Waits for the broker."""
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    for key, value, *headers in records:
        partition = sum(key or b"\0") % partitions
        producer.produce(topic, value, key, partition, headers=headers[0] if headers else [])
    assert producer.flush(30) == 0


def read_all(kafka, *topics):
    """Every committed record of the topics, partition by partition, in order."""
    consumer = Consumer({
        "bootstrap.servers": kafka,
        "group.id": "one-stage-reader",
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    })  # fmt: skip
    found = []
    try:
        metadata = consumer.list_topics(timeout=10).topics
        at = [TopicPartition(t, p, 0) for t in topics for p in metadata[t].partitions]
        ends = {(a.topic, a.partition): consumer.get_watermark_offsets(a, 10)[1] for a in at}
        consumer.assign(at)
        left = {where for where, end in ends.items() if end > 0}
        deadline = time.monotonic() + 30
        while left:
            assert time.monotonic() < deadline, f"not read to the end within 30 s: {left}"
            for message in consumer.consume(500, 0.1):
                where = (message.topic(), message.partition())
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF and message.offset() >= ends[where]:
                    left.discard(where)
    finally:
        consumer.close()
    return found


async def eventually(condition, within_s=30.0, why="the condition did not come true"):
    """Waits until a condition holds, and fails the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, why
        await asyncio.sleep(0.02)
