"""What a good engineer writes by hand on confluent-kafka: consume a batch, work, produce, one transaction.

Errors: a transaction that can be aborted is, and the batch is read again from the committed offsets; anything
worse ends the process, to be started again from outside. That is the whole recovery, as usual in such loops.
"""

import asyncio
import signal

import uvloop
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from tests.bench.process import Job, start
from tests.bench.systems.lanes import work_by_key

BATCH = 10_000
WAIT_S = 0.02


def main(job: Job) -> None:
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": job.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "max.partition.fetch.bytes": 262_144,  # so that a batch holds records of every partition
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap,
            "transactional.id": f"{job.group}.0",
            "transaction.timeout.ms": 10_000,
            "linger.ms": 5,
            "batch.size": 500_000,
        }
    )
    producer.init_transactions(30)
    consumer.subscribe([job.topic_in])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while not stopping:
            batch = consumer.consume(BATCH, WAIT_S)
            for message in batch:
                if message.error() is not None:
                    raise KafkaException(message.error())
            if not batch:
                continue
            if job.work_s:
                runner.run(work_by_key((message.key() for message in batch), job.work_s))
            publish(consumer, producer, batch, job.topic_out)
    consumer.close()


def publish(consumer: Consumer, producer: Producer, batch: list[Message], topic: str) -> None:
    """The batch's outputs and offsets in one transaction, or none of them and the consumer rewound."""
    producer.begin_transaction()
    try:
        offsets = {}
        for message in batch:
            producer.produce(
                topic, message.value(), message.key(), partition=message.partition(), headers=message.headers()
            )
            offsets[message.topic(), message.partition()] = message.offset() + 1
        producer.send_offsets_to_transaction(
            [TopicPartition(*where, offset) for where, offset in offsets.items()], consumer.consumer_group_metadata()
        )
        producer.commit_transaction()
    except KafkaException as error:
        if not error.args[0].txn_requires_abort():
            raise
        producer.abort_transaction()
        for position in consumer.committed(consumer.assignment(), 30):
            # No committed offset yet: back to the beginning, as auto.offset.reset says.
            consumer.seek(TopicPartition(position.topic, position.partition, max(position.offset, 0)))


if __name__ == "__main__":
    start(main)
