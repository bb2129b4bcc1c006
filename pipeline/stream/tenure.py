"""The time during which this process owns one input partition, and all that it holds for it.

A new assignment makes a new tenure: results of an older one are dropped by comparing objects, not numbers. Each
tenure has tracks with the same rules: the input partition, the same partition of the retry topic, and of a side input
where the stage has one.
"""

from collections import deque
from collections.abc import Mapping

from pipeline.stream.delivery import Delivery
from pipeline.stream.progress import Progress
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.route import Route
from pipeline.stream.state import State


class Lanes:
    """Order per key: one record of a key is out at a time, the later ones wait. Belongs to the event loop."""

    __slots__ = ("_lanes", "waiting")

    def __init__(self) -> None:
        # Present with None: the key's record is out and nobody waits. That is the common case, and it is cheap.
        self._lanes: dict[bytes, deque[Delivery] | None] = {}
        self.waiting = 0

    def enter(self, delivery: Delivery) -> bool:
        """True when the delivery may go out at once; else it waits for the one before it. No key, no order."""
        key = delivery.key
        if key is None:
            return True
        lanes = self._lanes
        if key not in lanes:
            lanes[key] = None
            return True
        queue = lanes[key]
        if queue is None:
            lanes[key] = deque((delivery,))
        else:
            queue.append(delivery)
        self.waiting += 1
        return False

    def leave(self, delivery: Delivery) -> Delivery | None:
        """The delivery is finished; returns the next one of its key, which is now out."""
        key = delivery.key
        if key is None:
            return None
        queue = self._lanes[key]
        if not queue:
            del self._lanes[key]
            return None
        self.waiting -= 1
        return queue.popleft()


class Track:
    """One topic-partition of a tenure. Each counter has one writer, so threads may read them without a lock.

    `fed` (reader): records handed to the event loop. `finished` (event loop): records with an outcome.
    `released` (committer): records whose outcome is committed. fed - released is what is held in memory.
    """

    __slots__ = (
        "fed",
        "fed_bytes",
        "finished",
        "lanes",
        "next_offset",
        "partition",
        "paused",
        "progress",
        "released",
        "released_bytes",
        "restored",
        "source",
        "stuck",
        "tenure",
        "topic",
    )

    def __init__(self, tenure: "Tenure", topic: str, source: str, partition: int, progress: Progress) -> None:
        self.tenure = tenure
        self.topic = topic
        self.source = source
        """Where its records came from, as topics.yaml names it: for the retry topic that is the input."""
        self.partition = partition
        self.progress = progress
        # What was done before this tenure; the reader skips it. The committer replaces `progress`, never this.
        self.restored = progress
        self.next_offset = progress.base
        self.lanes = Lanes()
        self.fed = self.fed_bytes = 0
        self.finished = 0
        self.released = self.released_bytes = 0
        self.paused = False
        self.stuck = False
        """Finished records wait because the commit's metadata is full; the reader keeps the partition paused."""

    @property
    def held(self) -> int:
        """Records in memory: read and not committed."""
        return self.fed - self.released

    @property
    def held_bytes(self) -> int:
        """Bytes in memory: read and not committed."""
        return self.fed_bytes - self.released_bytes


class Tenure:
    """One assignment of one partition. `alive` ends with it: what finishes later is dropped and counted."""

    __slots__ = (
        "alive",
        "backing_off",
        "closing",
        "epoch",
        "input",
        "out",
        "parked",
        "partition",
        "retry",
        "side",
        "state",
        "tracks",
    )

    def __init__(
        self,
        route: Route,
        partition: int,
        epoch: int,
        *,
        progress: Mapping[str, Progress],
        parked: ParkedKeys,
        state: State,
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.input = Track(self, route.input, route.source, partition, progress[route.input])
        self.retry = Track(self, route.retry, route.source, partition, progress[route.retry])
        self.side: Track | None = None
        self.tracks: tuple[Track, ...] = (self.input, self.retry)
        if route.side is not None:
            self.side = Track(self, route.side.topic, route.side.source, partition, progress[route.side.topic])
            self.tracks += (self.side,)
        self.parked = parked
        self.state = state
        self.alive = True
        self.closing = False
        """Nothing new is handed out; what is out may still finish."""
        self.out = 0
        """Records in the hands of agents (written by the event loop)."""
        self.backing_off = 0
        """Keys that wait in their lanes for another attempt (written by the event loop)."""

    def settled(self) -> bool:
        """Whether all that was handed out is finished and committed."""
        return self.out == 0 and all(track.finished == track.released for track in self.tracks)
