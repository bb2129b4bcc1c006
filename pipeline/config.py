"""Settings of one installation: where the broker is, which environment this is, where files lie.

They come from `lockgate.yaml` (optional), then from the environment, which wins. Whatever is not known is
refused with the nearest known name, because a misspelt setting that is ignored does harm in silence.
"""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.errors import ConfigError

_VARIABLES = {
    "LOCKGATE_ENVIRONMENT": "environment",
    "LOCKGATE_SLOT": "slot",
    "LOCKGATE_DATA_DIR": "data_dir",
    "LOCKGATE_CACHE": "cache_dir",
    "LOCKGATE_CONTEXT_MAX_ENTRIES": "context_max_entries",
    "LOCKGATE_CONTEXT_MAX_BYTES": "context_max_bytes",
    "LOCKGATE_CONTEXT_PATIENCE_S": "context_patience_s",
    "KAFKA_BOOTSTRAP_SERVERS": "bootstrap_servers",
}

# What the engine's promises rest on, or what is a setting of its own. Set here, it would be lost or do harm.
_OURS = frozenset({
    "bootstrap.servers", "metadata.broker.list", "group.id", "group.instance.id", "transactional.id",
    "enable.auto.commit", "enable.auto.offset.store", "enable.idempotence", "isolation.level",
    "auto.offset.reset", "acks", "request.required.acks", "partition.assignment.strategy", "partitioner",
})  # fmt: skip
_SECRET_WORDS = ("password", "passphrase", "secret", "key.pem", "oauthbearer.config", "jaas")

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Settings(BaseModel):
    """All settings, checked and unchangeable. Secrets are hidden in `repr` and `shown`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: str | None = None
    """host:port[,host:port]; None: find a broker, or start one here."""
    environment: Name = "dev"
    """Prefix of every topic, group and transactional id."""
    data_dir: Path = Path(".lockgate")
    """What must survive a restart on this machine, such as the local broker's log."""
    cache_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "lockgate")
    """What can be fetched again, such as the local broker's jars."""
    slot: Name | None = None
    """Stable, exclusive name of this process (a pod's name): part of its transactional ids."""
    context_max_entries: Annotated[int, Field(ge=1)] = 1_000_000
    """Keys of one context topic that a worker keeps in memory; with more of them it stops."""
    context_max_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
    """The same in bytes: keys, values, and 300 for each entry."""
    context_patience_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 90.0
    """How long a worker's start waits for a context topic that cannot be read on to its end."""
    kafka: dict[str, str | SecretStr] = Field(default_factory=dict)
    """Further librdkafka settings for every client, such as security.protocol."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, servers: str | None) -> str | None:
        if servers is None:
            return None
        for server in servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{server.strip()!r} is not host:port")
        return servers

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _home_is_expanded(cls, path: Path) -> Path:
        return path.expanduser()

    @field_validator("kafka", mode="before")
    @classmethod
    def _as_librdkafka_spells(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        spelt: dict[str, Any] = {}
        for name, value in given.items():
            text = str(value).lower() if isinstance(value, bool) else value
            text = str(text) if isinstance(text, int | float) else text
            spelt[name] = SecretStr(text) if isinstance(text, str) and _is_secret(name) else text
        return spelt

    @model_validator(mode="after")
    def _what_is_ours_stays_ours(self) -> Self:
        if taken := sorted(_OURS & self.kafka.keys()):
            raise ValueError(f"kafka: {', '.join(taken)} belong to Lockgate: its promises rest on them; remove them")
        return self

    def shown(self) -> dict[str, Any]:
        """The settings as plain values for people: secrets as stars."""
        plain = self.model_dump(mode="json")
        plain["kafka"] = {name: str(value) for name, value in sorted(self.kafka.items())}
        return plain


def load_settings(file: Path | None = None, env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from a file and from variables, which win. ConfigError names what is wrong and where.

    Without `file`, `lockgate.yaml` in the working directory is read when it exists.
    """
    given = _from_file(file) | _from_variables(env)
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain(error, _origin(file, env))) from None


def client_config(settings: Settings, **overrides: Any) -> dict[str, Any]:
    """The configuration of a confluent-kafka client, secrets in clear: never print it.

    `overrides` are librdkafka settings by their own names, `**{"group.id": group}`; they win. ConfigError
    without bootstrap servers, which the caller finds first (`pipeline.broker`).
    """
    config: dict[str, Any] = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.kafka.items()
    }
    if settings.bootstrap_servers is not None:
        config["bootstrap.servers"] = settings.bootstrap_servers
    config |= overrides
    if not config.get("bootstrap.servers"):
        raise ConfigError("no bootstrap servers: set KAFKA_BOOTSTRAP_SERVERS, or start a broker with `lockgate up`")
    return config


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known names when none is near. For messages about unknown names."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. ConfigError when it cannot be read, or when a mapping holds a key twice."""
    try:
        return yaml.load(path.read_text("utf-8"), _OnceLoader)  # noqa: S506 - a SafeLoader that also refuses repeats
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, which may hold a secret
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{place}: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def explain(error: ValidationError, origin: Mapping[str, str] | None = None) -> str:
    """The faults that pydantic found, as `place: what is wrong`, without the values: one may be a secret.

    `origin` gives the place of a first-level name where that is not the name itself.
    """
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        first, *rest = [str(part) for part in fault["loc"]] or [""]
        place = ".".join([(origin or {}).get(first, first), *rest])
        what = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {what}" if place else what)
    return "; ".join(lines)


class _OnceLoader(yaml.SafeLoader):
    pass


def _mapping_once(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):  # `<<` may repeat what it merges: only what is written counts
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
            seen.add((key.tag, key.value))
    return loader.construct_mapping(node, deep=True)


_OnceLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_once)


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS)


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path("lockgate.yaml")
    if file is None and not path.exists():
        return {}
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected settings as `name: value`, not a {type(content).__name__}")
    for name in content:
        if name not in Settings.model_fields:
            raise ConfigError(f"{path}: unknown setting {name!r}; {nearest(str(name), Settings.model_fields)}")
    return content


def _from_variables(env: Mapping[str, str]) -> dict[str, Any]:
    for name in env:
        if name.startswith("LOCKGATE_") and name not in _VARIABLES:
            raise ConfigError(f"unknown variable {name}; {nearest(name, _VARIABLES)}")
    return {field: env[name] for name, field in _VARIABLES.items() if env.get(name)}


def _origin(file: Path | None, env: Mapping[str, str]) -> dict[str, str]:
    from_env = {field: name for name, field in _VARIABLES.items() if env.get(name)}
    place = str(file or "lockgate.yaml")
    return {field: from_env.get(field, f"{place}: {field}") for field in Settings.model_fields}
