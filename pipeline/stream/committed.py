"""Reads what a consumer group has committed: offsets and metadata together, never a guess.

The calls go through a short-lived consumer that joins no group. Under read_committed the broker answers only
when no transaction has offsets of these partitions pending, so the answer is the truth, also right after another
owner died in the middle of a commit.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, TopicPartition

from pipeline.stream.progress import Progress, decode
from pipeline.stream.transaction import Stopping

log = logging.getLogger(__name__)

Partition = tuple[str, int]
"""A physical topic and a partition number."""


@contextmanager
def outsider(
    config: Mapping[str, Any], group: str, isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
) -> Iterator[Consumer]:
    """A consumer that reads with a group's name without being its member. For one thread, closed at the end."""
    consumer = Consumer(
        {
            **config,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        },
        logger=log,
    )
    try:
        yield consumer
    finally:
        consumer.close()


def fetch_committed(
    consumer: Consumer, partitions: Iterable[Partition], stopping: Callable[[], bool]
) -> dict[Partition, Progress | None]:
    """The committed progress of each partition; None where nothing was ever committed.

    Waits as long as it takes: an unanswered question is asked again, never replaced by a reset. Raises Stopping
    when the process is to end before that, StageStopped when a commit carries foreign metadata.
    """
    wanted = [TopicPartition(topic, partition) for topic, partition in partitions]
    while True:
        if stopping():
            raise Stopping
        try:
            answers = consumer.committed(wanted, 2.0)
        except KafkaException as failure:
            log.info("committed offsets of %d partitions: %s; asking again", len(wanted), failure.args[0].str())
            time.sleep(0.05)
            continue
        if any(answer.error for answer in answers):
            time.sleep(0.05)
            continue
        return {
            (answer.topic, answer.partition): (
                None if answer.offset == OFFSET_INVALID else decode(answer.offset, answer.metadata)
            )
            for answer in answers
        }


def watermarks(consumer: Consumer, partition: Partition, stopping: Callable[[], bool]) -> tuple[int, int]:
    """The first offset kept and the offset after the last one written.

    Asked through a read_uncommitted consumer, the end counts what open transactions wrote; a read_committed one
    would be told the last stable offset, before what is not decided yet.
    """
    while True:
        if stopping():
            raise Stopping
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(*partition), 2.0)
        except (KafkaException, TypeError) as failure:  # None on a time-out: TypeError when unpacked
            log.info("watermarks of %s: %s; asking again", partition, failure)
            time.sleep(0.05)
            continue
        return low, high
