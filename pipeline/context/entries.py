"""What a compacted topic says now: the newest value of every key, in memory, within stated bounds.

Within a partition the later record wins, as in Kafka's own compaction. A key that lies in two partitions (the topic
grew, or two owners partition differently) has its newest record by timestamp, in whatever order they were read.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.codec import json_text
from pipeline.errors import ConfigError, StageStopped
from pipeline.steps.enrich import Found, LookedUp, Missing, Unreadable

log = logging.getLogger(__name__)

ENTRY_BYTES = 300
"""What an entry takes in memory besides the bytes of its key and value."""
_NO_TIMESTAMP = -1
_COMPLAINTS = 20


@dataclass(frozen=True, slots=True)
class ViewLimits:
    """The bounds of one view. They are settings: `context_max_entries` and so on, in lockgate.yaml or LOCKGATE_*."""

    max_entries: int = 1_000_000
    """At the next one the worker stops: a view without some of its keys would call them missing."""
    max_bytes: int = 512 * 1024 * 1024
    """Keys, values and 300 bytes for each entry. The same happens at this limit."""
    patience_s: float = 90.0
    """How long a view that is not caught up may hear nothing new before the start fails."""

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes", "patience_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"context_{name} must be above 0, not {getattr(self, name)!r}")


class _Held(NamedTuple):
    timestamp_ms: int
    offset: int
    value: bytes | None  # None: a deletion
    readable: bool


class Entries:
    """Written by one thread, looked up by another. `name` is the topic as topics.yaml has it."""

    def __init__(self, name: str, limits: ViewLimits) -> None:
        self.name = name
        self.count = 0
        """Entries held, deletions that are still remembered included."""
        self.bytes = 0
        self.unreadable = 0
        """Keys whose newest value is no JSON object."""
        self.keyless = 0
        """Records without a key: nobody can look them up."""
        self._limits = limits
        self._tables: dict[int, dict[bytes, _Held]] = {}
        self._settled = False
        self._complaints = 0

    def add_partitions(self, numbers: Iterable[int]) -> None:
        """Makes room for partitions that will be written."""
        # Another dict, not a changed one: a lookup may be going through the old one.
        self._tables = {**self._tables, **{number: {} for number in numbers if number not in self._tables}}

    def put(self, partition: int, offset: int, timestamp_ms: int, key: bytes | None, value: bytes | None) -> None:
        """One record, in the order of its partition. A None value deletes. StageStopped at a limit."""
        if key is None:
            self.keyless += 1
            self._complain(partition, offset, "has no key: it cannot be looked up")
            return
        readable = value is None or _is_readable(value)
        if not readable:
            self._complain(partition, offset, "is no JSON object: its key is unreadable")
        table = self._tables[partition]
        before = table.get(key)
        table[key] = held = _Held(timestamp_ms, offset, value, readable)  # at once: a lookup finds one or the other
        self._count(key, held, 1)
        if before is not None:
            self._count(key, before, -1)
        if value is None and self._settled:
            self._forget_if_gone(key)
        self._check()

    def settle(self) -> None:
        """All that lay in the topic has been put: deletions need not be remembered for what may follow any more."""
        self._settled = True
        gone = [key for table in self._tables.values() for key, held in table.items() if held.value is None]
        for key in gone:
            self._forget_if_gone(key)

    def find(self, key: str) -> LookedUp:
        """What lies under the key now."""
        # Half a surrogate pair, which JSON can spell: no key in UTF-8 is equal to what it becomes.
        raw = key.encode(errors="surrogatepass")
        newest: tuple[int, bool, int] | None = None
        for partition, table in self._tables.items():
            candidate = table.get(raw)
            if candidate is None:
                continue
            rank = (candidate.timestamp_ms, candidate.value is None, partition)
            if newest is None or rank > newest:
                newest, held = rank, candidate
        if newest is None or held.value is None:
            return Missing(self.name)
        place = f"{self.name}[{newest[2]}]@{held.offset}"
        timestamp_ms = None if held.timestamp_ms == _NO_TIMESTAMP else held.timestamp_ms
        if not held.readable:
            return Unreadable(timestamp_ms, place)
        # Kept as bytes and read anew: the bound on memory is exact, and nobody can change what others will be given.
        return Found(json_text.load_object(held.value.decode()), timestamp_ms, place)

    def _forget_if_gone(self, key: bytes) -> None:
        """Removes the deletions of a key that no partition has a value of."""
        if not any(held.value is not None for table in self._tables.values() if (held := table.get(key))):
            for table in self._tables.values():
                if (held := table.pop(key, None)) is not None:
                    self._count(key, held, -1)

    def _complain(self, partition: int, offset: int, why: str) -> None:
        self._complaints += 1
        if self._complaints <= _COMPLAINTS:
            last = "; further ones are only counted" if self._complaints == _COMPLAINTS else ""
            log.warning("%s[%d]@%d %s%s", self.name, partition, offset, why, last)

    def _count(self, key: bytes, held: _Held, sign: int) -> None:
        self.count += sign
        self.bytes += sign * (ENTRY_BYTES + len(key) + len(held.value or b""))
        self.unreadable += sign * (not held.readable)

    def _check(self) -> None:
        limits = self._limits
        for setting, reached, most in (
            ("context_max_entries", self.count, limits.max_entries),
            ("context_max_bytes", self.bytes, limits.max_bytes),
        ):
            if reached > most:
                raise StageStopped(
                    f"{self.name} holds more than {setting} = {most:,} allows. It is kept in memory as a whole, since "
                    f"what is left out would be taken for missing. Raise {setting} (LOCKGATE_{setting.upper()}) as far "
                    "as the memory of a worker goes, or delete keys that nobody needs"
                )


def _is_readable(value: bytes) -> bool:
    try:
        json_text.load_object(value.decode())
    except (ValueError, RecursionError):
        return False
    return True
