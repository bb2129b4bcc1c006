"""Published events against what lies in the topics: what was lost, doubled, reordered, contradicted or damaged.

Everything is by identity. A record downstream is traced to one *publication* (a position in the entrance topic): by
its `lockgate_origin_*` headers, else by (`ce_source`, `ce_id`), else by its `lockgate_source_*` headers. Then each
publication must have exactly one current place, and each event at most one record in any output.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from tests.proof.ledger import Ledger, Record
from tests.proof.topology import Topology

Place: TypeAlias = tuple[int, int]
"""A publication: (partition, offset) in the entrance topic."""

DUPLICATE = "duplicate"
WAITING_RETRY = "waiting_retry"
IN_FLIGHT = "in_flight"


class Acknowledged(Protocol):
    """What a publisher knows that the broker has taken."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one event."""

    identity: str
    what: str

    def __str__(self) -> str:
        return f"{self.identity}: {self.what}"


@dataclass(slots=True)
class Report:
    """What was found. Every list but `places` must be empty once the pipeline has come to rest."""

    published: int = 0
    places: Counter[str] = field(default_factory=Counter)
    """How many publications have their current place where; in-flight ones by topic."""
    lost: list[Finding] = field(default_factory=list)
    """Done according to the stage's offsets, or acknowledged, and nowhere."""
    doubled: list[Finding] = field(default_factory=list)
    """More than one record where there may be one, or more than one current place."""
    reordered: list[Finding] = field(default_factory=list)
    """A key's records out of publish order, in two partitions, or in another partition than they came from."""
    contradicting: list[Finding] = field(default_factory=list)
    """Two different values for one event in one output."""
    undelivered: list[Finding] = field(default_factory=list)
    """On the way or waiting for a retry: no fault while the pipeline runs, one when it should be at rest."""
    damaged: list[Finding] = field(default_factory=list)
    """Bytes of key, value or headers that did not survive."""
    unexplained: list[Finding] = field(default_factory=list)
    """Records that no publication explains."""

    @property
    def numbers(self) -> dict[str, int]:
        return {name: len(findings) for name, findings in self._lists()}

    @property
    def faults(self) -> dict[str, list[str]]:
        """Every number that is not zero, with its first findings. Empty: proven."""
        return {
            name: [f"{len(findings)} in all", *(str(finding) for finding in findings[:8])]
            for name, findings in self._lists()
            if findings
        }

    def _lists(self) -> Iterator[tuple[str, list[Finding]]]:
        yield "lost", self.lost
        yield "doubled", self.doubled
        yield "reordered", self.reordered
        yield "contradicting", self.contradicting
        yield "undelivered", self.undelivered
        yield "damaged", self.damaged
        yield "unexplained", self.unexplained


def examine(topology: Topology, ledger: Ledger, acknowledged: Iterable[Acknowledged] = ()) -> Report:
    """The whole examination. `ledger` must hold `topology.topics`; with `topology.groups` in it, an event that a
    stage has committed as done and that is nowhere counts as lost, else as undelivered."""
    examination = _Examination(topology, ledger)
    examination.compare_with(acknowledged)
    examination.trace()
    examination.count()
    examination.check_order()
    examination.check_bytes()
    return examination.report


def identity_of(record: Record) -> str | None:
    """(ce_source, ce_id) as one text, or None where either is missing. A structured event has them in its value."""
    source, event_id = record.header("ce_source"), record.header("ce_id")
    if (record.header("content-type") or b"").startswith(b"application/cloudevents+json"):
        source, event_id = _structured(record.value, "source"), _structured(record.value, "id")
    if not source or not event_id:
        return None
    return f"{source!r} {event_id!r}"  # the quotes keep ("a b", "c") and ("a", "b c") apart


def _structured(value: bytes | None, name: str) -> bytes | None:
    try:
        attribute = json.loads(value or b"")[name]
    except (ValueError, KeyError, TypeError):
        return None
    return attribute.encode(errors="surrogatepass") if isinstance(attribute, str) else None


