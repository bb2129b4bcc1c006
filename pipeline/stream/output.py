"""One record to be written, and the names of the headers that Lockgate adds to records."""

from typing import NamedTuple

from pipeline.records import Headers


class Output(NamedTuple):
    """A record for a physical topic. It goes to the partition number that its cause was read from."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


ORIGIN_PARTITION = "lockgate_origin_partition"
ORIGIN_OFFSET = "lockgate_origin_offset"
ORIGIN_TIMESTAMP = "lockgate_origin_timestamp"
RELEASE = "lockgate_release"

SOURCE_TOPIC = "lockgate_source_topic"
SOURCE_PARTITION = "lockgate_source_partition"
SOURCE_OFFSET = "lockgate_source_offset"
SOURCE_TIMESTAMP = "lockgate_source_timestamp"
GROUP = "lockgate_group"
STAGE = "lockgate_stage"
CLASS = "lockgate_class"
CAUSE = "lockgate_cause"
ATTEMPT = "lockgate_attempt"
FIRST_FAILURE = "lockgate_first_failure_ms"
LAST_FAILURE = "lockgate_last_failure_ms"

CAUSE_LIMIT = 512
"""Bytes of a cause that a header keeps. The rest is in the log."""


def cut(cause: str) -> bytes:
    """A cause as header bytes, cut to the limit at a character's border."""
    raw = cause.encode("utf-8", "backslashreplace")
    return raw if len(raw) <= CAUSE_LIMIT else raw[:CAUSE_LIMIT].decode("utf-8", "ignore").encode()
