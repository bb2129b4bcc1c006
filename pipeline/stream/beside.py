"""Reads what a stage has beside its input: its retry topic, and a side input where it has one.

Partition p of them is read by the owner of input p, so they are assigned by hand to a consumer that joins no group.
It belongs to the reader's thread like the other one, and is made when there is first something to read.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from confluent_kafka import Consumer, Message, TopicPartition

from pipeline.stream.limits import StageLimits
from pipeline.stream.route import Route
from pipeline.stream.tenure import Tenure, Track

log = logging.getLogger(__name__)

TrackOf: TypeAlias = Callable[[Message], Track | None]
"""The track that a message belongs to; None when it is not read any more."""


class Beside:
    """The consumer of retry topic and side input. Not safe between threads."""

    def __init__(self, route: Route, limits: StageLimits, config: Mapping[str, Any]) -> None:
        self._route = route
        self._limit = limits.retry_records
        self._limit_bytes = limits.partition_bytes
        self._batch = limits.batch_records
        self._config = dict(config)
        self._consumer: Consumer | None = None
        self._tracks: set[Track] = set()

    def read(self, tenures: Iterable[Tenure]) -> tuple[list[Message], TrackOf]:
        """What has come in, without waiting.

        The retry topic is read only while something of it is not done and its budget has room, the side input
        while it has room.
        """
        wanted = {track for tenure in tenures for track in self._wanted(tenure)}
        if not wanted and not self._tracks:
            return [], _no_track
        if self._consumer is None:
            self._consumer = self._connect()
        if wanted != self._tracks:
            self._consumer.assign([TopicPartition(track.topic, track.partition, track.next_offset) for track in wanted])
            self._tracks = wanted
        tracks = {(track.topic, track.partition): track for track in wanted}
        messages: list[Message] = self._consumer.consume(self._batch, 0)
        return messages, lambda message: tracks.get((message.topic(), message.partition()))

    def close(self) -> None:
        """Lets go of the consumer."""
        if self._consumer is not None:
            self._consumer.close()

    def _connect(self) -> Consumer:
        return Consumer(
            {
                "queued.max.messages.kbytes": 1_024,
                "fetch.wait.max.ms": 100,
                **self._config,
                "group.id": self._route.group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
            },
            logger=log,
        )

    def _wanted(self, tenure: Tenure) -> Iterator[Track]:
        if tenure.closing:
            return
        if tenure.parked.total > 0 and self._has_room(tenure.retry):
            yield tenure.retry
        if tenure.side is not None and self._has_room(tenure.side):
            yield tenure.side

    def _has_room(self, track: Track) -> bool:
        # Full at the limit, read again at half: every change of the assignment throws away what was fetched ahead.
        if track in self._tracks:
            return track.held < self._limit and track.held_bytes < self._limit_bytes
        return track.held <= self._limit // 2 and track.held_bytes <= self._limit_bytes // 2


def _no_track(_message: Message) -> Track | None:
    return None
