"""Reads audit records without the engine's codec: five bytes of wire format, then Avro by the shipped schema."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import fastavro

from tests.proof.ledger import Record

SCHEMA = Path(__file__).parents[2] / "schemas" / "audit.avsc"


def duplicates() -> Callable[[Record], bool]:
    """A predicate: this audit record says that a repeat was dropped."""
    schema = fastavro.parse_schema(json.loads(SCHEMA.read_text(encoding="utf-8")))

    def is_duplicate(record: Record) -> bool:
        value = record.value
        if value is None or value[:1] != b"\0":
            raise ValueError(f"{record} is no Avro in wire format")
        return fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)["kind"] == "duplicate"

    return is_duplicate
