"""Writes and reads one dataclass by one schema, in straight-line code made from the schema when it is loaded.

Every stage decodes and encodes every event. fastavro goes through a dict for each record and tries the
branches of each union; code that knows the fields takes half of that time. A field `f` of a record `R` is the
attribute `f` of the dataclass `R`, and `"json"` in the schema marks text that holds a JSON part ("object" or
"value"). Contract tests hold what is made here to the bytes and the verdicts of fastavro.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from pipeline.codec import json_text
from pipeline.codec.schemas import HEADER_BYTES, Schema
from pipeline.errors import ConfigError

Dump: TypeAlias = Callable[[Any], str]
Kinds: TypeAlias = Mapping[str, type]
Lines: TypeAlias = list[str]

_DOUBLE = struct.Struct("<d")


class _Varints(dict[int, bytes]):
    """Avro's encoding of integers in a range; the small ones are remembered."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._limit = 1 << (bits - 1)

    def __missing__(self, number: int) -> bytes:
        if not -self._limit <= number < self._limit:
            raise OverflowError("an integer is out of range")
        rest = (number << 1) ^ (number >> 63)
        out = bytearray()
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
        if -1 <= number < 4096:
            self[number] = bytes(out)
        return bytes(out)


def _varint(data: bytes, at: int, limit: int) -> tuple[int, int]:
    """The integer at a place and the place after it. ValueError out of [-limit, limit), IndexError at the end."""
    rest = shift = 0
    while True:
        byte = data[at]
        at += 1
        rest |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            break
        shift += 7
        if shift > 63:
            raise ValueError("an integer is too long")
    number = (rest >> 1) ^ -(rest & 1)
    if not -limit <= number < limit:
        raise ValueError("an integer is out of range")
    return number, at


def _length(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at, 1 << 63)
    if number < 0:
        raise ValueError("a length is negative")
    return number, at


def writer(schema: Schema, kinds: Kinds) -> Callable[[Any, Dump], bytes]:
    """A function that gives the bytes of a value, header included. Its second argument writes the JSON parts.

    What does not fit raises an exception of some kind; only UnicodeEncodeError has a meaning: a text with half
    a surrogate pair.
    """
    source = _Writer(kinds)
    items = source.items(schema.parsed, "value")
    source.define("write", "value, dump", [f"return join(({schema.header!r}, {items}))"])
    return source.function("write", schema)  # type: ignore[no-any-return]


def reader(schema: Schema, kinds: Kinds) -> Callable[[bytes], Any]:
    """A function that gives the value of bytes whose header was checked already.

    What is no such value raises an exception of some kind: no bytes at all are read half.
    """
    source = _Reader(kinds)
    lines = [f"i = {HEADER_BYTES}", *source.read(schema.parsed, "value")]
    lines += ["if i != len(d): raise ValueError('bytes are missing or left over')", "return value"]
    source.define("read", "d", lines)
    return source.function("read", schema)  # type: ignore[no-any-return]


