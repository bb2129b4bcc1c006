"""Where every published event is now, worked out from identities in the topics and from nothing else.

Every position in `workflow-events` must have exactly one current place: a decision, an open review, a dead letter,
blocked, waiting in a retry topic, or dropped as a duplicate. A record that carries no identity is known by its
position. A decision that a person made closes the review it came from.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from confluent_kafka import Message

from pipeline.codec import Codec
from pipeline.config import Settings
from pipeline.stream import output
from pipeline.stream.reading import open_reader
from pipeline.topics import STAGES

Place: TypeAlias = Literal[
    "decision", "open_review", "dead_letter", "blocked", "waiting_retry", "duplicate", "on_the_way"
]
PLACES: tuple[Place, ...] = get_args(Place)

At: TypeAlias = tuple[int, int]
"""Partition and offset in workflow-events."""


@dataclass(slots=True)
class Places:
    """The place of every published event, by its position in workflow-events."""

    place_of: dict[At, Place]
    identity_of: dict[At, str]
    """(ce_source, ce_id) as one text; the position where a record has none."""
    faults: list[str] = field(default_factory=list)
    """Events in two places, decisions made twice, records that no event explains. Empty unless something is wrong."""

    @property
    def counts(self) -> dict[Place, int]:
        """How many events are where; every place is there, also with 0."""
        counted = Counter(self.place_of.values())
        return {place: counted[place] for place in PLACES}

    @property
    def at_rest(self) -> bool:
        """Whether nothing is on its way any more."""
        return self.counts["on_the_way"] == 0

    @property
    def conserved(self) -> bool:
        """Whether every event has exactly one place, and none is on its way."""
        return self.at_rest and not self.faults


def find_places(settings: Settings, codec: Codec) -> Places:
    """Reads the topics of an environment to their ends (read_committed). Raises BrokerUnavailable, ConfigError."""
    identity_of: dict[At, str] = {}
    for message in _all(settings, "workflow-events"):
        published = (message.partition(), message.offset())
        identity_of[published] = identity(message) or f"workflow-events[{published[0]}]@{published[1]}"
    claims = _Claims(identity_of)
    decided = _claim_decisions(settings, codec, claims)
    for message in _all(settings, "human-review"):
        if (about := claims.origin(message)) is not None and about not in decided:
            claims.add(about, "open_review")
    for message in _all(settings, "blocked"):
        claims.add(claims.origin(message), "blocked")
    for message in _all(settings, "dead-letter"):
        if _header(message, output.SOURCE_TOPIC) != b"review-verdicts":  # a verdict died, not an event
            claims.add(claims.origin(message), "dead_letter")
    for message in _all(settings, "audit"):
        if codec.decode_audit(message.value()).kind == "duplicate":
            claims.add(claims.origin(message), "duplicate")
    return claims.settled(_waiting(settings, claims))


def _claim_decisions(settings: Settings, codec: Codec, claims: "_Claims") -> set[At]:
    """Claims a decision for each first revision. Corrections have no place of their own: they supersede one."""
    decided = Counter[At]()
    for message in _all(settings, "decisions"):
        at = claims.origin(message)
        if at is not None and codec.decode_decision(message.value()).revision == 1:
            decided[at] += 1
            claims.add(at, "decision")
    claims.faults += [f"{claims.name(at)}: {count} decisions" for at, count in decided.items() if count > 1]
    return set(decided)


class _Claims:
    """Gathers which topics claim which events."""

    def __init__(self, identity_of: dict[At, str]) -> None:
        self._identity_of = identity_of
        self._claimed: dict[At, set[Place]] = {at: set() for at in identity_of}
        self.faults: list[str] = []

    def origin(self, message: Message) -> At | None:
        """The event that a record is about: by its first position, else by where it was read."""
        at = _position(message, output.ORIGIN_PARTITION, output.ORIGIN_OFFSET)
        if at is None:
            at = _position(message, output.SOURCE_PARTITION, output.SOURCE_OFFSET)
        if at not in self._identity_of:
            self.faults.append(f"{message.topic()}[{message.partition()}]@{message.offset()}: no event explains it")
            return None
        return at

    def name(self, at: At) -> str:
        """The identity of the event at a position."""
        return self._identity_of[at]

    def add(self, at: At | None, place: Place) -> None:
        if at is not None:
            self._claimed[at].add(place)

    def settled(self, waiting: set[At]) -> Places:
        places = Places({}, self._identity_of, self.faults)
        for at, claimed in self._claimed.items():
            if len(claimed) > 1:
                self.faults.append(f"{self._identity_of[at]}: in {' and '.join(sorted(claimed))}")
            if claimed:
                places.place_of[at] = min(claimed)
            else:
                places.place_of[at] = "waiting_retry" if at in waiting else "on_the_way"
        return places


def _waiting(settings: Settings, claims: _Claims) -> set[At]:
    found = (claims.origin(message) for stage in STAGES for message in _all(settings, f"retry-{stage}"))
    return {at for at in found if at is not None}


def _all(settings: Settings, topic: str) -> Iterator[Message]:
    with open_reader(settings, f"{settings.environment}.{topic}") as reader:
        yield from reader.read({number: bounds.low for number, bounds in reader.bounds().items()})


def identity(message: Message) -> str | None:
    """(ce_source, ce_id) of a record's headers as one text, or None where either is missing."""
    source, event_id = _header(message, "ce_source"), _header(message, "ce_id")
    if not source or not event_id:
        return None
    return f"{source.decode('utf-8', 'backslashreplace')} {event_id.decode('utf-8', 'backslashreplace')}"


def _position(message: Message, partition: str, offset: str) -> At | None:
    numbers = _header(message, partition), _header(message, offset)
    if numbers[0] is None or numbers[1] is None:
        return None
    return int(numbers[0]), int(numbers[1])


def _header(message: Message, name: str) -> bytes | None:
    for candidate, content in reversed(message.headers() or ()):
        if candidate == name:
            return bytes(content or b"")
    return None
