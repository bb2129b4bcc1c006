"""From a row to the record that will lie in workflow-events, or to the reason why it cannot.

What passes here is what the entrance of the pipeline accepts: the finished record is decoded once more by the
entrance's own code, so that publishing makes no dead letters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agents.cli.mapping import ATTRIBUTES, RowIds, RowMap, Unfit
from agents.cli.sources import Form, Row
from pipeline.codec import Codec, event_headers
from pipeline.codec.entrance import JSON
from pipeline.codec.misfit import misfit
from pipeline.config import nearest
from pipeline.errors import DecodeError, EncodeError
from pipeline.records import Event, Headers, Json

_TRACE = "traceparent"
_KNOWN = (*ATTRIBUTES, "data", _TRACE, "specversion", "datacontenttype")
_RECORD_OVERHEAD = 512  # of a batch that holds one record, rounded up


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is ready to be sent."""

    line: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int = 0
    """0: the time of sending."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """How the rows of one file become records."""

    codec: Codec
    form: Form
    row_map: RowMap | None
    """None: each row is an event in itself, with its attributes and its data."""
    defaults: Mapping[str, str]
    """Attributes of rows that do not bring their own."""
    schema: str | None
    """Avro by this schema, or None for JSON."""
    max_bytes: int
    """What the topic takes."""

    def draft(self, row: Row, ids: RowIds, *, check: bool = True) -> Draft:
        """The record of a row. Unfit says what is wrong with it and where.

        `check=False` leaves out the decoding, for a row that passed it before.
        """
        if row.fault is not None:
            raise Unfit(row.fault)
        envelope = dict(row.fields) if self.row_map is None else self.row_map.envelope(row, ids)
        event = self._event({**self.defaults, **_filled(envelope)})
        value = self._value(event.data)
        headers = event_headers(event, JSON if self.schema is None else "application/avro")
        trace = envelope.get(_TRACE)
        if isinstance(trace, str):
            headers = (*headers, (_TRACE, trace.encode()))
        key = None if event.subject is None else event.subject.encode()
        if check:
            self._check(key, value, headers)
        return Draft(row.line, key, value, headers)

    def _event(self, envelope: Mapping[str, Json]) -> Event:
        for name in envelope:
            if name not in _KNOWN:
                raise Unfit(
                    f"unknown attribute {name!r}; {nearest(name, _KNOWN)}. What belongs to the event goes into data"
                )
        if envelope.get("specversion", "1.0") != "1.0":
            raise Unfit("specversion must be 1.0")
        if envelope.get("datacontenttype", JSON) != JSON:
            raise Unfit(f"datacontenttype must be {JSON}: data is a JSON object here, however it is encoded")
        texts = {name: self._text(envelope, name) for name in (*ATTRIBUTES, _TRACE)}
        source, id_, type_ = (self._required(texts, name) for name in ("source", "id", "type"))
        if texts["time"] is not None:
            _refuse_bad_time(texts["time"], self._column("time"))
        data = envelope.get("data")
        if not isinstance(data, dict):
            raise Unfit("data is missing: it holds what the event is about, as a JSON object")
        return Event(source, id_, type_, texts["subject"], texts["time"], data)

    def _text(self, envelope: Mapping[str, Json], name: str) -> str | None:
        value = envelope.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Unfit(f"{name} must be a text: write it in quotes", self._column(name))
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit(f"{name} holds half a surrogate pair", self._column(name)) from None
        return value

    def _required(self, texts: Mapping[str, str | None], name: str) -> str:
        value = texts[name]
        if value:
            return value
        if self.row_map is None:
            raise Unfit(f"{name} is missing: {_REMEDY[name]}")
        raise Unfit(f"{name} is missing: {_REMEDY_MAPPED[name]}", self._column(name))

    def _value(self, data: dict[str, Json]) -> bytes:
        if self.schema is None:
            return self._encode(data)
        parsed = self.codec.schemas.newest(self.schema).parsed
        fields = {field["name"]: field["type"] for field in parsed["fields"]}
        for name in data:
            if name not in fields:
                raise Unfit(
                    f"data.{name} is not in the schema {self.schema}; {nearest(name, fields)}. "
                    "Leave it out, or publish with --encoding json",
                    self._data_column(name),
                )
        if self.form is Form.CSV:
            data = {name: _typed(fields[name], value, name, self._data_column(name)) for name, value in data.items()}
        return self._encode(data)

    def _encode(self, data: dict[str, Json]) -> bytes:
        try:
            return self.codec.encode_event(data, self.schema)
        except EncodeError as error:
            where = misfit(self.codec.schemas.newest(self.schema).parsed, data) if self.schema else None
            if where is None:
                raise Unfit(f"data: {error}") from None
            name, _, what = where.partition(": ")
            if "." not in name and data.get(name) is None:  # with a dot it is a field inside a field
                what = f"missing, and the schema {self.schema} requires it"
            raise Unfit(f"data.{name}: {what}", self._data_column(name)) from None

    def _check(self, key: bytes | None, value: bytes, headers: Headers) -> None:
        size = len(key or b"") + len(value) + sum(len(name) + len(content or b"") for name, content in headers)
        if size + _RECORD_OVERHEAD > self.max_bytes:
            raise Unfit(f"{size:,} bytes, where workflow-events takes {self.max_bytes:,}: make the event smaller")
        try:
            self.codec.decode_event(value, headers, key)
        except DecodeError as error:
            raise Unfit(f"the pipeline would not take it: {error}") from None

    def _column(self, name: str) -> str | None:
        return self.row_map.column_of(name, in_data=False) if self.row_map else None

    def _data_column(self, name: str) -> str | None:
        return self.row_map.column_of(name, in_data=True) if self.row_map else None


_REMEDY = {
    "id": "each event needs one of its own, `id` in the line",
    "source": "say who publishes, `source` in the line or --source for all",
    "type": "say what happened, `type` in the line or --type for all",
}
_REMEDY_MAPPED = {
    "id": "--map id=COLUMN, or id=@hash to make ids of the rows",
    "source": "--source for all, or --map source=COLUMN",
    "type": "--type for all, or --map type=COLUMN",
}


def _filled(envelope: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in envelope.items() if value is not None}


def _refuse_bad_time(text: str, column: str | None) -> None:
    try:
        zone = datetime.fromisoformat(text).tzinfo
    except ValueError:
        zone = None
    if zone is None or "T" not in text.upper():
        raise Unfit(f"time {text!r} is not as RFC 3339 wants it, such as 2026-01-31T09:30:00Z", column)


def _typed(avro_type: Any, value: Json, name: str, column: str | None) -> Json:
    """The text of a CSV cell as the schema's type; a text that is none is left for the schema to refuse."""
    kinds = avro_type if isinstance(avro_type, list) else [avro_type]
    if not isinstance(value, str) or "string" in kinds:
        return value
    try:
        if "long" in kinds or "int" in kinds:
            return int(value)
        if "double" in kinds or "float" in kinds:
            return float(value)
    except ValueError:
        raise Unfit(f"data.{name}: {value!r} is not a number", column) from None
    if "boolean" in kinds:
        if value.lower() not in ("true", "false"):
            raise Unfit(f"data.{name}: {value!r} is neither true nor false", column)
        return value.lower() == "true"
    return value
