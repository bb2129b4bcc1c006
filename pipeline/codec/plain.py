"""A value as the plain content that its schema describes, and back: for older schema versions and for errors.

The slow way, for bytes that `compiled` does not read: fastavro resolves them, this makes the value of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.codec import json_text


def to_plain(node: Any, value: Any, dump: Callable[[Any], str], json: str | None = None) -> Any:
    """The content that fastavro writes for a value. Whatever does not fit stays as it is."""
    match node:
        case [*branches]:
            inner = next(branch for branch in branches if branch != "null")
            return None if value is None else to_plain(inner, value, dump, json)
        case {"type": "record", "fields": fields}:
            return {f["name"]: to_plain(f["type"], getattr(value, f["name"]), dump, f.get("json")) for f in fields}
        case {"type": "array", "items": inner}:
            return [to_plain(inner, item, dump) for item in value]
        case {"type": "map"}:
            return dict(value)
        case _:
            return dump(value) if json else value


def from_plain(node: Any, plain: Any, kinds: Mapping[str, type], json: str | None = None) -> Any:
    """The value of content that fastavro read. ValueError when a JSON part is none."""
    match node:
        case [*branches]:
            inner = next(branch for branch in branches if branch != "null")
            return None if plain is None else from_plain(inner, plain, kinds, json)
        case {"type": "record", "name": name, "fields": fields}:
            return kinds[name.rpartition(".")[2]](
                **{f["name"]: from_plain(f["type"], plain[f["name"]], kinds, f.get("json")) for f in fields}
            )
        case {"type": "enum", "name": name}:
            return kinds[name.rpartition(".")[2]](plain)
        case {"type": "array", "items": inner}:
            return tuple(from_plain(inner, item, kinds) for item in plain)
        case _:
            return json_text.LOAD[json](plain) if json else plain
