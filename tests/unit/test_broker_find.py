"""Which broker is taken, and what is said when there is none."""

import socket
import sys
from contextlib import closing

import pytest

from pipeline.broker import find
from pipeline.broker.find import find_broker, present_broker
from pipeline.broker.processes import free_ports
from pipeline.config import Settings
from pipeline.errors import BrokerUnavailable


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without Docker engine and without Java."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")


def test_when_none_serves_one_error_says_what_was_tried_and_why_it_failed(bare):
    with pytest.raises(BrokerUnavailable) as caught:
        find_broker(bare)

    configured, docker, local = str(caught.value).splitlines()[1:]
    assert "KAFKA_BOOTSTRAP_SERVERS: not set" in configured
    assert "no Docker engine answers" in docker
    assert "no `java` on PATH" in local
    assert "apt-get install" in local


def test_docker_is_left_out_without_its_package(bare, monkeypatch):
    monkeypatch.setitem(sys.modules, "testcontainers.core.container", None)

    with pytest.raises(BrokerUnavailable, match="testcontainers is not installed"):
        find_broker(bare)


def test_docker_is_left_out_for_a_broker_that_must_last(bare):
    with pytest.raises(BrokerUnavailable, match="would end with this command"):
        find_broker(bare, lasting=True)


@pytest.mark.parametrize("seek", [find_broker, present_broker])
def test_a_configured_broker_that_refuses_is_an_error_that_names_it(bare, monkeypatch, seek):
    monkeypatch.setattr(find, "ANSWER_TIMEOUT_S", 0.3)
    dead = f"127.0.0.1:{free_ports(1)[0]}"

    with pytest.raises(BrokerUnavailable, match=f"KAFKA_BOOTSTRAP_SERVERS={dead} did not answer") as caught:
        seek(bare.model_copy(update={"bootstrap_servers": dead}))

    assert "refused" in str(caught.value)


def test_a_configured_broker_that_stays_silent_is_an_error_within_the_bound(bare, monkeypatch):
    monkeypatch.setattr(find, "ANSWER_TIMEOUT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(BrokerUnavailable, match="did not answer within"):
            find_broker(bare.model_copy(update={"bootstrap_servers": address}))


def test_without_a_running_broker_the_command_to_start_one_is_named(bare):
    with pytest.raises(BrokerUnavailable, match="lockgate up"):
        present_broker(bare)
