"""Counts what a system did to the order and number of records, key by key."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class KeyChecks:
    """Feed it every output record, in the order read from its partition; then read the counts.

    The records of a key may come out in several places (topics): together they must be complete, and in each
    place they must be in order.
    """

    records: int = 0
    repeats: int = 0
    reordered: int = 0
    bare: int = 0
    """Records that came out without the headers they went in with."""
    _next: dict[bytes, int] = field(default_factory=dict)
    _holes: dict[bytes, set[int]] = field(default_factory=dict)
    _last: dict[tuple[bytes, str], int] = field(default_factory=dict)

    def see(self, key: bytes, n: int, place: str = "") -> None:
        self.records += 1
        expected = self._next.get(key, 0)
        if n >= expected:
            if n > expected:
                self._holes.setdefault(key, set()).update(range(expected, n))
            self._next[key] = n + 1
        elif n in (holes := self._holes.get(key, set())):
            holes.remove(n)
        else:
            self.repeats += 1
            return
        if n < self._last.get((key, place), -1):
            self.reordered += 1
        else:
            self._last[key, place] = n

    @property
    def distinct(self) -> int:
        return self.records - self.repeats

    @property
    def gaps(self) -> int:
        """Records that never came although a later one of their key did."""
        return sum(len(holes) for holes in self._holes.values())

    @property
    def sound(self) -> bool:
        return not (self.bare or self.repeats or self.reordered or self.gaps)
