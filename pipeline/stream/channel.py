"""The Faust channel that a stage's agents read from.

Faust iterates over it and never sees an offset: what comes out is a Delivery, which is no Faust event, so that
Faust's own acknowledging is never entered. Read together with faust/streams.py of the pinned release: its
iterator asks `queue` first and falls back to `__anext__`.
"""

from collections import deque
from typing import Any

import faust
from faust.channels import Channel

from pipeline.stream.delivery import Delivery
from pipeline.stream.window import Window


class WindowQueue:
    """What Faust's iterator looks at before it waits: a queue that is empty when the window has nothing ready."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._errors: deque[BaseException] = deque()
        self._next: Delivery | None = None

    def empty(self) -> bool:
        """Whether `get_nowait` would have nothing. What it found is kept for the call that follows at once."""
        if self._next is None:
            self._next = self._window.get_nowait()
        return self._next is None

    def get_nowait(self) -> Delivery:
        """The delivery that `empty` found."""
        delivery, self._next = self._next, None
        assert delivery is not None
        return delivery

    def _throw(self, _error: BaseException) -> None:
        """Faust ends the iteration of its agents this way, at shutdown: nothing more is handed out."""
        self._window.end()


class StageChannel(Channel):  # type: ignore[misc]
    """Hands the deliveries of one window to any number of agents, each to one of them."""

    def __init__(self, app: faust.App, window: Window) -> None:
        super().__init__(app)
        self._window = window
        self._front = WindowQueue(window)

    @property
    def queue(self) -> Any:
        """The window, as Faust's iterator wants to see it."""
        return self._front

    def clone(self, **_: Any) -> "StageChannel":
        """Itself: agents that share a channel share its window."""
        return self

    def clone_using_queue(self, _queue: Any) -> "StageChannel":
        """Itself: there is one window."""
        return self

    def __aiter__(self) -> "StageChannel":
        return self

    async def __anext__(self) -> Delivery:
        delivery = await self._window.get()
        if delivery is None:
            raise StopAsyncIteration
        return delivery

    def on_stop_iteration(self) -> None:
        """Nothing to undo: an agent that stops leaves the window to the others."""
