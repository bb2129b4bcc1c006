"""Inference moves: a case comes in, the same case with a provider's answer goes out."""

from collections.abc import AsyncIterator

from agents.ports import Ports
from agents.shell import StreamApp
from pipeline.steps.infer import infer
from pipeline.stream.delivery import Delivery


def register(app: StreamApp, ports: Ports) -> None:
    """Adds the agent to the app."""

    @app.agent(app.stage("inference"), concurrency=app.slots("inference"))
    async def inference(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            async with delivery:
                delivery.resolve(await infer(delivery.record, ports.provider(delivery.record)))