class _Source:
    """Functions under construction, with the names that they use."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.names: dict[str, Any] = {}
        self._text: Lines = []
        self._count = 0

    def fresh(self, prefix: str, value: Any = None) -> str:
        self._count += 1
        name = f"{prefix}{self._count}"
        if value is not None:
            self.names[name] = value
        return name

    def define(self, name: str, arguments: str, lines: Iterable[str]) -> None:
        self._text += [f"def {name}({arguments}):", *indent(lines)]

    def function(self, name: str, schema: Schema) -> Any:
        code = compile("\n".join(self._text), f"<{schema.name} version {schema.version}: {name}>", "exec")
        exec(code, self.names)  # noqa: S102 - made above from a schema of ours; no input reaches it
        return self.names[name]


def indent(lines: Iterable[str]) -> Lines:
    return [f"    {line}" for line in lines]


class _Writer(_Source):
    """Each type becomes the items of a tuple of bytes, which is joined at the end."""

    def __init__(self, kinds: Kinds) -> None:
        super().__init__(kinds)
        self.names |= {"join": b"".join, "L": _Varints(64), "I": _Varints(32), "D": _DOUBLE.pack}

    def items(self, node: Any, value: str, json: str | None = None) -> str:  # noqa: PLR0911 - one for each type
        """The bytes of `value`, as expressions with commas between them."""
        match node:
            case [*branches]:
                return self._union(branches, value, json)
            case {"type": "record", "fields": fields}:
                return ", ".join(self.items(f["type"], f"{value}.{f['name']}", f.get("json")) for f in fields)
            case {"type": "enum", "symbols": symbols}:
                places = {symbol: _Varints(32)[place] for place, symbol in enumerate(symbols)}
                return f"{self.fresh('E', places)}[{value}]"
            case {"type": "array", "items": inner}:
                return f"*{self._blocks('x', self.items(inner, 'x'), 'items')}({value}, dump)"
            case {"type": "map", "values": inner}:
                pair = f"{self.items('string', 'k')}, {self.items(inner, 'x')}"
                return f"*{self._blocks('k, x', pair, 'items.items()')}({value}, dump)"
            case "string":
                return f"L[len(s := {f'dump({value})' if json else value}.encode())], s"
            case "double":
                return f"D({value})"
            case "int":
                return f"I[{value}]"
            case "long":
                return f"L[{value}]"
            case _:
                raise ConfigError(f"a value of Lockgate cannot have the Avro type {node}")

    def _union(self, branches: list[Any], value: str, json: str | None) -> str:
        null, inner = _optional(branches)
        some = self.fresh("v")
        nothing, something = (_Varints(32)[place] for place in (null, 1 - null))
        inside = f"{something!r}, {self.items(inner, some, json)}"
        return f"*(({nothing!r},) if ({some} := {value}) is None else ({inside}))"

    def _blocks(self, each: str, inside: str, over: str) -> str:
        name = self.fresh("blocks")
        self.define(
            name,
            "items, dump",
            [
                "if not items: return (b'\\0',)",
                "p = [L[len(items)]]",
                f"for {each} in {over}: p += ({inside},)",
                "p.append(b'\\0')",
                "return p",
            ],
        )
        return name


class _Reader(_Source):
    """Each type becomes lines that read at `i` in `d`, move `i` and leave the value in a variable."""

    def __init__(self, kinds: Kinds) -> None:
        super().__init__(kinds)
        self.names |= {"varint": _varint, "length": _length, "D": _DOUBLE.unpack_from}
        self.names |= {f"json_{kind}": load for kind, load in json_text.LOAD.items()}

    def read(self, node: Any, into: str, json: str | None = None) -> Lines:  # noqa: PLR0911 - one for each type
        """Lines that leave the value in the variable `into`."""
        match node:
            case [*branches]:
                return self._union(branches, into, json)
            case {"type": "record", "name": name, "fields": fields}:
                return self._record(self.kinds[name.rpartition(".")[2]], fields, into)
            case {"type": "enum", "name": name, "symbols": symbols}:
                members = self.fresh("E", dict(enumerate(map(self.kinds[name.rpartition(".")[2]], symbols))))
                return [*_integer("n", 1 << 31), f"{into} = {members}[n]"]
            case {"type": "array", "items": inner}:
                item = self.fresh("v")
                lines = self._blocks([*self.read(inner, item), f"{into}.append({item})"])
                return [f"{into} = []", *lines, f"{into} = tuple({into})"]
            case {"type": "map", "values": inner}:
                key, item = self.fresh("k"), self.fresh("v")
                pair = [*self.read("string", key), *self.read(inner, item), f"{into}[{key}] = {item}"]
                return [f"{into} = {{}}", *self._blocks(pair)]
            case "string":
                text = "d[i:j].decode()"
                return [
                    "n = d[i]; i += 1",
                    "if n > 127: n, i = length(d, i - 1)",
                    "elif n & 1: raise ValueError('a length is negative')",
                    "else: n >>= 1",
                    "j = i + n",
                    f"{into} = {f'json_{json}({text})' if json else text}",
                    "i = j",
                ]
            case "double":
                return [f"{into}, = D(d, i); i += 8"]
            case "int":
                return _integer(into, 1 << 31)
            case "long":
                return _integer(into, 1 << 63)
            case _:
                raise ConfigError(f"a value of Lockgate cannot have the Avro type {node}")

    def _record(self, kind: type, fields: list[dict[str, Any]], into: str) -> Lines:
        if [f["name"] for f in fields] != [f.name for f in dataclasses.fields(kind)]:
            raise ConfigError(f"the schema and the class of {kind.__name__} differ in their fields")
        parts = [self.fresh("v") for _ in fields]
        lines = []
        for part, field in zip(parts, fields, strict=True):
            lines += self.read(field["type"], part, field.get("json"))
        return [*lines, f"{into} = {self.fresh('K', kind)}({', '.join(parts)})"]

    def _union(self, branches: list[Any], into: str, json: str | None) -> Lines:
        null, inner = _optional(branches)
        return [
            "n = d[i]; i += 1",
            f"if n == {2 * null}: {into} = None",
            f"elif n == {2 * (1 - null)}:",
            *indent(self.read(inner, into, json)),
            "else: raise ValueError('no such branch of a union')",
        ]

    def _blocks(self, each: Lines) -> Lines:
        count = self.fresh("c")
        return [
            "while True:",
            *indent(_integer(count, 1 << 63)),
            f"    if {count} == 0: break",
            f"    if {count} < 0:  # other writers put the size in bytes behind a negative count",
            f"        {count} = -{count}; n, i = length(d, i)",
            f"    for _ in range({count}):",
            *indent(indent(each)),
        ]


def _integer(into: str, limit: int) -> Lines:
    return [
        "n = d[i]; i += 1",
        f"if n > 127: {into}, i = varint(d, i - 1, {limit})",
        f"else: {into} = (n >> 1) ^ -(n & 1)",
    ]


def _optional(branches: list[Any]) -> tuple[int, Any]:
    """Place of null in a union of null and one other type, and that type."""
    if len(branches) != 2 or "null" not in branches:
        raise ConfigError(f"a value of Lockgate cannot have the union {branches}: only null and one other type")
    null = branches.index("null")
    return null, branches[1 - null]
