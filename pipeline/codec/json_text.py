"""JSON text, strictly: no NaN, no Infinity, no number beyond a float. What is read can be written."""

import json
from typing import NoReturn

from pipeline.records import Json

# check_circular off: a value that holds itself ends in RecursionError, which becomes EncodeError.
dump = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
).encode

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


def load(text: str) -> Json:
    """The value of a JSON text. ValueError or RecursionError when it is none."""
    value: Json = _decoder.decode(text)
    return value
