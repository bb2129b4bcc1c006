"""The entrance: what the outside world may publish to workflow-events, and how it becomes an Event.

The envelope is CloudEvents 1.0, in binary mode (`ce_*` headers beside a value that is a JSON object, or Avro
in Confluent wire format by any schema in `schemas/`), or in structured mode (content-type
`application/cloudevents+json`). Everything else is poison and raises DecodeError, whose text says which
rule was broken and holds nothing of the data.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pipeline.codec import json_text
from pipeline.errors import DecodeError
from pipeline.records import Event, Headers, Json

RawHeaders: TypeAlias = Sequence[tuple[str, bytes | None]]

MAX_HEADER_BYTES = 8 * 1024
CONTENT_TYPE = "content-type"
JSON = "application/json"
STRUCTURED = "application/cloudevents+json"


class KeyMismatch(DecodeError):
    """The record key is not `ce_subject`, so the order of the subject cannot be kept.

    Its text begins with `key_mismatch`, so that such dead letters can be told apart.
    """


def decode_event(
    read_avro: Callable[[bytes], Any], value: bytes | None, headers: RawHeaders, key: bytes | None
) -> Event:
    """The event in one record. Its subject is the key as text; `ce_subject`, when present, must equal it.

    `read_avro` gives the plain content of Avro bytes in wire format, or raises DecodeError.
    """
    if not value:
        raise DecodeError("no value: an event carries a JSON object or Avro")
    envelope = _envelope(headers)
    kind = envelope.pop(CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if kind == STRUCTURED:
        return _structured(value, key)
    if kind == JSON or kind.endswith("+json") or value[0] == ord("{"):
        data = _json_object(value)
    elif value[0] == 0:
        data = _avro(read_avro(value))
    else:
        raise DecodeError("the value is neither a JSON object nor Avro in Confluent wire format")
    return _event({name.removeprefix("ce_"): text for name, text in envelope.items()}, "ce_", key, data)


def event_headers(event: Event, content_type: str | None = None) -> Headers:
    """The CloudEvents headers of an event, in binary mode."""
    texts = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": event.source,
        "ce_type": event.type,
        "ce_subject": event.subject,
        "ce_time": event.time,
        CONTENT_TYPE: content_type,
    }
    return tuple((name, text.encode()) for name, text in texts.items() if text is not None)


def _envelope(headers: RawHeaders) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        if value is not None and len(value) > MAX_HEADER_BYTES:
            raise DecodeError(f"a header of {len(value)} bytes: at most {MAX_HEADER_BYTES} are read")
        if not (name.startswith("ce_") or name.lower() == CONTENT_TYPE):
            continue
        spelt = CONTENT_TYPE if name.lower() == CONTENT_TYPE else name
        if value is None:
            raise DecodeError(f"header {spelt[:64]} has no value")
        if spelt in found:
            raise DecodeError(f"header {spelt[:64]} appears twice")
        try:
            found[spelt] = value.decode()
        except UnicodeDecodeError:
            raise DecodeError(f"header {spelt[:64]} is not UTF-8") from None
    return found


def _event(attributes: dict[str, Any], prefix: str, key: bytes | None, data: dict[str, Json]) -> Event:
    version = attributes.get("specversion", "1.0")
    if version != "1.0":
        raise DecodeError(f"{prefix}specversion is not 1.0")
    for name in ("id", "source", "type"):
        if attributes.get(name) in (None, ""):
            raise DecodeError(f"{prefix}{name} is missing: CloudEvents requires it")
    for name in ("id", "source", "type", "subject", "time"):
        _check_text(f"{prefix}{name}", attributes.get(name))
    return Event(
        attributes["source"],
        attributes["id"],
        attributes["type"],
        _subject(attributes.get("subject"), key),
        attributes.get("time"),
        data,
    )


def _check_text(name: str, text: Any) -> None:
    """From a structured event anything may come, and it must fit the headers of the records that follow."""
    if text is None:
        return
    if not isinstance(text, str):
        raise DecodeError(f"{name} is not a text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise DecodeError(f"{name} is not UTF-8") from None
    if size > MAX_HEADER_BYTES:
        raise DecodeError(f"{name} has {size} bytes: at most {MAX_HEADER_BYTES} are read")


def _subject(declared: str | None, key: bytes | None) -> str | None:
    try:
        of_key = None if key is None else key.decode()
    except UnicodeDecodeError:
        raise DecodeError("the key is not UTF-8") from None
    if declared is not None and declared != of_key:
        raise KeyMismatch("key_mismatch: the record key is not ce_subject: publish with key = ce_subject")
    return of_key


def _json_object(value: bytes) -> dict[str, Json]:
    try:
        data = json_text.load(value.decode())
    except UnicodeDecodeError:
        raise DecodeError("the JSON value is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the value is not JSON ({getattr(error, 'msg', type(error).__name__)})") from None
    if not isinstance(data, dict):
        raise DecodeError("the JSON value is not an object")
    return data


def _avro(data: dict[str, Json]) -> dict[str, Json]:
    try:
        json_text.dump(data)
    except ValueError:
        raise DecodeError("a number in the Avro value is not finite") from None
    return data


def _structured(value: bytes, key: bytes | None) -> Event:
    envelope = _json_object(value)
    data = envelope.get("data")
    if not isinstance(data, dict):
        raise DecodeError("the structured CloudEvent has no JSON object in data")
    return _event(envelope, "", key, data)
