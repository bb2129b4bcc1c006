"""The values of `pipeline.records` as Avro, each by the schema of its name."""

from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeAlias, TypeVar

from fastavro import schemaless_reader, schemaless_writer

from pipeline.codec import entrance, json_text, records_avro
from pipeline.codec.entrance import RawHeaders
from pipeline.codec.misfit import misfit
from pipeline.codec.schemas import HEADER_BYTES, MAGIC, Schema, Schemas, shipped_schemas
from pipeline.errors import DecodeError, EncodeError
from pipeline.records import Audit, BlockedItem, Case, Decision, Event, Json, ReviewItem

Value: TypeAlias = Case | Decision | ReviewItem | BlockedItem | Audit
V = TypeVar("V")

SCHEMA_OF: dict[type, str] = {
    Case: "case",
    Decision: "decision",
    ReviewItem: "review",
    BlockedItem: "blocked",
    Audit: "audit",
}


class Codec:
    """Reads and writes every value that Lockgate exchanges. One instance serves all threads.

    Whatever was written by `encode` is read back equal, by this release and by later ones: older schema
    versions are resolved to the newest. Any bytes at all either decode or raise DecodeError, and the text of
    an error never holds a piece of the data.
    """

    def __init__(self, schemas: Schemas | None = None) -> None:
        self.schemas = schemas or shipped_schemas()
        self._newest = {kind: self.schemas.newest(name) for kind, name in SCHEMA_OF.items()}
        self._headers = {kind: schema.header for kind, schema in self._newest.items()}

    def encode(self, value: Value) -> bytes:
        """The bytes of a value. EncodeError names the field that does not fit, never its content."""
        kind = type(value)
        schema = self._newest.get(kind)
        if schema is None:
            raise EncodeError(
                f"{kind.__name__} has no schema: only {', '.join(k.__name__ for k in SCHEMA_OF)} have"
            )
        try:
            return _write(schema, records_avro.to_avro(value, json_text.dump))
        except UnicodeEncodeError:
            pass
        except Exception as error:
            raise EncodeError(f"{schema.name}: {_why(schema, value, error)}") from error
        try:
            return _write(schema, records_avro.to_avro(value, json_text.dump_ascii))
        except Exception as error:
            raise EncodeError(f"{schema.name}: {_why(schema, value, error)}") from error

    def decode_case(self, data: bytes) -> Case:
        """The case in these bytes. DecodeError when there is none."""
        return self._decode(data, Case, records_avro.case)

    def decode_decision(self, data: bytes) -> Decision:
        """The decision in these bytes. DecodeError when there is none."""
        return self._decode(data, Decision, records_avro.decision)

    def decode_review(self, data: bytes) -> ReviewItem:
        """The review item in these bytes. DecodeError when there is none."""
        return self._decode(data, ReviewItem, records_avro.review)

    def decode_blocked(self, data: bytes) -> BlockedItem:
        """The blocked item in these bytes. DecodeError when there is none."""
        return self._decode(data, BlockedItem, records_avro.blocked)

    def decode_audit(self, data: bytes) -> Audit:
        """The audit record in these bytes. DecodeError when there is none."""
        return self._decode(data, Audit, records_avro.audit)

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

    def _decode(self, data: bytes, kind: type[V], build: Callable[[Any], V]) -> V:
        newest = self._newest[kind]
        written = newest if data[:HEADER_BYTES] == self._headers[kind] else self.schema_of(data)
        if written.name != newest.name:
            raise DecodeError(f"schema id {written.id} is {written.name}, where {newest.name} was expected")
        plain = _read(data, written, newest)
        try:
            return build(plain)
        except (ValueError, TypeError, RecursionError) as error:
            raise DecodeError(f"{newest.name}: {type(error).__name__} in a JSON part") from error


def _write(schema: Schema, plain: Any) -> bytes:
    out = BytesIO()
    out.write(schema.header)
    schemaless_writer(out, schema.parsed, plain)
    return out.getvalue()


def _read(data: bytes, written: Schema, wanted: Schema) -> Any:
    source = BytesIO(data)
    source.seek(HEADER_BYTES)
    try:
        plain = schemaless_reader(source, written.parsed, None if written is wanted else wanted.parsed)
    except Exception as error:  # fastavro documents no closed set: broken bytes have raised a dozen kinds
        raise DecodeError(f"{written.name}: not Avro ({type(error).__name__})") from error
    if source.tell() != len(data):
        raise DecodeError(f"{written.name}: {len(data) - source.tell()} bytes left over")
    return plain


def _why(schema: Schema, value: Value, error: Exception) -> str:
    try:
        plain = records_avro.to_avro(value, json_text.dump_ascii)
    except (ValueError, TypeError, AttributeError, RecursionError) as inner:
        return f"a part is not JSON ({type(inner).__name__})"
    return misfit(schema.parsed, plain) or type(error).__name__
