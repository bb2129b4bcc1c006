"""The sample messages and the context that ship with a workflow, as records that are ready to be sent.

In the workflow's folder lie `samples.jsonl` (events as `lockgate publish` takes them), `samples-raw.jsonl` (records
byte for byte, for what no right publisher would send) and `context/NAME.jsonl`, one for each topic `context-NAME`.
The lines of context are those of `lockgate context load`, but may hold what no view can read.
"""

from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError

from agents.cli.context_lines import context_drafts
from agents.cli.drafting import Draft, Drafting
from agents.cli.mapping import RowIds, Unfit
from agents.cli.sources import Form, open_input, read_table
from pipeline.codec import Codec
from pipeline.config import explain
from pipeline.errors import ConfigError

Base64 = Annotated[bytes, PlainValidator(lambda text: b64decode(text, validate=True))]


class _Bytes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Base64 | None
    value: Base64 | None
    headers: tuple[tuple[str, Base64], ...]


class _Raw(BaseModel):
    """A line of the raw file: {"raw": {"key": base64, "value": base64, "headers": [[name, base64], ...]}}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    raw: _Bytes


def context_of(folder: Path, now_ms: int) -> list[tuple[str, Sequence[Draft]]]:
    """The name of each context that a workflow brings along, with its records as they would be today."""
    return [(file.stem, _context_of(file, now_ms)) for file in sorted(folder.glob("context/*.jsonl"))]


def messages_of(folder: Path, max_bytes: int) -> Sequence[Draft]:
    """The sample events as `lockgate publish` would write them, then the raw records, each in the order of its file."""
    raw = folder / "samples-raw.jsonl"
    return (*_event_drafts(folder / "samples.jsonl", max_bytes), *(_raw_drafts(raw) if raw.is_file() else ()))


def _context_of(file: Path, now_ms: int) -> Sequence[Draft]:
    with file.open("rb") as stream:
        return tuple(context_drafts(stream, str(file), now_ms, objects_only=False))


def _event_drafts(file: Path, max_bytes: int) -> Iterator[Draft]:
    drafting = Drafting(Codec(), Form.JSONL, None, {}, "ticket", max_bytes)
    ids = RowIds()
    with open_input(str(file)) as stream:
        for row in read_table(stream, Form.JSONL, ",").rows:
            try:
                yield drafting.draft(row, ids)
            except Unfit as fault:
                raise ConfigError(f"{file}:{row.line}: {fault}") from None


def _raw_drafts(file: Path) -> Iterator[Draft]:
    for number, text in enumerate(file.read_text("utf-8").rstrip("\n").split("\n"), start=1):
        try:
            raw = _Raw.model_validate_json(text).raw
        except ValidationError as error:
            raise ConfigError(f"{file}:{number}: {explain(error)}") from None
        yield Draft(number, raw.key, raw.value, raw.headers)
