"""One stage: a consumer group on one input topic, with the threads that read and commit and the window between.

stage = Stage(route, limits, settings, decode=..., exits=...)
await stage.start()
delivery = await stage.window.get()     # the Faust channel does this for the agents
...
await stage.stop()
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.errors import BrokerUnavailable, ConfigError
from pipeline.stream.committer import Committer
from pipeline.stream.exits import Decoder, Exits, Identify
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.reader import Reader
from pipeline.stream.route import Route
from pipeline.stream.tenure import Tenure
from pipeline.stream.transaction import KafkaTransactions
from pipeline.stream.window import Counters, Window

log = logging.getLogger(__name__)

SWEEP_S = 0.1


class LoopClock:
    """Wall time and the running event loop's timers."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Calls back on the running loop."""
        return asyncio.get_running_loop().call_later(delay_s, call, *args)


class Stage:
    """Runs one stage in this process. `failed` is a future that ends with the error when it cannot go on.

    `config` are settings for every Kafka client (bootstrap.servers, security). `transactional_id` must be stable
    for this slot and used by no other living process: the broker fences the older of two. `identify` makes it the
    stage that recognises repeats; it then needs a state topic. `retry_limits` gives a record its own retry rule in
    place of the stage's.
    """

    def __init__(
        self,
        route: Route,
        limits: StageLimits,
        config: Mapping[str, Any],
        *,
        transactional_id: str,
        decode: Decoder,
        exits: Exits,
        identify: Identify | None = None,
        retry_limits: Callable[[Any], RetryLimits] | None = None,
        random: Random | None = None,
    ) -> None:
        if identify is not None and route.state is None:
            raise ConfigError(f"stage {route.stage} recognises repeats, so it needs a state topic")
        self.route = route
        self.limits = limits
        self.counters = Counters()
        self._config = dict(config)
        self._transactional_id = transactional_id
        self._sweeper: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._committer: Committer | None = None
        self.window = Window(
            route,
            limits,
            decode=decode,
            exits=exits,
            identify=identify,
            retry_limits=retry_limits,
            push=self._push,
            clock=LoopClock(),
            random=random or Random(),
            counters=self.counters,
        )
        self.failed: asyncio.Future[None] | None = None

    def _push(self, delivery: Any) -> None:
        assert self._committer is not None
        self._committer.push(delivery)

    @property
    def tenures(self) -> tuple[Tenure, ...]:
        """The partitions that are fed now, with what is held of each."""
        return self._reader.tenures if self._reader is not None else ()

    async def start(self) -> None:
        """Checks the topics, joins the group and starts to feed. Returns before the first assignment.

        Raises ConfigError when a topic is missing or has another number of partitions than the input,
        BrokerUnavailable when the broker does not answer.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._check_topics)
        self.failed = loop.create_future()

        def fail(failure: BaseException) -> None:
            log.error("stage %s stops: %s", self.route.stage, failure)
            loop.call_soon_threadsafe(self._fail, failure)

        feed_when = threading.Event()
        self._reader = reader = Reader(
            self.route,
            self.limits,
            self._config,
            loop=loop,
            window=self.window,
            counters=self.counters,
            feed_when=feed_when,
            on_failure=fail,
        )
        self._committer = Committer(
            self.route,
            self.limits,
            transactions=KafkaTransactions(
                self._config,
                self._transactional_id,
                timeout_s=self.limits.transaction_timeout_s,
                stopping=lambda: reader.stopping,
            ),
            group=reader,
            counters=self.counters,
            on_failure=fail,
            ready=feed_when,
        )
        self._committer.start()
        reader.start()
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Drains what is in flight within `stop_grace_s`, commits it, leaves the group. Bounded; loses nothing."""
        reader, committer = self._reader, self._committer
        if reader is None or committer is None:
            return
        reader.close()
        await _joined(reader, self.limits.stop_grace_s + 2.0)
        committer.close()
        await _joined(committer, 1.0)
        # Whatever still waits for the broker gives up: it had committed nothing.
        reader.abandon()
        await _joined(reader, 0.5)
        await _joined(committer, 0.5)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._reader = None

    def _fail(self, failure: BaseException) -> None:
        if self.failed is not None and not self.failed.done():
            self.failed.set_exception(failure)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.window.sweep()

    def _check_topics(self) -> None:
        route = self.route
        try:
            found = AdminClient(self._config).list_topics(timeout=10).topics
        except KafkaException as failure:
            raise BrokerUnavailable(
                f"Kafka at {self._config.get('bootstrap.servers')} does not answer: {failure.args[0].str()}"
            ) from failure
        needed = [*route.read, route.dead_letter, *([route.state] if route.state else [])]
        missing = [topic for topic in needed if topic not in found]
        if missing:
            raise ConfigError(f"missing topics: {', '.join(missing)}. Create them: `lockgate topics apply`")
        count = len(found[route.input].partitions)
        uneven = [topic for topic in needed if len(found[topic].partitions) != count]
        if uneven:
            raise ConfigError(
                f"{', '.join(uneven)} must have {count} partitions like {route.input}: a stage writes to the partition "
                "number it read from. `lockgate topics plan` shows the difference."
            )


async def _joined(thread: threading.Thread, wait_s: float) -> None:
    await asyncio.get_running_loop().run_in_executor(None, thread.join, wait_s)
