"""Recognises repeats of an event at the entrance: same identity, same bytes; or same identity, other bytes.

The memory is the stage's State: 16 bytes of a digest of (ce_source, ce_id) lead to 16 bytes of a digest of the
record and the time at which it was taken in. It reaches back as far as the limits say (count and time), and only
within one partition: publishers key by subject, so a true repeat comes to the same partition.
"""

from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b
from struct import pack, unpack
from typing import TypeAlias

from pipeline.stream.state import Change, State


class Repeat(Enum):
    """What a known identity means."""

    DUPLICATE = auto()  # the same bytes again: dropped, and audited
    CONFLICT = auto()  # other bytes under the same identity: a dead letter


@dataclass(frozen=True, slots=True)
class Fresh:
    """Not seen within the horizon. `changes` belong into the record's transaction."""

    changes: tuple[Change, ...]


ENTRY_BYTES = 24
"""A digest of the record, and the time in milliseconds at which it was taken in."""

Seen: TypeAlias = Fresh | Repeat


def admit(
    state: State,
    *,
    source: str,
    event_id: str,
    key: bytes | None,
    value: bytes | None,
    now_ms: int,
    horizon_ms: int,
) -> Seen:
    """Looks an identity up and remembers it when it is fresh."""
    identity = _digest(source.encode("utf-8", "surrogatepass"), event_id.encode("utf-8", "surrogatepass"))
    content = _digest(key, value)
    known = state.get(identity)
    if known is not None and now_ms - _taken_ms(known) <= horizon_ms:
        return Repeat.DUPLICATE if known[:16] == content else Repeat.CONFLICT
    changes = state.put(identity, content + pack(">q", now_ms))
    oldest = state.oldest()
    # Other memories lie in the same state, such as names used once: those have no horizon of ours.
    if oldest is not None and len(oldest[1]) == ENTRY_BYTES and now_ms - _taken_ms(oldest[1]) > horizon_ms:
        changes += (state.delete(oldest[0]),)
    return Fresh(changes)


def _taken_ms(entry: bytes) -> int:
    taken: int = unpack(">q", entry[16:])[0]
    return taken


def _digest(*parts: bytes | None) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        # The length keeps ("ab", "c") and ("a", "bc") apart; -1 keeps None and b"" apart.
        digest.update(pack(">q", -1 if part is None else len(part)))
        digest.update(part or b"")
    return digest.digest()
