"""Validation moves: a case with an answer comes in, the same case with the verdict of every check goes out."""

from collections.abc import AsyncIterator

from agents.ports import Ports
from agents.shell import StreamApp
from pipeline.steps.validate import validate
from pipeline.stream.delivery import Delivery


def register(app: StreamApp, ports: Ports) -> None:
    """Adds the agent to the app."""

    @app.agent(app.stage("validation"), concurrency=app.slots("validation"))
    async def validation(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            async with delivery:
                delivery.resolve(validate(delivery.record, ports.workflow(delivery.record)))
