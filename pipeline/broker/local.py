"""A local Apache Kafka for development and tests: one process, found again through its data folder.

The broker outlives whoever started it. Its folder holds the data, which survive a restart, and `broker.json`,
which says under which pid and port it runs. Calls for one folder from several processes wait for each other.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.broker.jars import Runtime, runtime
from pipeline.broker.node import Node, PortTaken, start, wait_ready
from pipeline.broker.processes import Process, free_ports, port_is_free
from pipeline.errors import BrokerUnavailable

USUAL_PORT = 9092
STOP_GRACE_S = 20.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """A running local broker. `direct` reaches it past any proxy that `bootstrap` may lead through;
    `mark` is the argument by which its process is known (see `processes`).
    """

    bootstrap: str
    direct: str
    pid: int
    mark: str
    data_dir: Path
    log: Path


def up(
    data_dir: Path,
    port: int | None = None,
    *,
    cache_dir: Path | None = None,
    advertised_port: int | None = None,
    settings: Mapping[str, str] | None = None,
    heap_mb: int = 512,
) -> LocalKafka:
    """Starts a broker on this folder and returns once it answers; returns the running one when there is one.

    Without `port` it listens on the port of its last run, else on 9092, else on any free one. `cache_dir`
    is where the jars are kept; `advertised_port` is what clients are told to connect to; `settings` are Kafka
    broker settings on top of the quick ones.
    Raises BrokerUnavailable when it cannot run here, when `port` is taken, and when a broker already runs on
    this folder that was started otherwise than asked for now.
    """
    data_dir = _absolute(data_dir)
    asked = _Asked(port, advertised_port, dict(settings or {}), heap_mb)
    with _alone(data_dir):
        state = _read(data_dir)
        if state is not None and state.process(data_dir).alive():
            state.refuse_unless(asked)
            wait_ready(state.node(data_dir), state.process(data_dir))
            return state.public(data_dir)
        return _start(data_dir, runtime(cache_dir), asked, state)


def down(data_dir: Path, grace_s: float = STOP_GRACE_S) -> bool:
    """Stops the broker of this folder: SIGTERM, then SIGKILL after `grace_s`. False when none was running."""
    data_dir = _absolute(data_dir)
    if not data_dir.is_dir():
        return False
    with _alone(data_dir):
        state = _read(data_dir)
        return state is not None and state.process(data_dir).stop(grace_s)


def running(data_dir: Path) -> LocalKafka | None:
    """The broker of this folder while its process exists (it may be starting or hanging), else None."""
    data_dir = _absolute(data_dir)
    state = _read(data_dir)
    if state is None or not state.process(data_dir).alive():
        return None
    return state.public(data_dir)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the caller of `up` wants."""

    port: int | None
    advertised_port: int | None
    settings: dict[str, str]
    heap_mb: int


@dataclass(frozen=True, slots=True)
class _State:
    """What `broker.json` holds."""

    pid: int
    port: int
    internal_port: int
    controller_port: int
    advertised_port: int
    settings: dict[str, str]
    heap_mb: int

    def node(self, data_dir: Path) -> Node:
        return Node(
            folder=data_dir,
            port=self.port,
            internal_port=self.internal_port,
            controller_port=self.controller_port,
            advertised_port=self.advertised_port,
            settings=self.settings,
            heap_mb=self.heap_mb,
        )

    def process(self, data_dir: Path) -> Process:
        return Process(self.pid, self.node(data_dir).mark)

    def public(self, data_dir: Path) -> LocalKafka:
        return LocalKafka(
            bootstrap=f"127.0.0.1:{self.advertised_port}",
            direct=f"127.0.0.1:{self.internal_port}",
            pid=self.pid,
            mark=self.node(data_dir).mark,
            data_dir=data_dir,
            log=self.node(data_dir).log,
        )

    def refuse_unless(self, asked: _Asked) -> None:
        same = (
            asked.port in (None, self.port)
            and (asked.advertised_port or self.port) == self.advertised_port
            and asked.settings == self.settings
            and asked.heap_mb == self.heap_mb
        )
        if not same:
            raise BrokerUnavailable(
                f"a broker already runs (pid {self.pid}, port {self.port}) with another port or other "
                "settings than asked for: run `lockgate down` first"
            )


def _start(data_dir: Path, needs: Runtime, asked: _Asked, last: _State | None) -> LocalKafka:
    for attempt in range(1, _TRIES + 1):
        port = _choose_port(asked.port, last.port if last else None)
        internal_port, controller_port = free_ports(2)
        state = _State(
            pid=0,
            port=port,
            internal_port=internal_port,
            controller_port=controller_port,
            advertised_port=asked.advertised_port or port,
            settings=asked.settings,
            heap_mb=asked.heap_mb,
        )
        process = start(state.node(data_dir), needs)
        state = replace(state, pid=process.pid)
        _write(data_dir, state)  # before it is ready: `down` must find a broker that hangs while starting
        try:
            wait_ready(state.node(data_dir), process)
        except PortTaken:
            if attempt == _TRIES:
                raise
        except BaseException:  # an interrupt too: half-started brokers are nobody's
            process.stop(STOP_GRACE_S)
            raise
        else:
            return state.public(data_dir)
    raise AssertionError("the last attempt returned or raised")


def _choose_port(asked: int | None, last: int | None) -> int:
    if asked is not None:
        if not port_is_free(asked):
            raise BrokerUnavailable(f"port {asked} is taken on 127.0.0.1: name another, or none to get a free one")
        return asked
    for port in (last, USUAL_PORT):
        if port is not None and port_is_free(port):
            return port
    return free_ports(1)[0]


def _read(data_dir: Path) -> _State | None:
    path = data_dir / "broker.json"
    try:
        return _State(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise BrokerUnavailable(
            f"{path} cannot be read ({error}): see that no broker runs there, then delete it"
        ) from error


def _write(data_dir: Path, state: _State) -> None:
    path = data_dir / "broker.json"
    half = path.with_suffix(".half")
    half.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
    half.replace(path)  # a reader sees the old state or the new one, never half of one


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "broker.lock").open("w")
    except OSError as error:
        raise BrokerUnavailable(f"{data_dir} cannot be written ({error}): name another data folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _absolute(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve()
