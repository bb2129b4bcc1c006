"""The Faust channel and stream that a stage's agents read from.

Faust never sees an offset: what comes out is a Delivery, which is no Faust event, so that Faust's own acknowledging is
never entered. Faust's stream would do for that, too; but it makes a turn of the event loop, an acknowledge check and
a sensor check for every event, a quarter of what a record costs in all. Read together with faust/streams.py of the
pinned release.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import faust
from faust.channels import Channel

from pipeline.stream.delivery import Delivery
from pipeline.stream.window import Window

TURN = 64
"""Deliveries after which an agent that never waits lets the event loop turn, so that others get their time."""


class StageChannel(Channel):  # type: ignore[misc]
    """Hands the deliveries of one window to any number of agents, each to one of them."""

    def __init__(self, app: faust.App, window: Window) -> None:
        super().__init__(app)
        self.window = window

    def clone(self, **_: Any) -> "StageChannel":
        """Itself: agents that share a channel share its window."""
        return self

    def clone_using_queue(self, _queue: Any) -> "StageChannel":
        """Itself: there is one window."""
        return self

    def __aiter__(self) -> "StageChannel":
        return self

    async def __anext__(self) -> Delivery:
        delivery = await self.window.get()
        if delivery is None:
            raise StopAsyncIteration
        return delivery

    def on_stop_iteration(self) -> None:
        """Nothing to undo: an agent that stops leaves the window to the others."""

    def _throw(self, _error: BaseException) -> None:
        """Faust ends the iteration of its agents this way, at shutdown: nothing more is handed out."""
        self.window.end()


class DeliveryStream(faust.Stream):  # type: ignore[misc]
    """The stream of an agent: the deliveries of its channel's window, and nothing of Faust's in between."""

    def __aiter__(self) -> AsyncIterator[Delivery]:
        deliveries = self._deliveries(self.channel.window)
        self._active_agens.add(deliveries)  # so that Faust closes it with the stream
        return deliveries

    async def _deliveries(self, window: Window) -> AsyncIterator[Delivery]:
        self._finalized = True
        started_here = await self.maybe_start()
        task = asyncio.current_task()
        turn = 0
        try:
            while True:
                delivery = window.get_nowait(task) or await window.get()
                if delivery is None:
                    return
                yield delivery
                turn += 1
                if turn % TURN == 0:
                    await asyncio.sleep(0)
        finally:
            if started_here:
                await self.stop()
                self.service_reset()
