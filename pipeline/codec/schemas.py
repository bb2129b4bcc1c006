"""The schema files as a registry: which id stands in front of which bytes, for ever.

`schemas/NAME.avsc` is the newest form of a schema, `schemas/NAME.vN.avsc` an older one that bytes may still
carry, and `schemas/ids.yaml` the ids of them all. An id comes from the fingerprint of its schema, so an edit
that forgets the id is caught when the files are loaded.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastavro import parse_schema
from fastavro.schema import fingerprint, to_parsing_canonical_form
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from pipeline.config import explain, read_yaml
from pipeline.errors import ConfigError
from pipeline.share import share

MAGIC = b"\x00"
HEADER_BYTES = 5  # magic and a 4-byte id


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one schema, ready for use."""

    name: str
    version: int
    id: int
    parsed: dict[str, Any]  # as fastavro wants it, logical types taken off: what is read is plain JSON
    newest: bool

    @property
    def header(self) -> bytes:
        """What stands before every value of this schema."""
        return MAGIC + self.id.to_bytes(4, "big")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1)]
    id: Annotated[int, Field(ge=1, lt=2**31)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Ids(RootModel[dict[str, Annotated[list[_Entry], Field(min_length=1)]]]):
    pass


class Schemas:
    """All schemas of one folder. Loading checks each file against `ids.yaml`: ConfigError on any doubt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._newest: dict[str, Schema] = {}
        self.by_id: dict[int, Schema] = {}
        for name, entries in self._ids().items():
            for position, entry in enumerate(entries, start=1):
                self._add(name, entry, position, newest=position == len(entries))
        self._refuse_files_without_id()

    def newest(self, name: str) -> Schema:
        """The schema that values of this name are written with. ConfigError when there is none."""
        try:
            return self._newest[name]
        except KeyError:
            raise ConfigError(f"no schema {name!r} in {self.folder}: there are {', '.join(self.names)}") from None

    @property
    def names(self) -> list[str]:
        """Every schema name, sorted."""
        return sorted(self._newest)

    def file(self, name: str, version: int, *, newest: bool) -> Path:
        """Where a version lies."""
        return self.folder / (f"{name}.avsc" if newest else f"{name}.v{version}.avsc")

    def _ids(self) -> dict[str, list[_Entry]]:
        path = self.folder / "ids.yaml"
        try:
            return _Ids.model_validate(read_yaml(path)).root
        except ValidationError as error:
            raise ConfigError(f"{path}: {explain(error)}") from None

    def _add(self, name: str, entry: _Entry, position: int, *, newest: bool) -> None:
        path = self.file(name, entry.version, newest=newest)
        if entry.version != position:
            raise ConfigError(
                f"{self.folder / 'ids.yaml'}: version {entry.version} of {name} stands in place {position}"
            )
        raw = _read(path)
        parsed = _parse(raw, path)
        real = schema_fingerprint(raw)
        if (real, schema_id(real)) != (entry.fingerprint, entry.id):
            raise ConfigError(_changed(path, name, entry, real, newest=newest))
        schema = Schema(name, entry.version, entry.id, parsed, newest)
        if entry.id in self.by_id:
            raise ConfigError(f"{path}: id {entry.id} already means {self.by_id[entry.id].name}")
        self.by_id[entry.id] = schema
        if newest:
            self._newest[name] = schema

    def _refuse_files_without_id(self) -> None:
        known = {self.file(s.name, s.version, newest=s.newest).name for s in self.by_id.values()}
        for path in sorted(self.folder.glob("*.avsc")):
            if path.name not in known:
                raw = _read(path)
                _parse(raw, path)
                print_ = schema_fingerprint(raw)
                entry = f"{{version: 1, id: {schema_id(print_)}, fingerprint: {print_}}}"
                raise ConfigError(f"{path} has no entry in ids.yaml: add {entry}")


def schema_fingerprint(raw: Any) -> str:
    """SHA-256 of the parsing canonical form: equal for schemas that put equal bytes on the wire."""
    return str(fingerprint(to_parsing_canonical_form(raw), "SHA-256"))


def schema_id(print_: str) -> int:
    """The id that belongs to a fingerprint: its first 4 bytes with the top bit cleared."""
    return int(print_[:8], 16) & 0x7FFF_FFFF


@cache
def shipped_schemas() -> Schemas:
    """The schemas that ship with Lockgate, loaded once."""
    return Schemas(share("schemas"))


def _changed(path: Path, name: str, entry: _Entry, real: str, *, newest: bool) -> str:
    if not newest:
        return f"{path} was changed, but version {entry.version} is already on the wire: restore it from history"
    following = entry.version + 1
    return (
        f"{path} is not the schema that id {entry.id} means. Keep the old text as "
        f"{name}.v{entry.version}.avsc, then add to ids.yaml under {name}: "
        f"{{version: {following}, id: {schema_id(real)}, fingerprint: {real}}}"
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _parse(raw: Any, path: Path) -> dict[str, Any]:
    try:
        parsed = parse_schema(_plain(raw, path))
    except Exception as error:  # fastavro raises KeyError and others too on what is no schema
        raise ConfigError(f"{path} is no Avro schema: {type(error).__name__}: {error}") from error
    if not isinstance(parsed, dict) or parsed["type"] != "record":
        raise ConfigError(f"{path}: the outermost type must be a record")
    return parsed


def _plain(node: Any, path: Path) -> Any:
    """The schema without logical types, refused where what is read would not be JSON."""
    if isinstance(node, list):
        return [_plain(part, path) for part in node]
    if isinstance(node, dict):
        if node.get("type") == "fixed":
            raise ConfigError(f"{path}: fixed has no form in JSON: use a string")
        return {key: _plain(part, path) for key, part in node.items() if key != "logicalType"}
    if node == "bytes":
        raise ConfigError(f"{path}: bytes have no form in JSON: use a string")
    return node
