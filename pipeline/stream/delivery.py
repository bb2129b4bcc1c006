"""One record on its way through a stage: what an agent gets, works on, and resolves.

    async with delivery:
        delivery.resolve(await step(delivery.record))

Whatever happens inside the block, the record gets an outcome or is worked on again: an exception, a missed
deadline, a cancellation or a forgotten `resolve` never loses it.
"""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.outcome import Outcome
from pipeline.records import Headers
from pipeline.stream.output import Output
from pipeline.stream.state import Change

if TYPE_CHECKING:
    from pipeline.stream.tenure import Track
    from pipeline.stream.window import Window


class Delivery:
    """A record handed to an agent. Belongs to the event loop until it is finished, then to the committer.

    `key`, `value` and `headers` are the bytes as they lie in Kafka; `record` is what the stage's decoder makes of
    them, and decoding is done when the agent enters the block.
    """

    __slots__ = (
        "attempt",
        "cover",
        "entered",
        "first_failure_s",
        "headers",
        "key",
        "offset",
        "outcome",
        "outputs",
        "overdue",
        "record",
        "size",
        "source_offset",
        "source_timestamp_ms",
        "started_s",
        "state_changes",
        "task",
        "timestamp_ms",
        "track",
        "value",
        "window",
    )

    def __init__(
        self,
        window: "Window",
        track: "Track",
        cover: int,
        offset: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
    ) -> None:
        self.window = window
        self.track = track
        self.cover = cover
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.key = key
        self.value = value
        self.headers = headers
        self.size = (len(key) if key else 0) + (len(value) if value else 0)
        for name, content in headers:
            self.size += len(name) + (len(content) if content else 0)
        # Where it lay in the input topic: the same as above, but for a record read from the retry topic.
        self.source_offset = offset
        self.source_timestamp_ms = timestamp_ms
        self.attempt = 0
        self.first_failure_s = 0.0
        self.started_s = 0.0
        self.overdue = False
        self.entered = False
        self.task: asyncio.Task[Any] | None = None
        self.outcome: Outcome | None = None
        self.outputs: tuple[Output, ...] = ()
        self.state_changes: tuple[Change, ...] = ()
        self.record: Any = None

    def resolve(self, outcome: Outcome) -> None:
        """Says what becomes of the record. It takes effect when the block ends; the last call counts."""
        self.outcome = outcome

    def knows(self, name: str) -> bool:
        """Whether `name` was used as `Next.once` by an earlier record of this partition, within the state's limits."""
        return self.window.knows(self, name)

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.window.settle(self, error)

    def renewed(self) -> "Delivery":
        """The same record for another hand: whoever still holds this object can no longer settle it."""
        twin = Delivery(
            self.window, self.track, self.cover, self.offset, self.timestamp_ms, self.key, self.value, self.headers
        )
        twin.source_offset = self.source_offset
        twin.source_timestamp_ms = self.source_timestamp_ms
        twin.attempt = self.attempt
        twin.first_failure_s = self.first_failure_s
        twin.state_changes = self.state_changes
        twin.size = self.size
        return twin

    def header(self, name: str) -> bytes | None:
        """The last header of this name, or None."""
        for candidate, content in reversed(self.headers):
            if candidate == name:
                return content
        return None

    def __repr__(self) -> str:
        return f"<Delivery {self.track.topic}[{self.track.partition}]@{self.offset} attempt {self.attempt}>"
