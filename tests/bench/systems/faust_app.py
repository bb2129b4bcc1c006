"""Stock Faust: as shipped, and tuned by its documented settings. No part of it is replaced."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator

import faust

from tests.bench.process import Job, start
from tests.bench.systems.lanes import work, work_by_key

_TUNED = {
    "producer_linger": 0.01,
    "producer_max_batch_size": 262_144,
    "stream_buffer_maxsize": 16_384,
    "broker_max_poll_records": 5_000,
    "consumer_max_fetch_size": 262_144,  # so that a batch holds records of every partition
    "broker_commit_interval": 1.0,
    "topic_allow_declare": False,
    "topic_disable_leader": True,
}


def app_for(job: Job, datadir: str) -> faust.App:
    tuned = job.variant == "tuned"
    app = faust.App(
        job.group,
        broker=f"kafka://{job.bootstrap}",
        web_enabled=False,
        datadir=datadir,
        **(_TUNED if tuned else {}),
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source, sink = app.topic(job.topic_in, **raw), app.topic(job.topic_out, **raw)

    async def one_by_one(stream: faust.Stream) -> AsyncIterator[None]:
        async for event in stream.events():
            await work(job.work_s)
            await event.forward(sink)

    async def by_batch(stream: faust.Stream) -> AsyncIterator[None]:
        # Measured: with work, more keys side by side; without, a small batch is published while the next one fills.
        async for events in stream.take_events(10_000 if job.work_s else 1_000, within=0.02):
            await work_by_key((event.key for event in events), job.work_s)
            # The stream acknowledges the batch when the body returns: only then all deliveries are confirmed.
            await asyncio.gather(
                *[
                    await sink.send(
                        key=event.key,
                        value=event.value,
                        partition=event.message.partition,
                        headers=event.headers or None,
                    )
                    for event in events
                ]
            )

    app.agent(source)(by_batch if tuned else one_by_one)
    return app


def main(job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-faust-") as datadir:
        worker = faust.Worker(app_for(job, datadir), loglevel="WARNING", redirect_stdouts=False)
        if job.variant == "tuned":
            # The worker leaves the root logger at DEBUG: two or three records per event are built and thrown away.
            for name in ("faust", "mode", "aiokafka", "asyncio"):
                logging.getLogger(name).setLevel(logging.WARNING)
        worker.execute_from_commandline()


if __name__ == "__main__":
    start(main)
