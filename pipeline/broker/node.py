"""One Apache Kafka process, broker and KRaft controller in one: its files, its settings, its start.

A node's folder holds everything of it: `log/` (the data), `server.properties`, `broker.log` (Kafka's own log)
and `broker.out` (what the JVM prints), both kept once under `.previous`. Three listeners, all on 127.0.0.1:
PLAINTEXT for clients, INTERNAL for the brokers themselves (and for asking if a node is ready), CONTROLLER.
Clients may be told another port than the one listened on, for a proxy in between; INTERNAL never passes it.
"""

import base64
import os
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.broker.asking import Asker
from pipeline.broker.jars import Runtime
from pipeline.broker.processes import Process, spawn
from pipeline.errors import BrokerUnavailable, ConfigError

READY_TIMEOUT_S = 90.0  # starts take two seconds on an idle machine; a loaded one needs room
_FORMAT_TIMEOUT_S = 90.0
_LOG4J = Path(__file__).with_name("log4j2.properties")


@dataclass(frozen=True, slots=True)
class Node:
    """Where a node lies, where it listens, and which settings it gets beyond the usual ones."""

    folder: Path
    port: int
    internal_port: int
    controller_port: int
    cluster_id: str | None = None  # for the first start; None: a new one
    node_id: int = 1
    voters: str = ""  # "id@host:port,..." of every controller; empty: this node alone
    brokers: int = 1  # how many nodes there are
    advertised_port: int | None = None  # what clients are told; None: `port`
    settings: Mapping[str, str] = field(default_factory=dict)
    heap_mb: int = 512

    @property
    def mark(self) -> str:
        """The argument by which this node's process is told from every other."""
        return f"-Dlockgate.node={self.folder}"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    @property
    def output(self) -> Path:
        return self.folder / "broker.out"


class PortTaken(BrokerUnavailable):
    """The node could not listen: another program took the port between the choice and the start."""


