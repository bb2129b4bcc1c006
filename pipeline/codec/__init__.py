"""Bytes to values and back, in Confluent wire format: 0x00, schema id, Avro. Nothing else knows the wire.

`Codec` reads and writes what the stages exchange. `codec.entrance` reads what the outside world publishes.
"""

from pipeline.codec.entrance import KeyMismatch, RawHeaders, event_headers
from pipeline.codec.schemas import Schemas
from pipeline.codec.values import Codec, Value

__all__ = ["Codec", "KeyMismatch", "RawHeaders", "Schemas", "Value", "event_headers"]
