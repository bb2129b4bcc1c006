"""FastStream on its confluent broker: one record per handler call as documented, and the batch form it offers.

Records pass as bytes: a decoder of two lines stands for FastStream's own, which would parse each value as JSON.
"""

import asyncio
from typing import Any

import uvloop
from confluent_kafka import Message
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker
from faststream.confluent.annotations import KafkaMessage

from tests.bench.process import Job, start
from tests.bench.systems.lanes import work, work_by_key


def documented(job: Job) -> KafkaBroker:
    broker = KafkaBroker(job.bootstrap, acks="all", enable_idempotence=True, logger=None)

    async def as_bytes(message: KafkaMessage) -> Any:
        return message.body

    @broker.subscriber(
        job.topic_in,
        group_id=job.group,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=as_bytes,
    )
    async def relay(body: bytes, message: KafkaMessage) -> None:
        await work(job.work_s)
        record = message.raw_message
        await broker.publish(
            body,
            job.topic_out,
            key=record.key(),
            partition=record.partition(),
            headers=message.headers if job.headers else None,
        )

    return broker


def tuned(job: Job) -> KafkaBroker:
    broker = KafkaBroker(
        job.bootstrap, acks="all", enable_idempotence=True, linger_ms=5, logger=None, apply_types=False
    )

    async def as_records(message: KafkaMessage) -> Any:
        return message.raw_message

    @broker.subscriber(
        job.topic_in,
        group_id=job.group,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        batch=True,
        max_records=10_000 if job.work_s else 2_000,  # measured: the best of each
        polling_interval=0.02,
        max_partition_fetch_bytes=262_144,
        decoder=as_records,
    )
    async def relay(records: tuple[Message, ...]) -> None:
        await work_by_key((record.key() for record in records), job.work_s)
        # Not publish_batch: it takes one partition and one set of headers for all, and costs a task per record.
        confirmations = [
            await broker.publish(
                record.value(),
                job.topic_out,
                key=record.key(),
                partition=record.partition(),
                headers={name: value.decode() for name, value in record.headers() or ()},
                no_confirm=True,
            )
            for record in records
        ]
        await asyncio.gather(*confirmations)

    return broker


def main(job: Job) -> None:
    broker = tuned(job) if job.variant == "tuned" else documented(job)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(FastStream(broker, logger=None).run())


if __name__ == "__main__":
    start(main)
