"""JSON text, strictly: no NaN, no Infinity, no number beyond a float. What is read can be written."""

import json
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from pipeline.records import Json

# check_circular off: a value that holds itself ends in RecursionError, which becomes EncodeError.
dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode

# Half a surrogate pair (JSON can spell it, UTF-8 cannot) survives only as an escape.
dump_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError("a number is too large")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
_scan = _decoder.scan_once  # type: ignore[attr-defined]  # public, but not in the stubs


def load(text: str) -> Json:
    """The value of a JSON text. ValueError or RecursionError when it is none."""
    value: Json
    try:
        value, end = _scan(text, 0)  # what we wrote has no space around it, and this saves looking for it
    except StopIteration:
        end = -1
    if end != len(text):
        value = _decoder.decode(text)
    return value


def load_object(text: str) -> dict[str, Json]:
    """The value of a JSON text that holds an object. ValueError or RecursionError when it holds none."""
    value = load(text)
    if not isinstance(value, dict):
        raise ValueError("the JSON is not an object")  # noqa: TRY004 - a fault of the text, as the others
    return value


LOAD: Final[Mapping[str, Callable[[str], Json]]] = {"value": load, "object": load_object}
"""How each kind of JSON part that a schema may mark is read."""
