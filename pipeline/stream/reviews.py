"""What people may judge: reviews that are open, and decisions that were made, each as it lies in its topic.

A review is open while there is no decision on it: its id is the id of the decision's first revision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from confluent_kafka import Message

from pipeline.codec import Codec
from pipeline.config import Settings
from pipeline.errors import DecodeError
from pipeline.records import Decision, Headers, ReviewItem
from pipeline.stream.reading import sweep
from pipeline.topics import load_topics

REVIEWS, DECISIONS = "human-review", "decisions"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Filed(Generic[T]):
    """A value with the record that holds it."""

    value: T
    raw: bytes
    key: bytes | None
    headers: Headers
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(slots=True)
class Desk:
    """The reviews of an environment. `strange` names records that are no review items or no decisions."""

    open: list[Filed[ReviewItem]] = field(default_factory=list)
    """Oldest first."""
    strange: list[str] = field(default_factory=list)


def open_reviews(settings: Settings, codec: Codec, advance: Callable[[int], None] = lambda _: None) -> Desk:
    """Reads reviews and decisions to their ends. BrokerUnavailable and ConfigError as `sweep` raises them."""
    desk = Desk()
    waiting: dict[str, Filed[ReviewItem]] = {}
    for message in scan(settings, REVIEWS):
        advance(1)
        if (item := _filed(message, codec.decode_review, desk.strange)) is not None:
            waiting[item.value.review_id] = item
    for message in scan(settings, DECISIONS) if waiting else ():
        advance(1)
        if (decision := _filed(message, codec.decode_decision, desk.strange)) is not None:
            waiting.pop(decision.value.decision_id, None)
    desk.open = sorted(waiting.values(), key=lambda item: (item.value.created_ms, item.partition, item.offset))
    return desk


def find_review(settings: Settings, codec: Codec, review_id: str) -> Filed[ReviewItem] | None:
    """The review of this id, open or not; None when human-review holds none."""
    strange: list[str] = []
    for message in scan(settings, REVIEWS):
        item = _filed(message, codec.decode_review, strange)
        if item is not None and item.value.review_id == review_id:
            return item
    return None


def find_decision(
    settings: Settings, codec: Codec, decision_id: str, partition: int | None = None
) -> tuple[Filed[Decision] | None, Filed[Decision] | None]:
    """The decision of this id, and the one that supersedes it; None for what is not there."""
    strange: list[str] = []
    found = later = None
    for message in scan(settings, DECISIONS, partition):
        decision = _filed(message, codec.decode_decision, strange)
        if decision is None:
            continue
        if decision.value.decision_id == decision_id:
            found = decision
        elif decision.value.supersedes == decision_id:
            later = decision
    return found, later


def scan(settings: Settings, topic: str, partition: int | None = None) -> Iterator[Message]:
    """Every committed record of a topic, or of one partition of it, up to the end that there is now."""
    yield from sweep(settings, [load_topics().physical(settings.environment, topic)], partition)


def _filed(message: Message, decode: Callable[[bytes], T], strange: list[str]) -> Filed[T] | None:
    raw = message.value() or b""
    try:
        value = decode(raw)
    except DecodeError as error:
        strange.append(f"{message.topic()}[{message.partition()}]@{message.offset()}: {error}")
        return None
    headers = tuple(message.headers() or ())
    return Filed(value, raw, message.key(), headers, message.partition(), message.offset(), message.timestamp()[1])
