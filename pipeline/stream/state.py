"""Keyed memory of one partition of a stage, kept in the compacted topic `state-<stage>`.

Partition p is written only by the owner of input p, inside the transaction of the record that changed it, and
read back to the end before p is fed. Nothing else in a stage remembers anything about a key.
"""

from collections import OrderedDict
from dataclasses import dataclass

from pipeline.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Change:
    """One write: value None deletes the key. It becomes an output of the record that caused it."""

    key: bytes
    value: bytes | None


class State:
    """The state of one partition, oldest write first. Belongs to the event loop.

    It holds at most `limit` entries: the oldest beyond it are forgotten by the next `put`, which returns their
    deletions together with the write, so that memory and topic shrink alike.
    """

    __slots__ = ("_entries", "evicted", "limit")

    def __init__(self, limit: int) -> None:
        # Not a plain dict: taking the oldest out of one scans all that were taken before.
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self.limit = limit
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def oldest(self) -> tuple[bytes, bytes] | None:
        """The entry that was written longest ago, or None when there is none."""
        for entry in self._entries.items():
            return entry
        return None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        return self._entries.get(key)

    def put(self, key: bytes, value: bytes) -> tuple[Change, ...]:
        """Sets a key and returns what must be written in the transaction of the record that caused it."""
        self._entries.pop(key, None)
        self._entries[key] = value
        changes = [Change(key, value)]
        # Two at most per write: a lowered limit is reached step by step, never in one huge transaction.
        for _ in range(2):
            if len(self._entries) <= self.limit:
                break
            forgotten, _ = self._entries.popitem(last=False)
            changes.append(Change(forgotten, None))
            self.evicted += 1
        return tuple(changes)

    def delete(self, key: bytes) -> Change:
        """Forgets a key and returns the deletion to be written."""
        self._entries.pop(key, None)
        return Change(key, None)

    def restore(self, key: bytes | None, value: bytes | None) -> None:
        """One record of the state topic, in order. Raises DecodeError on a record without a key."""
        if key is None:
            raise DecodeError("a state record without a key: something else writes to this stage's state topic")
        self._entries.pop(key, None)
        if value is not None:
            self._entries[key] = value
