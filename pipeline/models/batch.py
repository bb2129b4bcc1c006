"""Gathers single questions into batches for a CPU-bound model, and works on them beside the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from pipeline.errors import FailureClass, StepError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Result: TypeAlias = Answer | Exception


@dataclass(frozen=True, slots=True)
class _Asked(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Batches(Generic[Item, Answer]):
    """One worker thread, one batch at a time: as soon as `size` wait, or the first of them has waited `wait_s`.

    `run` gets a batch and returns an answer for each item, in order. If it raises, every item of that batch is
    run alone, so that only the one at fault gets the exception. How many may wait is the caller's limit: each
    one is a record of a window.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        size: int = 64,
        wait_s: float = 0.002,
    ) -> None:
        self._run = run
        self._size = size
        self._wait_s = wait_s
        self._waiting: deque[_Asked[Item, Answer]] = deque()
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Future[list[_Result[Answer]]] | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._closed = False

    async def ask(self, item: Item) -> Answer:
        """The answer for one item. Raises what `run` raised for it; StepError (transient) once closed."""
        if self._closed:
            raise StepError("provider_closed: this worker is stopping", FailureClass.TRANSIENT)
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._due_s = loop.time() + self._wait_s
        asked: _Asked[Item, Answer] = _Asked(item, loop.create_future())
        self._waiting.append(asked)
        self._plan(loop)
        return await asked.answer

    async def close(self) -> None:
        """Answers what was asked before, refuses what comes later, ends the thread. Safe to call again."""
        self._closed = True
        loop = asyncio.get_running_loop()
        while self._waiting or self._running is not None:
            if self._running is None:
                self._start(loop)
            else:
                await asyncio.wait([self._running])  # a cancelled close does not cancel the batch
        self._worker.shutdown(wait=False)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts a batch now, or sees to it that one is started in time."""
        if self._running is not None or not self._waiting:
            return  # planned again when the running batch lands
        if len(self._waiting) >= self._size:
            self._start(loop)
        elif self._timer is None:
            self._timer = loop.call_at(self._due_s, self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._take()
        self._due_s = loop.time() + self._wait_s  # for those that did not fit
        if not batch:
            return
        items = [asked.item for asked in batch]
        try:
            self._running = loop.run_in_executor(self._worker, self._work, items)
        except RuntimeError as error:  # no thread to be had
            for asked in batch:
                asked.answer.set_exception(error)
        else:
            self._running.add_done_callback(lambda done: self._land(loop, batch, done))

    def _take(self) -> list[_Asked[Item, Answer]]:
        batch: list[_Asked[Item, Answer]] = []
        while self._waiting and len(batch) < self._size:
            asked = self._waiting.popleft()
            if not asked.answer.done():  # else its caller was cancelled
                batch.append(asked)
        return batch

    def _land(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Asked[Item, Answer]],
        done: asyncio.Future[list[_Result[Answer]]],
    ) -> None:
        self._running = None
        for asked, result in zip(batch, done.result(), strict=True):
            if asked.answer.done():
                continue
            if isinstance(result, Exception):
                asked.answer.set_exception(result)
            else:
                asked.answer.set_result(result)
        self._plan(loop)

    def _work(self, items: list[Item]) -> list[_Result[Answer]]:
        """In the thread. Never raises: what goes wrong is the result of the item that it went wrong for."""
        try:
            answers = self._run(items)
            if len(answers) != len(items):
                raise ValueError(f"{len(items)} items, {len(answers)} answers")
            return list(answers)
        except Exception as error:  # noqa: BLE001
            return [error] if len(items) == 1 else [self._work([item])[0] for item in items]
