"""What `lockgate publish` reads: rows of a file, each with its place and its text, whatever is wrong with it.

A row that cannot be read is a row with a fault, so that one bad line hides neither the others nor itself.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from pipeline.codec import json_text
from pipeline.errors import ConfigError, LockgateError
from pipeline.records import Json

LINE_LIMIT = 16 * 1024 * 1024
"""A longer line is a fault: no topic takes it, and a file without line ends must not fill the memory."""


class Form(StrEnum):
    """How the events of a file are written."""

    JSONL = "jsonl"  # one JSON object a line
    CSV = "csv"  # a header, then one event a row
    AVRO = "avro"  # an object container file


_SUFFIXES = {
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
    ".json": Form.JSONL,
    ".csv": Form.CSV,
    ".tsv": Form.CSV,
    ".avro": Form.AVRO,
}


class BrokenFile(LockgateError):
    """The file as a whole cannot be read on, however good the rows before were."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input. `line` counts from 1 (in Avro: records) and is where the row begins."""

    line: int
    text: bytes
    """As it stands in the input, without the end of the line (from Avro: as JSON)."""
    fields: dict[str, Json]
    fault: str | None = None
    """Why it cannot be read; `fields` is empty then."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one input."""

    form: Form
    header: bytes | None
    """The first line of a CSV, as it stands there."""
    columns: tuple[str, ...] | None
    """What the header names; None where rows name their own fields."""
    rows: Iterator[Row]


def form_of(path: str, asked: str) -> Form:
    """The form asked for, or with `auto` the one that the name of the file stands for."""
    if asked != "auto":
        return Form(asked)
    if path == "-":
        return Form.JSONL
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(f"{path}: its name does not say what it is: add --format jsonl, csv or avro")
    return _SUFFIXES[suffix]


def read_table(stream: BinaryIO, form: Form, delimiter: str) -> Table:
    """The rows of a stream, read as they are asked for. ConfigError when not even a header can be read."""
    match form:
        case Form.JSONL:
            return Table(form, None, None, _json_rows(stream))
        case Form.CSV:
            return _csv(stream, delimiter)
        case Form.AVRO:
            return Table(form, None, None, _avro_rows(stream))


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines as they stand there. Of one that is too long only the beginning, one byte longer than the limit."""
    first = True
    while line := stream.readline(LINE_LIMIT + 1):
        if first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            first = False
        if len(line) > LINE_LIMIT and not line.endswith(b"\n"):
            while (rest := stream.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                pass
        yield line


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


# -- JSON lines ---------------------------------------------------------------------------------------------


def _json_rows(stream: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(_lines(stream), start=1):
        text = _without_end(line)
        if not text.strip():
            continue
        fields: dict[str, Json] = {}
        fault = None
        if len(line) > LINE_LIMIT:
            fault = _too_long()
        else:
            try:
                fields = json_text.load_object(text.decode())
            except UnicodeDecodeError as error:
                fault = f"column {error.start + 1}: not UTF-8: save the file as UTF-8"
            except (ValueError, RecursionError) as error:
                fault = _json_fault(error, text)
        yield Row(number, text, fields, fault)


def _json_fault(error: Exception, text: bytes) -> str:
    position, message = getattr(error, "pos", None), getattr(error, "msg", None)
    hint = "one event a line, each a JSON object"
    if text.lstrip()[:1] == b"[":
        hint += "; `jq -c '.[]'` makes lines of an array"
    elif text.lstrip()[:1] not in (b"{", b""):
        hint += "; a CSV needs --format csv"
    if position is not None:
        return f"column {position + 1}: not JSON ({message}): {hint}"
    return f"not usable JSON ({error if isinstance(error, ValueError) else 'nested too deeply'}): {hint}"


def _too_long() -> str:
    return f"longer than {LINE_LIMIT:,} bytes: no topic takes it"


# -- CSV ----------------------------------------------------------------------------------------------------


class _Kept:
    """Feeds lines to the csv module and keeps those that the current row was made of."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = _lines(stream)
        self.lines: list[bytes] = []
        self.read = 0
        self.cut = False

    def __iter__(self) -> "_Kept":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.read += 1
        self.lines.append(line)
        self.cut = self.cut or len(line) > LINE_LIMIT
        return line.decode(errors="surrogateescape")

    def take(self) -> tuple[int, bytes, bool]:
        """Where the row began, its text, and whether a line of it was too long to be read whole."""
        start = self.read - len(self.lines) + 1
        text = _without_end(b"".join(self.lines))
        cut = self.cut
        self.lines = []
        self.cut = False
        return start, text, cut


