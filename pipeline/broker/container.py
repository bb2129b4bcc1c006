"""A Kafka in Docker, through testcontainers, for as long as this program runs.

Its port is published on 127.0.0.1 only. testcontainers is an extra: where it or the Docker engine is missing,
BrokerUnavailable says so and the next way is tried.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.broker.asking import Asker
from pipeline.broker.jars import kafka_version
from pipeline.broker.node import quick_settings
from pipeline.broker.processes import free_ports
from pipeline.errors import BrokerUnavailable

_ENGINE_TIMEOUT_S = 5
_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class ContainerKafka:
    """A running container; `close` removes it."""

    bootstrap: str
    close: Callable[[], None]


def start() -> ContainerKafka:
    """A fresh broker in a container, answering. Raises BrokerUnavailable when there cannot be one."""
    try:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient
    except ImportError as error:
        raise BrokerUnavailable("the package testcontainers is not installed") from error
    try:
        DockerClient(timeout=_ENGINE_TIMEOUT_S).client.ping()
    except Exception as error:  # the docker library lets errors of three libraries through
        raise BrokerUnavailable(f"no Docker engine answers ({error})") from error
    port = free_ports(1)[0]
    container = DockerContainer(f"apache/kafka:{kafka_version()}", env=environment(port))
    container.ports["9092/tcp"] = ("127.0.0.1", port)  # type: ignore[assignment]  # docker takes address and port
    try:
        container.start()
        _wait_ready(f"127.0.0.1:{port}")
    except BaseException as error:
        container.stop()
        if isinstance(error, BrokerUnavailable) or not isinstance(error, Exception):
            raise
        raise BrokerUnavailable(f"the container did not start ({error})") from error
    return ContainerKafka(f"127.0.0.1:{port}", container.stop)


def environment(port: int) -> dict[str, str]:
    """The variables from which the image writes its settings: one broker that clients reach on this port."""
    settings = {
        **quick_settings(1),
        "node.id": "1",
        "process.roles": "broker,controller",
        "listeners": "PLAINTEXT://:9092,INTERNAL://:9093,CONTROLLER://:9094",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},INTERNAL://localhost:9093",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": "1@localhost:9094",
    }
    return {"KAFKA_" + name.replace(".", "_").upper(): value for name, value in settings.items()}


def _wait_ready(bootstrap: str) -> None:
    asker = Asker(bootstrap)
    until = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < until:
        if asker.brokers(0.5):
            return
        time.sleep(0.1)
    raise BrokerUnavailable(f"the container did not answer within {_READY_TIMEOUT_S:.0f} s ({asker.complaint})")