class _Examination:
    def __init__(self, topology: Topology, ledger: Ledger) -> None:
        self.topology = topology
        self.ledger = ledger
        self.report = Report()
        self.publications: dict[Place, Record] = {
            (record.partition, record.offset): record for record in ledger[topology.entrance]
        }
        self.by_identity: dict[str, list[Place]] = defaultdict(list)
        for place, record in self.publications.items():
            identity = identity_of(record)
            if identity is not None:
                self.by_identity[identity].append(place)
        self.by_origin = {self._origin(place): place for place in reversed(self.publications)}
        self.sources = {
            record.position: record
            for stage in topology.stages
            for topic in (stage.input, stage.retry)
            if topic
            for record in ledger[topic]
        }
        self.traced: dict[str, list[tuple[Record, Place]]] = {}
        """Topic -> its records with the publication that explains each, in partition and offset order."""
        self.report.published = len(self.publications)

    def compare_with(self, acknowledged: Iterable[Acknowledged]) -> None:
        for promised in acknowledged:
            found = self.publications.get((promised.partition, promised.offset))
            name = f"{self.topology.entrance}[{promised.partition}]@{promised.offset}"
            if found is None:
                self.report.lost.append(Finding(name, "acknowledged to the publisher, and not in the topic"))
            elif (found.key, found.value) != (promised.key, promised.value):
                self.report.damaged.append(Finding(name, "not the bytes that were published"))

    def trace(self) -> None:
        for topic in self.topology.topics:
            if topic == self.topology.entrance:
                continue
            records: Sequence[Record] = self.ledger[topic]
            if topic == self.topology.audit:
                assert self.topology.is_duplicate is not None
                records = [record for record in records if self.topology.is_duplicate(record)]
            explained = self.traced[topic] = []
            for record in records:
                place, why = self._publication_of(record)
                if place is None:
                    self.report.unexplained.append(Finding(identity_of(record) or str(record), f"{record} {why}"))
                else:
                    explained.append((record, place))

    def count(self) -> None:
        holders: dict[Place, dict[str, list[Record]]] = {place: {} for place in self.publications}
        for topic, explained in self.traced.items():
            for record, place in explained:
                holders[place].setdefault(topic, []).append(record)
        self._check_repeats(holders)
        for place, held in holders.items():
            self.report.places[self._place(place, held)] += 1

    def check_order(self) -> None:
        topics = [stage.output for stage in self.topology.stages]
        topics += [stage.retry for stage in self.topology.stages if stage.retry]
        for topic in topics:
            self._check_order_in(self.traced[topic])

    def check_bytes(self) -> None:
        retries = [stage.retry for stage in self.topology.stages if stage.retry]
        kept = [topic for topic in (self.topology.dead_letter, *retries) if topic]
        for topic, explained in self.traced.items():
            for record, place in explained:
                if topic in kept:
                    self._check_kept(record, place)
                elif topic != self.topology.audit and record.key != self.publications[place].key:
                    self._damaged(place, f"{record} has another key")

    def _publication_of(self, record: Record) -> tuple[Place | None, str]:
        """The publication that explains a record, or None and why there is none."""
        identity = identity_of(record)
        origin = _numbers(record, "lockgate_origin_partition", "lockgate_origin_offset")
        if origin is not None:
            place = self.by_origin.get(origin)
            if place is None:
                return None, f"names {origin} as its origin, where nothing was published"
        else:
            # The source position first: an undecodable event that was published twice is two dead letters.
            place = None
            topic = record.header("lockgate_source_topic") or b""
            if self.topology.physical(topic.decode(errors="replace")) == self.topology.entrance:
                place = _numbers(record, "lockgate_source_partition", "lockgate_source_offset")
            elif identity in self.by_identity:
                return self.by_identity[identity][0], ""
        published = None if place is None else self.publications.get(place)
        if published is None:
            return None, "names no event that was published"
        if identity != identity_of(published):
            return None, f"is {identity}, but its origin {published} is {identity_of(published)}"
        return place, ""

    def _check_repeats(self, holders: Mapping[Place, Mapping[str, list[Record]]]) -> None:
        # An output holds one record per event, however often the event was published; what is kept per
        # publication (dead letters, retries, duplicates) holds one record per publication.
        per_event = {stage.output for stage in self.topology.stages}
        per_event |= {topic for topic in (self.topology.review, self.topology.blocked) if topic}
        of_event: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for place, held in holders.items():
            for topic, records in held.items():
                name = self._name(place) if topic in per_event else f"{self._name(place)} at {place}"
                of_event[topic, name] += records
        for (topic, name), records in of_event.items():
            if len(records) > 1:
                where = ", ".join(f"[{record.partition}]@{record.offset}" for record in records)
                self.report.doubled.append(Finding(name, f"{len(records)} records in {topic}: {where}"))
                if topic in per_event and len({record.value for record in records}) > 1:
                    self.report.contradicting.append(Finding(name, f"different values in {topic}: {where}"))

    def _place(self, place: Place, held: Mapping[str, list[Record]]) -> str:
        """The current place of a publication, with the faults that finding it brings to light."""
        ends = [name for topic, name in self.topology.exits.items() if topic in held]
        if self.topology.audit in held:
            ends.append(DUPLICATE)
        if len(ends) > 1:
            self._add(self.report.doubled, place, f"in {len(ends)} places at once: {', '.join(ends)}")
        if ends:
            return ends[0]
        for stage in reversed(self.topology.stages):
            waiting = held.get(stage.retry or "", [])
            arrived = held.get(stage.input, [])
            if stage.input == self.topology.entrance:
                arrived = [self.publications[place]]
            for kind, records in ((WAITING_RETRY, waiting), (IN_FLIGHT, arrived)):
                if not records:
                    continue
                last = records[-1]
                if last.offset < self.ledger.committed.get((stage.group, last.topic, last.partition), 0):
                    self._add(self.report.lost, place, f"{stage.group} has done {last}, and nothing came of it")
                    return "nowhere"
                self._add(self.report.undelivered, place, f"{kind}, last seen as {last}")
                return kind if kind == WAITING_RETRY else f"{IN_FLIGHT}:{stage.input}"
        raise AssertionError("every publication lies at least in the entrance")

    def _check_order_in(self, explained: Iterable[tuple[Record, Place]]) -> None:
        newest: dict[tuple[bytes, int], tuple[int, Record]] = {}
        home: dict[bytes, Record] = {}
        seen: set[Place] = set()
        for record, place in explained:
            if place in seen:
                continue  # a doubled record: counted as that, and its late repeat says nothing about order
            seen.add(place)
            partition, offset = place
            if self.topology.keeps_partition and record.partition != partition:
                self._add(self.report.reordered, place, f"{record} was read from partition {partition}")
            key = self.publications[place].key
            if key is None:
                continue
            first = home.setdefault(key, record)
            if first.partition != record.partition:
                self._add(self.report.reordered, place, f"key {key!r} lies in {first} and in {record}")
            # Offsets say which came first only within one partition of the entrance.
            last, behind = newest.get((key, partition), (-1, record))
            if offset < last:
                self._add(self.report.reordered, place, f"{record} stands behind {behind}, which was published later")
            else:
                newest[key, partition] = (offset, record)

    def _check_kept(self, record: Record, place: Place) -> None:
        """A dead letter or parked record holds the bytes of the record that it was made of."""
        source = self.publications[place]
        named = record.header("lockgate_source_topic")
        at = _numbers(record, "lockgate_source_partition", "lockgate_source_offset")
        if named is not None and at is not None:
            topic = self.topology.physical(named.decode(errors="replace"))
            found = self.sources.get((topic, *at))
            if found is None:
                self._damaged(place, f"{record} names {topic}[{at[0]}]@{at[1]} as its source: there is none")
                return
            source = found
        for part in ("key", "value"):
            if getattr(record, part) != getattr(source, part):
                self._damaged(place, f"the {part} of {record} is not that of {source}")
        missing = _missing_headers(source, record)
        if missing:
            self._damaged(place, f"{record} lacks these headers of {source}, or their order: {missing}")

    def _origin(self, place: Place) -> Place:
        """Where a publication comes from: itself, unless a stage before this topology wrote it."""
        if self.topology.from_the_start:
            return place
        origin = _numbers(self.publications[place], "lockgate_origin_partition", "lockgate_origin_offset")
        return place if origin is None else origin

    def _damaged(self, place: Place, what: str) -> None:
        self._add(self.report.damaged, place, what)

    def _add(self, findings: list[Finding], place: Place, what: str) -> None:
        findings.append(Finding(self._name(place), what))

    def _name(self, place: Place) -> str:
        published = self.publications[place]
        return identity_of(published) or str(published)


def _numbers(record: Record, *names: str) -> Place | None:
    texts = [record.header(name) for name in names]
    if not all(text is not None and text.isdigit() for text in texts):
        return None
    first, second = (int(text) for text in texts if text is not None)
    return (first, second)


def _missing_headers(source: Record, record: Record) -> list[str]:
    """Headers of `source` that `record` does not hold, in their order, with equal bytes."""
    left = iter(record.headers)
    return [name for name, value in source.headers if not any((name, value) == held for held in left)]