def _csv(stream: BinaryIO, delimiter: str) -> Table:
    csv.field_size_limit(LINE_LIMIT)
    kept = _Kept(stream)
    reader = csv.reader(kept, delimiter=delimiter, strict=True)
    try:
        columns = next(reader)
        _refuse_surrogates("".join(columns))
    except StopIteration:
        return Table(Form.CSV, None, None, iter(()))
    except (csv.Error, UnicodeError) as error:
        raise ConfigError(f"line 1: the header cannot be read ({error}): it must name the columns, in UTF-8") from None
    _, header, _ = kept.take()
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise ConfigError(f"line 1: the header names {', '.join(map(repr, repeated))} twice: give each column its name")
    return Table(Form.CSV, header, tuple(columns), _csv_rows(kept, reader, columns))


def _csv_rows(kept: _Kept, reader: Iterator[list[str]], columns: list[str]) -> Iterator[Row]:
    while True:
        cells: list[str] = []
        fault = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"not CSV ({error}): look for a quote that is not closed, or not doubled"
        line, text, cut = kept.take()
        if cut:
            fault = _too_long()
        if fault is None:
            if not text.strip():
                continue
            fault = _cells_fault(cells, columns)
        if fault is not None:
            yield Row(line, text, {}, fault)
        else:
            # An empty cell holds nothing: CSV has no other way to say so.
            yield Row(line, text, {name: cell or None for name, cell in zip(columns, cells, strict=True)})


def _cells_fault(cells: list[str], columns: list[str]) -> str | None:
    if len(cells) != len(columns):
        found = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
        return f"{found}, where the header has {len(columns)}: quote a cell that holds a delimiter"
    for name, cell in zip(columns, cells, strict=True):
        try:
            _refuse_surrogates(cell)
        except UnicodeError:
            return f"column {name!r}: not UTF-8: save the file as UTF-8"
    return None


def _refuse_surrogates(text: str) -> None:
    text.encode()


# -- Avro ---------------------------------------------------------------------------------------------------


def _avro_rows(stream: BinaryIO) -> Iterator[Row]:
    from fastavro import reader

    try:
        records = reader(stream)
    except Exception as error:  # noqa: BLE001 - fastavro documents no closed set
        raise ConfigError(f"not an Avro object container file ({type(error).__name__}: {error})") from None
    number = 0
    while True:
        number += 1
        try:
            record: Any = next(records)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing after it can be found any more
            raise BrokenFile(
                f"record {number}: the Avro file is damaged from here on ({type(error).__name__}: {error}): "
                "write it again"
            ) from None
        try:
            if not isinstance(record, dict):
                raise TypeError(f"{type(record).__name__}, where a record with fields is needed")
            fields: dict[str, Json] = {name: _as_json(value) for name, value in record.items()}
        except TypeError as error:
            yield Row(number, repr(record).encode(errors="backslashreplace"), {}, str(error))
        else:
            yield Row(number, json_text.dump_ascii(fields).encode(), fields)


def _as_json(value: Any) -> Json:
    """Avro's logical types as text, as their standards write them. TypeError for bytes, which have no form in JSON."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if value - value != 0:
                raise TypeError("a number that is not finite has no form in JSON")
            return value
        case dict():
            return {str(name): _as_json(part) for name, part in value.items()}
        case list():
            return [_as_json(part) for part in value]
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no form in JSON")


def open_input(path: str) -> BinaryIO:
    """A seekable stream of the input, which is read twice: what cannot be rewound is copied to a temporary file."""
    if path == "-":
        return _spooled(sys.stdin.buffer)
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if stream.seekable():
        return stream
    with stream:
        return _spooled(stream)


def _spooled(stream: BinaryIO) -> BinaryIO:
    import shutil
    import tempfile

    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy
