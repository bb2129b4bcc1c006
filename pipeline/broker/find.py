"""Finds a Kafka to work with: a configured one, one in Docker, or one on this machine's JVM, in this order.

A configured broker that does not answer is an error and nothing else is tried: work meant for it must not
land elsewhere. The other ways are tried in turn, and one error lists why each failed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.broker import container, local
from pipeline.broker.asking import Asker
from pipeline.config import Settings, client_config
from pipeline.errors import BrokerUnavailable

ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Broker:
    """A Kafka that answered. `close` ends it when it was started to be ended, else does nothing."""

    bootstrap: str
    kind: Literal["configured", "docker", "local"]
    close: Callable[[], None] = field(default=lambda: None, repr=False)


def broker_folder(settings: Settings) -> Path:
    """Where the local broker of these settings keeps its data."""
    return settings.data_dir / "kafka"


def find_broker(settings: Settings, *, lasting: bool = False) -> Broker:
    """A broker that answers, started when none is there.

    A local one keeps running until `local.down(broker_folder(settings))`; one in Docker ends with `close` or
    with this program, so `lasting` leaves Docker out. Raises BrokerUnavailable with all that was tried.
    """
    if settings.bootstrap_servers is not None:
        check_answers(settings)
        return Broker(settings.bootstrap_servers, "configured")
    tried = ["KAFKA_BOOTSTRAP_SERVERS: not set"]
    if lasting:
        tried.append("Docker: left out, because such a broker would end with this command")
    else:
        try:
            started = container.start()
        except BrokerUnavailable as error:
            tried.append(f"Docker: {error}")
        else:
            return Broker(started.bootstrap, "docker", started.close)
    try:
        kafka = local.up(broker_folder(settings), cache_dir=settings.cache_dir)
    except BrokerUnavailable as error:
        tried.append(f"local Apache Kafka: {error}")
    else:
        return Broker(kafka.bootstrap, "local")
    raise BrokerUnavailable("no Kafka to work with. Tried in this order:\n" + "\n".join(f"- {t}" for t in tried))


def present_broker(settings: Settings) -> Broker:
    """The configured broker, or the local one that `lockgate up` started; nothing is started here."""
    if settings.bootstrap_servers is not None:
        check_answers(settings)
        return Broker(settings.bootstrap_servers, "configured")
    kafka = local.running(broker_folder(settings))
    if kafka is None:
        raise BrokerUnavailable(
            "no broker: run `lockgate up` to start one here, or set KAFKA_BOOTSTRAP_SERVERS to one that runs"
        )
    return Broker(kafka.bootstrap, "local")


def check_answers(settings: Settings, timeout_s: float | None = None) -> None:
    """Returns when the configured broker answers a request for metadata, else BrokerUnavailable naming it."""
    timeout_s = ANSWER_TIMEOUT_S if timeout_s is None else timeout_s
    config = client_config(settings)
    asker = Asker(config.pop("bootstrap.servers"), **config)
    if not asker.brokers(timeout_s):
        raise BrokerUnavailable(
            f"KAFKA_BOOTSTRAP_SERVERS={settings.bootstrap_servers} did not answer within {timeout_s:g} s "
            f"({asker.complaint}): start that broker, or unset the variable to use one on this machine"
        )
