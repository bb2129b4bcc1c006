"""What is known of customers and products as JSON lines: {"key": "c-1", "age_days": 2, "value": {...}}.

A record gets the timestamp of its age (without one: now), so that what is stale in the file is stale on whatever day
it is loaded. The value null takes the key back.
"""

from collections.abc import Iterator
from typing import Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from agents.cli.drafting import Draft
from pipeline.codec import json_text
from pipeline.config import explain
from pipeline.errors import ConfigError

_DAY_MS = 86_400_000
_CENTURY_DAYS = 36_525
_OVERHEAD = 512  # of a batch that holds one record, rounded up


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Annotated[str, Field(min_length=1)]
    age_days: Annotated[float, Field(ge=0, le=_CENTURY_DAYS)] = 0.0
    value: JsonValue


def context_drafts(
    stream: BinaryIO, place: str, now_ms: int, max_bytes: int | None = None, *, objects_only: bool = True
) -> Iterator[Draft]:
    """The records of a file. ConfigError names `place`, the line, and what is wrong with it.

    `objects_only=False` lets values through that no view can read.
    """
    for number, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate_json(text)
            value = None if line.value is None else json_text.dump(line.value).encode()
            key = line.key.encode()
        except ValidationError as error:
            raise ConfigError(f"{place}:{number}: {explain(error)}") from None
        except ValueError:  # NaN, or half a surrogate pair
            raise ConfigError(f"{place}:{number}: value: holds what JSON or UTF-8 has no form for") from None
        if objects_only and not isinstance(line.value, dict | None):
            raise ConfigError(f"{place}:{number}: value: must be an object, or null to take the key back")
        size = len(key) + len(value or b"")
        if max_bytes is not None and size + _OVERHEAD > max_bytes:
            raise ConfigError(f"{place}:{number}: {size:,} bytes, where the topic takes {max_bytes:,}")
        yield Draft(number, key, value, (), now_ms - round(line.age_days * _DAY_MS))
