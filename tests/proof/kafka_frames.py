"""The framing of Kafka's protocol, as much of it as a proxy must read to cut at a chosen request.

A request is four bytes of length, then api key (int16), api version (int16) and correlation id (int32); an answer is
four bytes of length, then the correlation id of its request.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

PRODUCE = 0
ADD_OFFSETS_TO_TXN = 25
END_TXN = 26
TXN_OFFSET_COMMIT = 28

_HEADER = struct.Struct(">ihhi")
_ANSWER = struct.Struct(">ii")


class Request(NamedTuple):
    """What stands at the head of every request."""

    api_key: int
    version: int
    correlation: int


class RequestFrames:
    """Cuts a stream from a Kafka client into whole requests, however its chunks fall."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[Request, bytes]]:
        """Every request completed by this chunk, with its bytes."""
        self._held += chunk
        while len(self._held) >= _HEADER.size:
            length, api_key, version, correlation = _HEADER.unpack_from(self._held)
            if len(self._held) < 4 + length:
                return
            frame = bytes(self._held[: 4 + length])
            del self._held[: 4 + length]
            yield Request(api_key, version, correlation), frame


class AnswerFrames:
    """The same for what the broker answers."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Every answer completed by this chunk: (correlation id, its bytes)."""
        self._held += chunk
        while len(self._held) >= _ANSWER.size:
            length, correlation = _ANSWER.unpack_from(self._held)
            if len(self._held) < 4 + length:
                return
            frame = bytes(self._held[: 4 + length])
            del self._held[: 4 + length]
            yield correlation, frame
