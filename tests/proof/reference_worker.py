"""A small transactional worker, right by itself and wrong on request: what the harness is proven with.

It reads one topic, gives every event an answer that no second run would give (a model is not deterministic), and
writes answers, dead letters and offsets in one transaction per batch. Each `--fault` breaks one rule of that. At its
seams (`seam: sent`, `seam: committed`, `seam: offsets` in its output) it dwells for `--dwell-ms`, so that a kill lands
in them.
"""

import argparse
import json
import signal
import sys
import threading
import time
import uuid
from enum import StrEnum
from random import Random
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

_BATCH = 40
_COMMIT_S = 2.0


class Fault(StrEnum):
    """What may be broken."""

    NONE = "none"
    OFFSETS_OUTSIDE = "offsets-outside"  # committed by the consumer, after the transaction
    OFFSETS_FIRST = "offsets-first"  # committed by the consumer, before anything is written
    NO_EPOCH = "no-epoch"  # keeps its batch over a rebalance, and commits it as the member that it is by then
    BLIND_REPEAT = "blind-repeat"  # after a commit of unknown outcome: sends the same again
    SHUFFLE = "shuffle"  # the order within a batch is lost
    MANGLE = "mangle"  # a dead letter holds what could be decoded of the value
    SWALLOW = "swallow"  # what cannot be decoded is dropped


