"""Routing moves: a checked case comes in, a decision goes out, or the case goes to people or to `blocked`.

What people say about a case, or about a decision, comes in beside it and goes the same way out.
"""

from collections.abc import AsyncIterator

from agents.ports import Ports
from agents.shell import StreamApp
from pipeline.records import ReviewVerdict
from pipeline.steps.judge import Lane, judge
from pipeline.steps.route import route
from pipeline.stream.delivery import Delivery


def register(app: StreamApp, ports: Ports) -> None:
    """Adds the agent to the app."""

    @app.agent(app.stage("routing"), concurrency=app.slots("routing"))
    async def routing(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            async with delivery:
                record = delivery.record
                if isinstance(record, ReviewVerdict):
                    lane = Lane(delivery.track.partition, delivery.key)
                    delivery.resolve(judge(record, ports.workflows, ports.codec, lane, delivery.knows))
                else:
                    delivery.resolve(route(record, ports.workflow(record)))
