"""A dead letter as people see it: where it came from and why it died, from its headers, and its bytes as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.stream import output

if TYPE_CHECKING:
    from confluent_kafka import Message

RawHeaders = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Letter:
    """What the headers of a dead letter say. A header that is missing or no text is None."""

    partition: int
    offset: int
    timestamp_ms: int
    stage: str | None
    failure: str | None
    cause: str | None
    attempt: str | None
    source: str | None
    """Where the record lay: topic:partition:offset."""
    event_source: str | None
    event_id: str | None
    bytes: int
    """Of the value."""

    @property
    def place(self) -> str:
        """The name of the letter in commands."""
        return f"{self.partition}:{self.offset}"


def letter_of(message: "Message") -> Letter:
    """The letter in a record of the dead-letter topic."""
    said = dict(message.headers() or ())  # the last one of a name wins: ours stand behind those of the record
    place = [_text(said, name) for name in (output.SOURCE_TOPIC, output.SOURCE_PARTITION, output.SOURCE_OFFSET)]
    return Letter(
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        stage=_text(said, output.STAGE),
        failure=_text(said, output.CLASS),
        cause=_text(said, output.CAUSE),
        attempt=_text(said, output.ATTEMPT),
        source=None if None in place else ":".join(str(part) for part in place),
        event_source=_text(said, "ce_source"),
        event_id=_text(said, "ce_id"),
        bytes=len(message.value() or b""),
    )


def split_headers(headers: RawHeaders) -> tuple[list[tuple[str, bytes | None]], list[tuple[str, bytes | None]]]:
    """The record's own headers, and those that the stage added when it died."""
    names = [name for name, _ in headers]
    if output.SOURCE_TOPIC not in names:
        return list(headers), []
    at = len(names) - 1 - names[::-1].index(output.SOURCE_TOPIC)
    return list(headers[:at]), list(headers[at:])


def readable(content: bytes | None) -> str | None:
    """Bytes as text when they are nothing else: UTF-8 without control characters but line ends and tabs."""
    if content is None:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c in "\n\r\t" for c in text) else None


def hexdump(content: bytes, limit: int) -> list[str]:
    """Offset, 16 bytes in hex, and what of them is ASCII, for at most `limit` bytes."""
    lines = []
    for at in range(0, min(len(content), limit), 16):
        part = content[at : min(at + 16, limit)]
        left, right = part[:8].hex(" "), part[8:].hex(" ")
        ascii_ = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {left:23}  {right:23}  |{ascii_}|")
    if len(content) > limit:
        lines.append(f"... {len(content) - limit:,} bytes more")
    return lines


def _text(said: dict[str, bytes | None], name: str) -> str | None:
    content = said.get(name)
    return None if content is None else content.decode(errors="replace")