class Worker:
    """Reads, answers, commits, until it is told to stop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._fault: Fault = options.fault
        self._random = Random()
        self._stopping = False
        self._batch: list[Message] = []
        settings: dict[str, Any] = {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": options.session_ms,
            "heartbeat.interval.ms": options.session_ms // 4,
            "reconnect.backoff.max.ms": 500,
        }
        if options.instance:
            settings["group.instance.id"] = options.instance
        self._consumer = Consumer(settings)
        self._producer = self._new_producer()

    def run(self) -> None:
        # A partition that goes away takes the unfinished batch along: whoever owns it next reads it again.
        self._consumer.subscribe(
            [self._options.input],
            on_assign=self._rebalanced,
            on_revoke=self._rebalanced,
            on_lost=self._rebalanced,
        )
        while not self._stopping:
            self._read()
            if not self._batch:
                continue
            metadata = self._consumer.consumer_group_metadata()
            try:
                self._round(metadata)
            except (KafkaException, TimeoutError) as error:
                _say(f"round failed: {error}")
                self._recover(error)
        self._consumer.close()
        _say("stopped")

    def stop(self, *_: object) -> None:
        self._stopping = True

    def _rebalanced(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if self._fault is not Fault.NO_EPOCH:
            self._batch.clear()
        _say(f"rebalanced: {[at.partition for at in partitions]}")

    def _read(self) -> None:
        self._batch.clear()
        wait = 0.1
        while len(self._batch) < _BATCH:
            message = self._consumer.poll(wait)
            if message is None:
                return
            if message.error() is not None:
                _say(f"consumer: {message.error()}")
                continue
            self._batch.append(message)
            wait = 0.005

    def _round(self, metadata: object) -> None:
        outputs = [output for message in self._batch for output in self._outputs(message)]
        if self._fault is Fault.SHUFFLE:
            self._random.shuffle(outputs)
        offsets = _next_offsets(self._batch)
        if self._fault is Fault.OFFSETS_FIRST:
            self._consumer.commit(offsets=offsets, asynchronous=False)
            self._seam("offsets")
        self._transact(outputs, offsets, metadata)
        if self._fault is Fault.OFFSETS_OUTSIDE:
            self._consumer.commit(offsets=offsets, asynchronous=False)

    def _transact(self, outputs: list[dict[str, Any]], offsets: list[TopicPartition], metadata: object) -> None:
        self._producer.begin_transaction()
        for output in outputs:
            self._producer.produce(**output)
        self._producer.flush(_COMMIT_S)
        if self._fault is Fault.NO_EPOCH:
            metadata = self._rejoined()
        else:
            self._seam("sent")
        if self._fault not in (Fault.OFFSETS_OUTSIDE, Fault.OFFSETS_FIRST):
            self._send_offsets(offsets, metadata)
        try:
            self._producer.commit_transaction(_COMMIT_S)
        except KafkaException as error:
            if self._fault is not Fault.BLIND_REPEAT or not error.args[0].retriable():
                raise
            _say(f"commit failed: {error}; sending the same again")
            self._producer = self._new_producer()
            self._transact(outputs, offsets, self._consumer.consumer_group_metadata())
        self._seam("committed")

    def _send_offsets(self, offsets: list[TopicPartition], metadata: object) -> None:
        """Bounded from outside: after a cut of the network this call can block for ever (librdkafka #5456, #5511)."""
        producer = self._producer
        failures: list[KafkaException] = []

        def send() -> None:
            try:
                producer.send_offsets_to_transaction(offsets, metadata, _COMMIT_S)
            except KafkaException as failure:
                failures.append(failure)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        sending.join(_COMMIT_S + 1)
        if sending.is_alive():
            raise TimeoutError("send_offsets_to_transaction does not return")
        if failures:
            raise failures[0]

    def _rejoined(self) -> object:
        """The group's metadata after polling for as long as the dwell says, whatever rebalance that brings."""
        self._consumer.pause(self._consumer.assignment())
        _say("seam: sent")
        for _ in range(round(self._options.dwell_ms / 50)):  # counted, so that a stopped process dwells afterwards
            self._consumer.poll(0.05)
        return self._consumer.consumer_group_metadata()

    def _recover(self, error: KafkaException | TimeoutError) -> None:
        """Nothing of the failed round may stay open; then only the committed offsets count."""
        try:
            if isinstance(error, TimeoutError) or not error.args[0].txn_requires_abort():
                raise error
            self._producer.abort_transaction(_COMMIT_S)
        except (KafkaException, TimeoutError):
            # Whatever became of the old transaction, a new producer with its id settles it.
            self._producer = self._new_producer()
        while not self._stopping:
            try:
                owned = self._consumer.assignment()
                for at in self._consumer.committed(owned, timeout=_COMMIT_S) if owned else ():
                    if at.offset < 0:
                        at.offset = OFFSET_BEGINNING
                    self._consumer.seek(at)
            except KafkaException as failure:
                _say(f"cannot rewind yet: {failure}")
                time.sleep(0.1)
            else:
                return

    def _new_producer(self) -> Producer:
        self._producer = None  # type: ignore[assignment]  # the old one ends before the new one fences it
        producer = Producer(
            {
                "bootstrap.servers": self._options.bootstrap,
                "transactional.id": self._options.transactional_id,
                "transaction.timeout.ms": 10_000,
                "linger.ms": 2,
                "reconnect.backoff.max.ms": 500,
            }
        )
        while True:
            try:
                producer.init_transactions(_COMMIT_S)
            except KafkaException as error:
                if not error.args[0].retriable() or self._stopping:
                    raise
                _say(f"cannot start a producer yet: {error}")
            else:
                return producer

    def _outputs(self, message: Message) -> list[dict[str, Any]]:
        headers = list(message.headers() or ())
        origin = [
            ("lockgate_origin_partition", str(message.partition()).encode()),
            ("lockgate_origin_offset", str(message.offset()).encode()),
        ]
        try:
            event = json.loads(message.value())
        except ValueError:
            return self._letter(message, headers + origin)
        answer = {"of": event["text"], "answer": uuid.uuid4().hex}
        return [
            {
                "topic": self._options.output,
                "partition": message.partition(),
                "key": message.key(),
                "value": json.dumps(answer).encode(),
                "headers": headers + origin,
            }
        ]

    def _letter(self, message: Message, headers: list[tuple[str, bytes]]) -> list[dict[str, Any]]:
        if self._fault is Fault.SWALLOW:
            return []
        value = message.value()
        if self._fault is Fault.MANGLE:
            value = value.decode(errors="replace").encode()
        source = [
            ("lockgate_source_topic", message.topic().encode()),
            ("lockgate_source_partition", str(message.partition()).encode()),
            ("lockgate_source_offset", str(message.offset()).encode()),
        ]
        return [
            {
                "topic": self._options.dead_letter,
                "partition": message.partition(),
                "key": message.key(),
                "value": value,
                "headers": headers + source,
            }
        ]

    def _seam(self, name: str) -> None:
        _say(f"seam: {name}")
        time.sleep(self._options.dwell_ms / 1000)


def _next_offsets(batch: list[Message]) -> list[TopicPartition]:
    ends = {(message.topic(), message.partition()): message.offset() + 1 for message in batch}
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in ends.items()]


def _say(text: str) -> None:
    sys.stdout.write(f"{time.time():.3f} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--bootstrap", "--input", "--output", "--dead-letter", "--group", "--transactional-id"):
        parser.add_argument(name, required=True)
    parser.add_argument("--instance", help="static membership: a restart takes its partitions back at once")
    parser.add_argument("--session-ms", type=int, default=3_000)
    parser.add_argument("--dwell-ms", type=float, default=0.0)
    parser.add_argument("--fault", type=Fault, default=Fault.NONE)
    worker = Worker(parser.parse_args())
    signal.signal(signal.SIGTERM, worker.stop)
    worker.run()


if __name__ == "__main__":
    main()
