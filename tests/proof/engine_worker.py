"""One stage of the real engine under a real Faust worker, right by itself and broken on request.

It gives every event an answer that no second run would give, as a model does. `--break` takes one rule out of the
engine, so that the proofs can show that they would notice.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import threading
import time
import uuid
from enum import StrEnum
from queue import SimpleQueue
from random import Random
from typing import Any

from confluent_kafka import TopicPartition

from agents.shell import StreamApp, run
from pipeline.errors import DecodeError
from pipeline.outcome import Next, Retry
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.output import Output
from pipeline.stream.route import Route
from pipeline.stream.stage import Stage


class Break(StrEnum):
    """What may be taken out of the engine."""

    NOTHING = "nothing"
    TRANSACTION = "transaction"  # offsets are committed outside, after the outputs
    EPOCH = "epoch"  # results of lost partitions are committed all the same, as the newest member
    METADATA = "metadata"  # what is done beyond the lowest offset not done is forgotten


def break_transaction() -> None:
    from pipeline.stream import reader, transaction

    sent: list[Any] = []
    due: SimpleQueue[Any] = SimpleQueue()

    def keep(self, _producer, offsets, _member):
        sent.append(offsets)

    commit = transaction.KafkaTransactions._commit

    def commit_then_offsets(self, producer):
        result = commit(self, producer)
        time.sleep(0.2)  # so that a kill can strike between the two
        while sent:
            due.put(sent.pop())
        return result

    answer = reader.Reader._answer

    def answer_and_commit(self, wait_s=0.0):
        while not due.empty():
            positions = [TopicPartition(topic, at, offset, metadata) for topic, at, offset, metadata in due.get()]
            self._consumer.commit(offsets=positions, asynchronous=False)
        answer(self, wait_s)

    transaction.KafkaTransactions._send_offsets = keep
    transaction.KafkaTransactions._commit = commit_then_offsets
    reader.Reader._answer = answer_and_commit


def break_epoch() -> None:
    from pipeline.stream import committer, tenure

    # Nothing ever is too old, and a round is committed as the member that this process is by then.
    tenure.Tenure.alive = property(lambda self: True, lambda self, value: None)
    attempt = committer.Committer._attempt

    def as_newest_member(self, chosen, _member):
        newest = self._group.renewed_membership(self._group.membership().serial, 5.0)
        return attempt(self, chosen, newest)

    committer.Committer._attempt = as_newest_member


def break_metadata() -> None:
    from pipeline.stream import progress

    progress.Progress.encode = lambda self: ""


class Answers:
    """A new answer for every delivery, whoever asks."""

    def __init__(self, output: str) -> None:
        self._output = output

    def on(self, delivery, _outcome):
        value = json.dumps({"of": delivery.record.get("text"), "answer": uuid.uuid4().hex}).encode()
        origin = (
            ("lockgate_origin_partition", b"%d" % delivery.track.partition),
            ("lockgate_origin_offset", b"%d" % delivery.source_offset),
        )
        return (Output(self._output, delivery.key, value, delivery.headers + origin),)

    def duplicate(self, delivery, now_s):
        raise AssertionError("this stage recognises no repeats")

    def dead(self, delivery, cause, failure, now_s):
        return ()


def decode(delivery):
    try:
        return json.loads(delivery.value)
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from None


def build(options: argparse.Namespace) -> StreamApp:
    environment = options.environment
    route = Route(
        stage="engine",
        group=f"{environment}.engine",
        source="in",
        input=f"{environment}.in",
        retry=f"{environment}.retry",
        dead_letter=f"{environment}.dead",
    )
    stage = Stage(
        route,
        StageLimits(
            session_timeout_s=options.session_s,
            revoke_grace_s=options.grace_s,
            stop_grace_s=3.0,
            retry=RetryLimits(base_s=0.05, cap_s=0.5, lane_attempts=2, attempts=1000, ceiling_s=600),
        ),
        {"bootstrap.servers": options.bootstrap},
        transactional_id=f"{environment}.engine.{options.slot}",
        decode=decode,
        exits=Answers(f"{environment}.out"),
    )
    app = StreamApp(environment)
    app.add_stage(stage, slots=options.slots)
    random = Random()

    @app.agent(app.stage("engine"), concurrency=app.slots("engine"))
    async def engine(deliveries):
        async for delivery in deliveries:
            async with delivery:
                delay = options.delay_ms / 1000 * random.uniform(0.2, 1.8)
                if options.slow_every and random.random() < 1 / options.slow_every:
                    delay += options.slow_s
                await asyncio.sleep(delay)
                if options.fail_every and random.random() < 1 / options.fail_every:
                    delivery.resolve(Retry("by chance"))
                else:
                    delivery.resolve(Next(None))

    def show() -> None:
        while True:
            time.sleep(0.2)
            say(f"counters {stage.counters}")

    threading.Thread(target=show, daemon=True).start()
    return app


def say(text: str) -> None:
    sys.stdout.write(f"{time.time():.3f} {text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--environment", required=True, help="topics are <environment>.in, .out, .retry and .dead")
    parser.add_argument("--slot", default="0")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--session-s", type=float, default=3.0)
    parser.add_argument("--grace-s", type=float, default=2.0)
    parser.add_argument("--delay-ms", type=float, default=5.0)
    parser.add_argument("--slow-every", type=int, default=0, help="one delivery in so many takes --slow-s longer")
    parser.add_argument("--slow-s", type=float, default=2.0)
    parser.add_argument("--fail-every", type=int, default=0, help="one delivery in so many fails and is retried")
    parser.add_argument("--break", dest="broken", type=Break, default=Break.NOTHING)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(created).3f %(name)s %(message)s")
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
    {
        Break.NOTHING: lambda: None,
        Break.TRANSACTION: break_transaction,
        Break.EPOCH: break_epoch,
        Break.METADATA: break_metadata,
    }[options.broken]()
    failure = run(build(options))
    say(f"ended with {failure!r}")
    return 0 if failure is None else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
