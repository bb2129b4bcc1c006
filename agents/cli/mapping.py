"""`--map`: which column of a row becomes which part of an event.

    text=body            the data field `text` is the column `body`
    subject=customer     an attribute of the envelope: id, source, type, subject, time
    channel==chat        the same text in every event
    id=@hash             an id made of the row's own text
    data.id=ticket       a data field whose name is also an attribute's

`id=@hash` is the first 32 hex digits of the SHA-256 of the row's text, a hyphen, and which occurrence of that text
it is in the file. So publishing the same file again gives the same ids, equal rows stay distinct, and inserting a
line elsewhere changes nothing. It costs about 70 bytes of memory a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

from agents.cli.sources import Row
from pipeline.config import nearest
from pipeline.errors import ConfigError, LockgateError
from pipeline.records import Json

ATTRIBUTES = ("id", "source", "type", "subject", "time")
_DATA = "data."
_HASH = "@hash"


class Unfit(LockgateError):
    """A row that cannot be published as it is. `column` is where to look, if one column is to blame."""

    def __init__(self, what: str, column: str | None = None) -> None:
        super().__init__(f"column {column!r}: {what}" if column is not None else what)


class From(Enum):
    """Where the value of a target comes from."""

    COLUMN = auto()
    CONSTANT = auto()
    HASH = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """One `--map`. `target` is an attribute or, when `in_data`, a data field."""

    target: str
    in_data: bool
    origin: From
    argument: str


class RowIds:
    """The `@hash` ids of one pass over a file."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._again: dict[int, int] = {}

    def next(self, text: bytes) -> str:
        """The id of the next row with this text."""
        digest = sha256(text).digest()
        # Half of the digest in memory: two texts that share it get another number each, and stay distinct.
        short = int.from_bytes(digest[:8], "big")
        occurrence = 1
        if short in self._seen:
            occurrence = self._again[short] = self._again.get(short, 1) + 1
        else:
            self._seen.add(short)
        return f"{digest[:16].hex()}-{occurrence}"


@dataclass(frozen=True, slots=True)
class RowMap:
    """All rules of a command."""

    rules: tuple[Rule, ...]

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [rule.argument for rule in self.rules if rule.origin is From.COLUMN]

    def column_of(self, target: str, *, in_data: bool) -> str | None:
        """The column that a target comes from, for messages."""
        for rule in self.rules:
            if (rule.target, rule.in_data, rule.origin) == (target, in_data, From.COLUMN):
                return rule.argument
        return None

    def envelope(self, row: Row, ids: RowIds) -> dict[str, Json]:
        """The event of a row, in the same form as a JSON line. What a row does not hold is left out."""
        envelope: dict[str, Json] = {}
        data: dict[str, Json] = {}
        for rule in self.rules:
            value = self._value(rule, row, ids)
            if value is None:
                continue
            if rule.in_data:
                data[rule.target] = value
            elif isinstance(value, str):
                envelope[rule.target] = value
            elif isinstance(value, int) and not isinstance(value, bool):
                envelope[rule.target] = str(value)
            else:
                raise Unfit(f"{rule.target} must be a text, not {type(value).__name__}", rule.argument)
        return envelope | {"data": data}

    def _value(self, rule: Rule, row: Row, ids: RowIds) -> Json:
        match rule.origin:
            case From.COLUMN:
                return row.fields.get(rule.argument)
            case From.CONSTANT:
                return rule.argument
            case From.HASH:
                return ids.next(row.text)


def parse_rules(texts: Iterable[str]) -> RowMap | None:
    """The rules as written on the command line; None when there are none. ConfigError says what is wrong."""
    rules = [_parse(text) for text in texts]
    targets = [(rule.target, rule.in_data) for rule in rules]
    for rule in rules:
        if targets.count((rule.target, rule.in_data)) > 1:
            raise ConfigError(f"--map names {rule.target} twice: give it one column")
    return RowMap(tuple(rules)) if rules else None


def map_by_name(columns: Iterable[str]) -> RowMap:
    """What holds for a CSV without `--map`: each column is the attribute or the data field of its name."""
    return RowMap(tuple(Rule(*_target(name), From.COLUMN, name) for name in columns))


def refuse_unknown_columns(row_map: RowMap, columns: tuple[str, ...]) -> None:
    """ConfigError when a rule reads a column that the header does not name."""
    for name in row_map.columns:
        if name not in columns:
            raise ConfigError(f"--map: the header has no column {name!r}; {nearest(name, columns)}")


def _parse(text: str) -> Rule:
    target, sign, argument = text.partition("=")
    if not sign or not target or not argument:
        raise ConfigError(f"--map {text}: write FIELD=COLUMN, FIELD==TEXT, or id=@hash")
    name, in_data = _target(target)
    if not name:
        raise ConfigError(f"--map {text}: name a field after data.")
    if argument.startswith("="):
        return Rule(name, in_data, From.CONSTANT, argument[1:])
    if argument == _HASH:
        if in_data or name != "id":
            raise ConfigError(f"--map {text}: {_HASH} makes an id, so only id={_HASH} can be")
        return Rule(name, in_data, From.HASH, "")
    return Rule(name, in_data, From.COLUMN, argument)


def _target(name: str) -> tuple[str, bool]:
    return (name, False) if name in ATTRIBUTES else (name.removeprefix(_DATA), True)
