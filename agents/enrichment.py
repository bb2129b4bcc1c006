"""Enrichment moves: an event comes in, a case with its workflow, release and context goes out."""

import time
from collections.abc import AsyncIterator

from agents.ports import Ports
from agents.shell import StreamApp
from pipeline.steps.enrich import enrich
from pipeline.stream.case_exits import origin_of
from pipeline.stream.delivery import Delivery


def register(app: StreamApp, ports: Ports) -> None:
    """Adds the agent to the app."""

    @app.agent(app.stage("enrichment"), concurrency=app.slots("enrichment"))
    async def enrichment(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            async with delivery:
                event, origin = delivery.record, origin_of(delivery, "workflow-events")
                looked_up = await ports.look_up(event)
                delivery.resolve(enrich(event, origin, ports.workflows, looked_up, round(time.time() * 1000)))
