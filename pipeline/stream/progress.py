"""Which offsets of one partition are done, and how that fits into the metadata of a commit.

Every record read *covers* the offsets from just after the record read before it up to its own: transaction
markers, aborted and compacted records leave gaps, and nothing will ever be read from a gap. With covers, the
done part of a partition is a set of half-open runs without holes of its own making.

The commit holds `base`, the lowest offset not done. What is done beyond it goes into the commit's metadata as
printable ASCII, so that a record whose output is visible is never worked on again:

    1.<crc32 of the body, 8 hex digits>.<body>

The body is the alternating lengths of not-done and done runs from `base` on, each a base-64 VLQ number (five bits
a digit, low digits first, as in source maps). A partition with nothing done beyond `base` commits empty metadata.
"""

from bisect import bisect_right
from zlib import crc32

from pipeline.errors import StageStopped

METADATA_LIMIT = 4096
METADATA_RESERVED = 64
BODY_LIMIT = METADATA_LIMIT - METADATA_RESERVED

_VERSION = "1"
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}


class Progress:
    """The done runs of one partition. Not safe between threads: it belongs to the committer.

    `base` is the lowest offset not done. Runs beyond it are sorted, disjoint and never touch.
    """

    __slots__ = ("_ends", "_starts", "base")

    def __init__(self, base: int, runs: tuple[tuple[int, int], ...] = ()) -> None:
        self.base = base
        self._starts = [start for start, _ in runs]
        self._ends = [end for _, end in runs]

    def copy(self) -> "Progress":
        """An independent copy: a round marks the copy and keeps it only when its transaction committed."""
        twin = Progress(self.base)
        twin._starts = self._starts.copy()
        twin._ends = self._ends.copy()
        return twin

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The done runs beyond `base`, as half-open (start, end) pairs in order."""
        return tuple(zip(self._starts, self._ends, strict=True))

    def is_done(self, offset: int) -> bool:
        """Whether the record at this offset was done."""
        if offset < self.base:
            return True
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self._ends[at]

    def mark(self, start: int, end: int) -> None:
        """The record that covers [start, end) is done. Marking twice changes nothing."""
        starts, ends = self._starts, self._ends
        if start <= self.base:
            if end <= self.base:
                return
            self.base = end
            while starts and starts[0] <= self.base:
                self.base = max(self.base, ends[0])
                del starts[0], ends[0]
            return
        # The runs that touch [start, end) are first..last-1; they become one with it.
        first = bisect_right(starts, start)
        if first and ends[first - 1] >= start:
            first -= 1
        last = first
        while last < len(starts) and starts[last] <= end:
            last += 1
        if first < last:
            start = min(start, starts[first])
            end = max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]

    def encode(self) -> str:
        """The commit's metadata, as in the module's first lines. It may be too long: see `fits`."""
        if not self._starts:
            return ""
        body = self._body()
        return f"{_VERSION}.{crc32(body.encode()):08x}.{body}"

    def fits(self) -> bool:
        """Whether the metadata stays within the limit that brokers set (4,096 bytes, 64 of them reserved)."""
        # A length below 2**30 takes at most six digits, so few runs need no measuring.
        few = len(self._starts) * 12 <= BODY_LIMIT and (not self._ends or self._ends[-1] - self.base < 2**30)
        return few or len(self._body()) <= BODY_LIMIT

    def _body(self) -> str:
        digits: list[str] = []
        at = self.base
        for start, end in zip(self._starts, self._ends, strict=True):
            _put(digits, start - at)
            _put(digits, end - start)
            at = end
        return "".join(digits)


def decode(base: int, metadata: str | None) -> Progress:
    """The progress that a commit of (base, metadata) recorded.

    Raises StageStopped when the metadata is not Lockgate's: working on would repeat what is done.
    """
    if not metadata:
        return Progress(base)
    version, _, rest = metadata.partition(".")
    checksum, _, body = rest.partition(".")
    ours = version == _VERSION and body.isascii() and checksum == f"{crc32(body.encode()):08x}"
    lengths = _numbers(body) if ours else []
    if not lengths or len(lengths) % 2 or min(lengths) < 1:
        raise StageStopped(
            f"the commit at offset {base} carries metadata that this version of Lockgate did not write "
            f"({metadata[:40]!r}). Another tool or a newer version committed to this consumer group: stop that tool, "
            "or run the version that wrote it. Nothing was read."
        )
    runs = []
    at = base
    for gap, length in zip(lengths[::2], lengths[1::2], strict=True):
        runs.append((at + gap, at + gap + length))
        at += gap + length
    return Progress(base, tuple(runs))


def _put(digits: list[str], number: int) -> None:
    while number >= 32:
        digits.append(_DIGITS[32 | (number & 31)])
        number >>= 5
    digits.append(_DIGITS[number])


def _numbers(body: str) -> list[int]:
    """The numbers of a body; none at all when it is not one."""
    numbers = []
    number = shift = 0
    for digit in body:
        value = _VALUES.get(digit)
        if value is None:
            return []
        number |= (value & 31) << shift
        shift += 5
        if value < 32:
            numbers.append(number)
            number = shift = 0
    return [] if shift else numbers
