"""A compacted topic as a context source: read to its end before work starts, followed from then on.

All partitions are read by one thread with a consumer of its own, committed records only. One view serves every
stage and workflow of the process.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.context.entries import Entries, ViewLimits
from pipeline.errors import BrokerUnavailable, ConfigError, FailureClass, StageStopped, StepError
from pipeline.steps.enrich import LookedUp

log = logging.getLogger(__name__)

_POLL_S = 0.1
_ASK_S = 5.0
_CLOSE_S = 5.0
_PARTITIONS_S = 30.0
"""How often it is looked whether the topic got more partitions."""
_PASSING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
    }
)


class TopicView:
    """The newest value of every key of a topic. For one event loop.

    `config` are settings for every Kafka client, `topic` the name in Kafka, `name` the one in topics.yaml. While the
    broker is silent, a view answers with what it read last.
    """

    def __init__(self, config: Mapping[str, Any], topic: str, name: str, limits: ViewLimits | None = None) -> None:
        self.name = name
        self.topic = topic
        self.failed: asyncio.Future[None] | None = None
        """Made by `start`. Ends with the error when the view cannot go on: the worker must stop then."""
        self._config = dict(config)
        self._limits = limits or ViewLimits()
        self.entries = Entries(name, self._limits)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._caught_up = False
        self._broken = False

    async def start(self) -> None:
        """Returns when everything is read that the topic held at the call, transactions that were open then included.

        Raises ConfigError when there is no such topic or it keeps the broker's time, BrokerUnavailable when nobody
        answers, StageStopped at a limit or when the end is not reached in time; it is cancelled by `close`.
        """
        loop = asyncio.get_running_loop()
        self.failed = failed = loop.create_future()
        ready = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ready, failed), name=f"{self.name}-view", daemon=True
        )
        self._thread.start()
        await asyncio.wait({ready, failed}, return_when=asyncio.FIRST_COMPLETED)
        await (failed if failed.done() else ready)

    async def lookup(self, key: str) -> LookedUp:
        """The newest value under the key. StepError (transient) when the view is not whole: before it is caught up,
        or after it failed.
        """
        if self._broken or not self._caught_up:
            raise StepError(f"context_unavailable: {self.name}", FailureClass.TRANSIENT)
        return self.entries.find(key)

    async def close(self) -> None:
        """Ends the thread, within a few seconds. Safe to call again."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, _CLOSE_S)

    # -- on the thread --------------------------------------------------------------------------------------

    def _run(
        self, loop: asyncio.AbstractEventLoop, ready: "asyncio.Future[None]", failed: "asyncio.Future[None]"
    ) -> None:
        def tell(future: "asyncio.Future[None]", failure: BaseException | None = None) -> None:
            def settle() -> None:
                if not future.done():
                    future.set_exception(failure) if failure else future.set_result(None)

            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(settle)

        broke: BaseException | None = None
        try:
            self._read(lambda: tell(ready))
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the stage must not go on without us
            broke = failure
        if self._stop.is_set():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ready.cancel)  # without effect once it is caught up
        elif broke is not None:
            self._broken = True
            log.error("%s cannot be read on: %s", self.name, broke)
            tell(failed, broke)

    def _read(self, on_caught_up: Callable[[], None]) -> None:
        began = time.monotonic()
        consumer = Consumer(
            {
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 16_384,
                **self._config,
                "group.id": f"{self.topic}.view",  # the client wants a name; nothing is joined or committed
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
            },
            logger=log,
        )
        try:
            ends = self._ends(consumer)
            if ends is None:
                return
            self.entries.add_partitions(ends)
            consumer.assign([TopicPartition(self.topic, number, OFFSET_BEGINNING) for number in ends])
            if not self._catch_up(consumer, {number: end for number, end in ends.items() if end > 0}):
                return
            self.entries.settle()
            self._caught_up = True
            log.info(
                "%s: %d entries, %d bytes, %d unreadable, in %.1f s",
                self.name, self.entries.count, self.entries.bytes, self.entries.unreadable, time.monotonic() - began,
            )  # fmt: skip
            on_caught_up()
            self._follow(consumer, len(ends))
        finally:
            consumer.close()

    def _ends(self, consumer: Consumer) -> dict[int, int] | None:
        """The end of every partition as the log has it; None when the view is closed meanwhile.

        A read_committed consumer would be told the last stable offset, before what is not decided yet.
        """
        try:
            found = consumer.list_topics(self.topic, _ASK_S).topics[self.topic]
        except KafkaException as failure:
            raise BrokerUnavailable(
                f"Kafka at {self._config.get('bootstrap.servers')} does not answer: {failure.args[0].str()}"
            ) from failure
        if found.error is not None:
            raise ConfigError(
                f"no topic {self.topic} ({found.error.str()}), which enrichment needs for its context. "
                "Create it: `lockgate topics apply`"
            )
        admin = AdminClient(self._config)  # held until the answers are in: without it they never come
        asked = {TopicPartition(self.topic, number): OffsetSpec.latest() for number in found.partitions}
        deadline = time.monotonic() + self._limits.patience_s
        while not self._stop.is_set():
            answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=_ASK_S)
            try:
                return {at.partition: future.result(2 * _ASK_S).offset for at, future in answers.items()}
            except (KafkaException, TimeoutError) as failure:  # such as a leader that does not know yet that it is one
                passing = isinstance(failure, TimeoutError) or failure.args[0].code() in _PASSING
                if not passing or time.monotonic() > deadline:
                    raise BrokerUnavailable(f"{self.topic}: Kafka does not tell where it ends: {failure}") from failure
            self._stop.wait(_POLL_S)
        return None

    def _catch_up(self, consumer: Consumer, behind: dict[int, int]) -> bool:
        """Reads until every partition's end is reached. False when the view is closed before."""
        reached = dict.fromkeys(behind, 0)
        heard = time.monotonic()
        while behind:
            if self._stop.is_set():
                return False
            messages = consumer.consume(1000, _POLL_S)
            for message in messages:
                position = self._take(message)
                if position is None or message.partition() not in behind:
                    continue
                heard = time.monotonic()
                reached[message.partition()] = position
                if position >= behind[message.partition()]:
                    del behind[message.partition()]
            if time.monotonic() - heard > self._limits.patience_s:
                number, end = next(iter(behind.items()))
                raise StageStopped(
                    f"{self.topic}[{number}] ends at {end}, and for {self._limits.patience_s:g} s only what is before "
                    f"{reached[number]} could be read: a publisher's transaction is open and must be ended, or the "
                    "partition has no leader. Nothing was worked on. Start again when the cause is gone"
                )
        return True

    def _follow(self, consumer: Consumer, partitions: int) -> None:
        asked = time.monotonic()
        while not self._stop.is_set():
            for message in consumer.consume(1000, _POLL_S):
                self._take(message)
            if time.monotonic() - asked > _PARTITIONS_S:
                asked = time.monotonic()
                partitions = self._widen(consumer, partitions)

    def _take(self, message: Message) -> int | None:
        """Puts a record in place. How far its partition is read now; None when that is not what the message tells."""
        error = message.error()
        if error is None:
            kind, timestamp_ms = message.timestamp()
            if kind == TIMESTAMP_LOG_APPEND_TIME:
                raise ConfigError(
                    f"{self.topic} keeps the broker's time of arrival, so that old context would look fresh: set "
                    "message.timestamp.type=CreateTime (`lockgate topics apply`), and publish its records again"
                )
            self.entries.put(message.partition(), message.offset(), timestamp_ms, message.key(), message.value())
            return int(message.offset()) + 1
        if error.code() == KafkaError._PARTITION_EOF:
            return int(message.offset())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise StageStopped(
                f"{self.topic}[{message.partition()}] was cut or made again while it was read ({error.str()}): "
                "start the worker again, so that it reads all of it anew"
            )
        if error.fatal() or not (error.code() in _PASSING or error.retriable()):
            raise StageStopped(f"{self.topic} cannot be read: {error.str()}")
        log.info("%s: %s", self.topic, error.str())
        return None

    def _widen(self, consumer: Consumer, partitions: int) -> int:
        """Takes in partitions that the topic got meanwhile. How many there are."""
        try:
            found = consumer.list_topics(self.topic, _ASK_S).topics[self.topic]
        except KafkaException as failure:
            log.info("%s: %s", self.topic, failure.args[0].str())
            return partitions
        added = sorted(number for number in found.partitions if number >= partitions)
        if added:
            self.entries.add_partitions(added)
            consumer.incremental_assign([TopicPartition(self.topic, number, OFFSET_BEGINNING) for number in added])
        return partitions + len(added)
