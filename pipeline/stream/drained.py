"""Whether a stage has nothing left to do: every record of its input is done, and none waits in its retry topic.

Offsets alone cannot tell. A commit may lie below the end by work done beyond a hole and by markers of
transactions, which are no records. So what lies beyond the commit is read, up to the first record that is not done.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.errors import BrokerUnavailable
from pipeline.stream.committed import Partition, fetch_committed, outsider, watermarks
from pipeline.stream.progress import Progress
from pipeline.stream.transaction import Stopping


def undone(
    config: Mapping[str, Any], group: str, partitions: Iterable[Partition], timeout_s: float = 30.0
) -> dict[Partition, str]:
    """Why each partition is not drained for a group; empty when all are.

    Raises BrokerUnavailable when the broker does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    wanted = sorted(partitions)

    def late() -> bool:
        return time.monotonic() > deadline

    try:
        with outsider(config, group) as consumer:
            committed = fetch_committed(consumer, wanted, late) if wanted else {}
            found = {at: _first_undone(consumer, at, committed[at], late) for at in wanted}
    except (Stopping, KafkaException) as error:
        raise BrokerUnavailable(
            f"the broker did not say within {timeout_s:.0f} s how far group {group} is ({error}): try again"
        ) from error
    return {at: why for at, why in found.items() if why}


def _first_undone(consumer: Consumer, at: Partition, progress: Progress | None, late: Callable[[], bool]) -> str | None:
    low, high = watermarks(consumer, at, late)
    progress = progress or Progress(low)
    start = max(low, progress.base)
    if start >= high:
        return None
    consumer.assign([TopicPartition(*at, start)])
    try:
        while not late():
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is None and message.offset() < high and not progress.is_done(message.offset()):
                    return f"offset {message.offset()} is not done"
                if error is None:
                    continue
                if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's own name for it
                    raise KafkaException(error)
                # read_committed ends where the oldest undecided transaction begins
                return None if message.offset() >= high else "a transaction is still open"
        raise Stopping
    finally:
        consumer.unassign()