def new_cluster_id() -> str:
    """A random cluster id in Kafka's form: 22 letters, never one that looks like an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def quick_settings(brokers: int) -> dict[str, str]:
    """Settings for development and tests on this many brokers: small inner topics, short waits."""
    replicas = str(min(3, brokers))
    in_sync = "2" if brokers >= 3 else "1"
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": "8",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "8",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # A killed broker is let in again only when its session has run out, and given up then too: 9 s by default.
        # Shorter than this, a busy machine would fence living brokers.
        "broker.session.timeout.ms": "3000" if brokers == 1 else "5000",
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # the usual 128 MB would eat the small heap
    }


def start(node: Node, runtime: Runtime) -> Process:
    """Writes the node's files, formats its storage on the first start, and starts its process.

    It is not ready when this returns: see `wait_ready`.
    """
    if "," in str(node.folder):
        raise BrokerUnavailable(f"{node.folder}: Kafka reads a comma in a path as two paths, use another folder")
    node.folder.mkdir(parents=True, exist_ok=True)
    properties = node.folder / "server.properties"
    properties.write_text(server_properties(node), encoding="ascii")
    if not (node.folder / "log" / "meta.properties").exists():
        _format(node, runtime, properties)
    for path in (
        node.log,
        node.output,
    ):  # an error message may quote them: they must speak of this start only
        if path.exists():
            path.replace(path.with_name(f"{path.name}.previous"))
    argv = [
        str(runtime.java),
        f"-Xmx{node.heap_mb}m",
        f"-Xms{min(256, node.heap_mb)}m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:+ExitOnOutOfMemoryError",  # a broker that lives on without memory answers nobody
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",
        f"-Dlockgate.log={node.log}",
        node.mark,
        "-cp",
        f"{runtime.jars}/*",
        "kafka.Kafka",
        str(properties),
    ]
    return spawn(argv, node.mark, node.output, _environment())


def wait_ready(node: Node, process: Process, timeout_s: float = READY_TIMEOUT_S, *, see_all: bool = False) -> None:
    """Returns once the node has answered clients and brokers, and listed itself as a live member to both.

    With `see_all` it must list as many brokers as there are nodes.

    Raises PortTaken or BrokerUnavailable, with the broker's own words, when it ends or is not ready in time.
    """
    # Both ports: they are opened one after the other, and a node that finds the second one taken ends. The cluster's
    # id: whoever took it may be a Kafka too.
    waiting = [Asker(f"127.0.0.1:{port}") for port in (node.internal_port, node.port)]
    cluster_id = _meta(node)["cluster.id"]
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if not process.alive():
            last = last_words(node)
            kind = PortTaken if "BindException" in last or "failed to bind" in last else BrokerUnavailable
            raise kind(f"Apache Kafka ended while starting, see {node.log} and {node.output}. Its last words: {last}")
        listed = waiting[0].brokers(0.5, cluster_id)
        if node.node_id in listed and (len(listed) == node.brokers or not see_all):
            del waiting[0]
            if not waiting:
                return
            continue
        time.sleep(0.05)
    raise BrokerUnavailable(
        f"Apache Kafka (pid {process.pid}) did not answer within {timeout_s:.0f} s, see {node.log}. "
        f"Its last words: {last_words(node)}"
    )


def last_words(node: Node) -> str:
    """The lines of a failed start that matter, on one line."""
    words: list[str] = []
    for path in (node.log, node.output):
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            alarms = [line for line in lines if any(sign in line for sign in ("ERROR", "FATAL", "Exception", "Error"))]
            words += (alarms or lines)[-4:]
    return " | ".join(line.strip() for line in words) or "none"


def _format(node: Node, runtime: Runtime, properties: Path) -> None:
    command = [
        str(runtime.java),
        "-XX:TieredStopAtLevel=1",  # half a second of work: not worth the better compiler
        "-XX:+UseSerialGC",
        "-cp",
        f"{runtime.jars}/*",
        "kafka.tools.StorageTool",
        "format",
        "--ignore-formatted",
        "--config",
        str(properties),
        "--cluster-id",
        node.cluster_id or new_cluster_id(),
    ]
    try:
        said = subprocess.run(  # noqa: S603
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_FORMAT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(f"formatting {node.folder} took more than {_FORMAT_TIMEOUT_S:.0f} s") from error
    if said.returncode != 0:
        lines = [line for line in said.stdout.splitlines() if line.strip() and not line.startswith("\tat ")]
        raise BrokerUnavailable(f"Kafka's storage tool could not format {node.folder}: " + " | ".join(lines[-4:]))


def _meta(node: Node) -> dict[str, str]:
    lines = (node.folder / "log" / "meta.properties").read_text(encoding="latin-1").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def server_properties(node: Node) -> str:
    """The text of `server.properties`. ConfigError when the node's settings touch what Lockgate itself sets."""
    host = "127.0.0.1"
    ours = {
        "process.roles": "broker,controller",
        "node.id": str(node.node_id),
        "controller.quorum.voters": node.voters or f"{node.node_id}@{host}:{node.controller_port}",
        "listeners": f"PLAINTEXT://{host}:{node.port},INTERNAL://{host}:{node.internal_port},"
        f"CONTROLLER://{host}:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{host}:{node.advertised_port or node.port},"
        f"INTERNAL://{host}:{node.internal_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(node.folder / "log"),
    }
    if clash := sorted(ours.keys() & node.settings.keys()):
        raise ConfigError(
            f"{', '.join(clash)} cannot be set for a local broker: Lockgate says where it listens and writes"
        )
    settings = {**quick_settings(node.brokers), **node.settings, **ours}
    return "".join(f"{_escaped(key)}={_escaped(value)}\n" for key, value in settings.items())


def _escaped(text: str) -> str:
    # java.util.Properties: backslash escapes, and Latin-1 unless written as \uXXXX in UTF-16.
    out = text.replace("\\", "\\\\").replace("\n", "\\n")
    units = out.encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if code < 0x7F else f"\\u{code:04x}" for code in codes)


def _environment() -> dict[str, str]:
    # A JVM under the C locale cannot open a path with letters beyond ASCII.
    return {**os.environ, "LC_ALL": "C.UTF-8"}
