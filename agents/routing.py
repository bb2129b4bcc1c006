"""Routing moves: a checked case comes in, a decision goes out, or the case goes to people or to `blocked`."""

from collections.abc import AsyncIterator

from agents.ports import Ports
from agents.shell import StreamApp
from pipeline.steps.route import route
from pipeline.stream.delivery import Delivery


def register(app: StreamApp, ports: Ports) -> None:
    """Adds the agent to the app."""

    @app.agent(app.stage("routing"), concurrency=app.slots("routing"))
    async def routing(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            async with delivery:
                delivery.resolve(route(delivery.record, ports.workflow(delivery.record)))
