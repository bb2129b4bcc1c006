"""Lockgate's engine as a relay: one stage, one agent, records forwarded as they are. Topics of its own as needed."""

from collections.abc import AsyncIterator

from confluent_kafka.admin import AdminClient, NewTopic

from agents.shell import StreamApp, run
from pipeline.outcome import Next
from pipeline.stream.delivery import Delivery
from pipeline.stream.exits import Route
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.stage import Stage
from tests.bench.process import Job, start
from tests.bench.systems.lanes import work


class Forward:
    """The record with its key and headers, as it was read."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def on(self, delivery: Delivery, outcome: Next) -> tuple[Output, ...]:
        return (Output(self._topic, delivery.key, delivery.value, delivery.headers),)


def main(job: Job) -> None:
    route = Route(
        stage="relay",
        group=job.group,
        source="in",
        input=job.topic_in,
        retry=f"{job.group}.retry",
        dead_letter=f"{job.group}.dead-letter",
    )
    config = {"bootstrap.servers": job.bootstrap}
    admin = AdminClient(config)
    for made in admin.create_topics([NewTopic(t, job.partitions) for t in (route.retry, route.dead_letter)]).values():
        made.result(30)
    app = StreamApp("bench")
    stage = Stage(
        route,
        StageLimits(),
        config,
        transactional_id=f"{job.group}.0",
        decode=lambda delivery: delivery.value,
        exits=Forward(job.topic_out),
    )
    # As many agents as keys, since each of them may be waiting; without work a few are enough.
    app.add_stage(stage, slots=job.keys if job.work_s else 16)

    @app.agent(app.stage("relay"), concurrency=app.slots("relay"))
    async def relay(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            async with delivery:
                await work(job.work_s)
                delivery.resolve(Next(delivery.record))

    if failure := run(app):
        raise failure


if __name__ == "__main__":
    start(main)
