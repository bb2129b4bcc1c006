"""The Faust side of a worker: app, agents, supervision, signals and timers. It never touches an offset.

app = StreamApp("dev")
app.add_stage(stage)

@app.agent(app.stage("inference"), concurrency=app.slots("inference"))
async def inference(deliveries):
    async for delivery in deliveries:
        async with delivery:
            delivery.resolve(await infer(delivery.record))

run(app)
"""

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import faust
import uvloop
from faust.app.base import BootStrategy

from pipeline.errors import ConfigError, StageStopped
from pipeline.stream.channel import DeliveryStream, StageChannel
from pipeline.stream.delivery import Delivery
from pipeline.stream.stage import Stage

log = logging.getLogger(__name__)


class AgentsOnly(BootStrategy):  # type: ignore[misc]
    """Faust without its own Kafka: records come and go through our channel."""

    enable_kafka = False
    enable_web = False


class StreamApp(faust.App):  # type: ignore[misc]
    """A Faust app whose agents read from stages."""

    BootStrategy = AgentsOnly

    def __init__(self, environment: str) -> None:
        super().__init__(
            f"lockgate-{environment}",
            web_enabled=False,
            autodiscover=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=False,
            store="memory://",
            Stream=DeliveryStream,
            # Faust makes a folder for tables at every start. We have none: it goes where it is in nobody's way.
            datadir=Path(tempfile.gettempdir()) / f"lockgate-faust-{os.getuid()}",
        )
        self.stages: dict[str, tuple[Stage, StageChannel, int]] = {}
        self.before_stages: list[Callable[[], Awaitable[None]]] = []
        """Called at the start, one after the other: no stage reads a record before they have returned."""
        self.after_stages: list[Callable[[], Awaitable[None]]] = []
        """Called at the end, when all is drained."""
        self.watched: list[asyncio.Future[None]] = []
        """The worker ends with the error of the first of these, as with that of a stage. Filled by `before_stages`."""

    def add_stage(self, stage: Stage, *, slots: int) -> None:
        """Takes a stage in. `slots` is how many records its agents may work on at a time."""
        if stage.route.stage in self.stages:
            raise ConfigError(f"stage {stage.route.stage} was added twice")
        self.stages[stage.route.stage] = (stage, StageChannel(self, stage.window), slots)

    def agent(
        self, channel: StageChannel, *, concurrency: int
    ) -> Callable[[Callable[[AsyncIterator[Delivery]], Awaitable[None]]], Any]:
        """Makes a function an agent: `concurrency` copies of it share the channel, each with a record of its own."""
        decorator: Callable[..., Any] = super().agent(channel, concurrency=concurrency)
        return decorator

    def stage(self, name: str) -> StageChannel:
        """The channel of a stage, for `@app.agent`."""
        return self.stages[name][1]

    def slots(self, name: str) -> int:
        """The concurrency of a stage's agents."""
        return self.stages[name][2]


class StreamWorker(faust.Worker):  # type: ignore[misc]
    """Starts the stages after the agents, and stops them before: agents are cancelled only when all is drained."""

    def __init__(self, app: StreamApp, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(app, loop=loop, quiet=True, override_logging=False, redirect_stdouts=False)
        self._app = app
        self.spinner = None  # it would draw on the terminal of whoever runs us
        self._stages = [stage for stage, _, _ in app.stages.values()]
        self._watch: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None

    async def on_started(self) -> None:
        """Called by Faust when the app and its agents run."""
        try:
            for prepare in self._app.before_stages:
                await prepare()
            await asyncio.gather(*(stage.start() for stage in self._stages))
        except Exception as failure:  # noqa: BLE001 - Faust would end the process as if nothing had happened
            self.failure = failure
            self._schedule_shutdown(signal.SIGTERM)
        else:
            self._watch = asyncio.create_task(self._end_on_failure())
            log.info("worker runs: %s", ", ".join(stage.route.stage for stage in self._stages))
        await super().on_started()  # waits until the worker is stopped

    async def _end_on_failure(self) -> None:
        failures = [stage.failed for stage in self._stages if stage.failed is not None] + self._app.watched
        done, _ = await asyncio.wait(failures, return_when=asyncio.FIRST_COMPLETED)
        self.failure = next(iter(done)).exception()
        self._schedule_shutdown(signal.SIGTERM)

    async def _stop_on_signal(self, signal: signal.Signals) -> None:
        await self.drain()
        await super()._stop_on_signal(signal)

    async def drain(self) -> None:
        """Lets what is in flight finish, within each stage's grace, and leaves the groups."""
        await asyncio.gather(*(stage.stop() for stage in self._stages))
        for free in self._app.after_stages:
            await free()


def run(app: StreamApp) -> BaseException | None:
    """Runs a worker until SIGTERM or SIGINT, or until a stage fails: then returns what it failed with."""
    for name in ("faust", "mode"):
        # They tell of each service that starts and stops; what matters of that, we say.
        logging.getLogger(name).setLevel(logging.WARNING)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = StreamWorker(app, loop)
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if worker.failure is None and ended.code:
            # Faust's supervisor gave up: an agent fails faster than it can be restarted.
            return StageStopped("an agent fails again and again: its last errors are in the log. Nothing is lost.")
    return worker.failure
