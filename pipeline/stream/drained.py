"""Whether a stage has nothing left to do: every record of its input is done, and none waits in its retry topic.

Offsets alone cannot tell. A commit may lie below the end by work done beyond a hole and by markers of
transactions, which are no records. So what lies beyond the commit is read, up to the first record that is not done.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.errors import BrokerUnavailable
from pipeline.stream.committed import Partition, fetch_committed, outsider
from pipeline.stream.progress import Progress
from pipeline.stream.transaction import Stopping

_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
)


def undone(
    config: Mapping[str, Any], group: str, partitions: Iterable[Partition], timeout_s: float = 30.0
) -> dict[Partition, str]:
    """Why each partition is not drained for a group; empty when all are.

    Raises BrokerUnavailable when the broker does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    wanted = sorted(partitions)
    if not wanted:
        return {}

    def late() -> bool:
        return time.monotonic() > deadline

    try:
        low = _offsets(config, wanted, OffsetSpec.earliest(), late)
        high = _offsets(config, wanted, OffsetSpec.latest(), late)
        with outsider(config, group) as consumer:
            committed = fetch_committed(consumer, wanted, late)
            found = {
                at: _first_undone(consumer, at, committed[at] or Progress(low[at]), (low[at], high[at]), late)
                for at in wanted
            }
    except (Stopping, TimeoutError, KafkaException) as error:
        raise BrokerUnavailable(
            f"the broker did not say within {timeout_s:.0f} s how far group {group} is ({error}): try again"
        ) from error
    return {at: why for at, why in found.items() if why}


def _offsets(
    config: Mapping[str, Any], partitions: Iterable[Partition], spec: OffsetSpec, late: Callable[[], bool]
) -> dict[Partition, int]:
    """First or next offsets as the log has them. A read_committed consumer would leave open transactions out."""
    admin = AdminClient(dict(config))  # held until the answers are in: without it they never come
    asked = {TopicPartition(*at): spec for at in partitions}
    while True:
        answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=5.0)
        try:
            return {(at.topic, at.partition): future.result(10.0).offset for at, future in answers.items()}
        except KafkaException as error:  # such as a leader that does not know yet that it is one
            if late() or error.args[0].code() not in _PASSING:
                raise
        time.sleep(0.05)


def _first_undone(
    consumer: Consumer, at: Partition, progress: Progress, ends: tuple[int, int], late: Callable[[], bool]
) -> str | None:
    low, high = ends
    start = max(low, progress.base)
    if start >= high:
        return None
    consumer.assign([TopicPartition(*at, start)])
    try:
        while not late():
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is None:
                    if message.offset() < high and not progress.is_done(message.offset()):
                        return f"offset {message.offset()} is not done"
                elif error.code() == KafkaError._PARTITION_EOF:
                    # read_committed ends where the oldest open transaction begins
                    return None if message.offset() >= high else "a transaction is still open"
                else:
                    raise KafkaException(error)
        raise Stopping
    finally:
        consumer.unassign()
