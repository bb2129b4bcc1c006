"""The values of `pipeline.records` as bytes, each by the schema of its name."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Generic, TypeAlias, TypeVar

from fastavro import schemaless_reader, schemaless_writer

from pipeline.codec import compiled, entrance, json_text, plain
from pipeline.codec.entrance import RawHeaders
from pipeline.codec.misfit import misfit
from pipeline.codec.schemas import HEADER_BYTES, MAGIC, Schema, Schemas, shipped_schemas
from pipeline.errors import DecodeError, EncodeError
from pipeline.records import (
    Audit,
    BlockedItem,
    Case,
    CheckResult,
    ContextField,
    Decision,
    DecisionOutcome,
    Event,
    Inference,
    Json,
    OutcomeKind,
    Position,
    ReviewItem,
    ReviewVerdict,
    Verdict,
    VerdictKind,
)

Value: TypeAlias = Case | Decision | ReviewItem | BlockedItem | Audit | ReviewVerdict | DecisionOutcome
V = TypeVar("V", bound=Value)

SCHEMA_OF: dict[type, str] = {
    Case: "case",
    Decision: "decision",
    ReviewItem: "review",
    BlockedItem: "blocked",
    Audit: "audit",
    ReviewVerdict: "review_verdict",
    DecisionOutcome: "decision_outcome",
}
_PARTS = (Event, Position, ContextField, Inference, CheckResult, Verdict, VerdictKind, OutcomeKind)
KINDS: dict[str, type] = {kind.__name__: kind for kind in (*SCHEMA_OF, *_PARTS)}
"""Every named type of the schemas above, by its name in Avro."""


@dataclass(frozen=True, slots=True)
class _Form(Generic[V]):
    """How one kind of value is written and read."""

    schema: Schema
    header: bytes
    write: Callable[[V, compiled.Dump], bytes]
    read: Callable[[bytes], V]


class Codec:
    """Reads and writes every value that Lockgate exchanges. One instance serves all threads.

    Whatever was written by `encode` is read back equal, by this release and by later ones: older schema
    versions are resolved to the newest. Any bytes at all either decode or raise DecodeError, and the text of
    an error never holds a piece of the data.
    """

    def __init__(self, schemas: Schemas | None = None) -> None:
        self.schemas = schemas or shipped_schemas()
        self._forms: dict[type, _Form[Any]] = {kind: self._form(name) for kind, name in SCHEMA_OF.items()}

    def encode(self, value: Value) -> bytes:
        """The bytes of a value. EncodeError names the field that does not fit, never its content."""
        form = self._forms.get(type(value))
        if form is None:
            known = ", ".join(kind.__name__ for kind in SCHEMA_OF)
            raise EncodeError(f"{type(value).__name__} has no schema: only {known} have")
        try:
            try:
                return form.write(value, json_text.dump)
            except UnicodeEncodeError:
                return form.write(value, json_text.dump_ascii)
        except Exception as error:  # whatever it was, it is a misfit: the slow look finds out which
            raise EncodeError(f"{form.schema.name}: {_why(form.schema, value, error)}") from error

    def decode_case(self, data: bytes) -> Case:
        """The case in these bytes. DecodeError when there is none."""
        return self._decode(data, Case)

    def decode_decision(self, data: bytes) -> Decision:
        """The decision in these bytes. DecodeError when there is none."""
        return self._decode(data, Decision)

    def decode_review(self, data: bytes) -> ReviewItem:
        """The review item in these bytes. DecodeError when there is none."""
        return self._decode(data, ReviewItem)

    def decode_blocked(self, data: bytes) -> BlockedItem:
        """The blocked item in these bytes. DecodeError when there is none."""
        return self._decode(data, BlockedItem)

    def decode_audit(self, data: bytes) -> Audit:
        """The audit record in these bytes. DecodeError when there is none."""
        return self._decode(data, Audit)

    def decode_verdict(self, data: bytes) -> ReviewVerdict:
        """The verdict of people or of the clock in these bytes. DecodeError when there is none."""
        return self._decode(data, ReviewVerdict)

    def decode_outcome(self, data: bytes) -> DecisionOutcome:
        """What was reported of a decision in these bytes. DecodeError when there is none."""
        return self._decode(data, DecisionOutcome)

    def decode_event(self, value: bytes | None, headers: RawHeaders, key: bytes | None) -> Event:
        """The event in a record of workflow-events, by the rules of `pipeline.codec.entrance`."""
        return entrance.decode_event(lambda data: self.read(data)[1], value, headers, key)

    def encode_event(self, data: dict[str, Json], schema: str | None = None) -> bytes:
        """The value of a record of workflow-events: Avro by the named schema, or JSON when none is named."""
        try:
            if schema is not None:
                return _write(self.schemas.newest(schema), data)
            return json_text.dump(data).encode()
        except UnicodeEncodeError:
            if schema is None:
                return json_text.dump_ascii(data).encode()
            raise EncodeError(f"{schema}: a text holds half a surrogate pair") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            where = misfit(self.schemas.newest(schema).parsed, data) if schema else None
            raise EncodeError(f"{schema or 'JSON'}: {where or type(error).__name__}") from error

    def read(self, data: bytes) -> tuple[Schema, Any]:
        """Schema and plain content of bytes in wire format, as written: not resolved to the newest."""
        schema = self.schema_of(data)
        return schema, _read(data, schema, schema)

    def schema_of(self, data: bytes) -> Schema:
        """The schema whose id stands in front of these bytes. DecodeError when there is none."""
        if len(data) < HEADER_BYTES or data[:1] != MAGIC:
            raise DecodeError("not in Confluent wire format: no 0x00 and schema id in front")
        number = int.from_bytes(data[1:HEADER_BYTES], "big")
        schema = self.schemas.by_id.get(number)
        if schema is None:
            raise DecodeError(f"schema id {number} is not known here")
        return schema

    def _form(self, name: str) -> _Form[Any]:
        schema = self.schemas.newest(name)
        return _Form(schema, schema.header, compiled.writer(schema, KINDS), compiled.reader(schema, KINDS))

    def _decode(self, data: bytes, kind: type[V]) -> V:
        form: _Form[V] = self._forms[kind]
        if data[:HEADER_BYTES] != form.header:
            return self._decode_older(data, form)
        try:
            return form.read(data)
        except Exception as error:  # broken bytes fail in many ways, all of which mean the same
            raise DecodeError(f"{form.schema.name}: {_reason(error)}") from error

    def _decode_older(self, data: bytes, form: _Form[V]) -> V:
        written = self.schema_of(data)
        if written.name != form.schema.name:
            raise DecodeError(f"schema id {written.id} is {written.name}, where {form.schema.name} was expected")
        content = _read(data, written, form.schema)
        try:
            value: V = plain.from_plain(form.schema.parsed, content, KINDS)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"{written.name}: {_reason(error)}") from error
        return value


def _write(schema: Schema, content: Any) -> bytes:
    out = BytesIO()
    out.write(schema.header)
    schemaless_writer(out, schema.parsed, content)
    return out.getvalue()


def _read(data: bytes, written: Schema, wanted: Schema) -> Any:
    source = BytesIO(data)
    source.seek(HEADER_BYTES)
    try:
        content = schemaless_reader(source, written.parsed, None if written is wanted else wanted.parsed)
    except Exception as error:  # fastavro documents no closed set: broken bytes have raised a dozen kinds
        raise DecodeError(f"{written.name}: {_reason(error)}") from error
    if source.tell() != len(data):
        raise DecodeError(f"{written.name}: bytes are left over")
    return content


def _reason(error: Exception) -> str:
    """Why bytes could not be read, in words of ours: those of a library may quote the data."""
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    return f"the bytes do not fit the schema ({type(error).__name__})"


def _why(schema: Schema, value: Value, error: Exception) -> str:
    try:
        content = plain.to_plain(schema.parsed, value, json_text.dump_ascii)
    except (ValueError, TypeError, RecursionError) as inner:
        return f"a part is not JSON ({type(inner).__name__})"
    except AttributeError as inner:
        return f"a part has the wrong type ({inner})"
    return misfit(schema.parsed, content) or type(error).__name__
