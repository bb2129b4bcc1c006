"""What a node is told, and how its folder is found again."""

import json
import re

import pytest

from pipeline.broker import container, local
from pipeline.broker.jars import Runtime
from pipeline.broker.node import Node, new_cluster_id, quick_settings, server_properties, start
from pipeline.broker.processes import free_ports
from pipeline.errors import BrokerUnavailable, ConfigError


def node(folder, **changes):
    values = {"port": 1, "internal_port": 2, "controller_port": 3}
    return Node(folder=folder, **{**values, **changes})


def written(of):
    return dict(line.split("=", 1) for line in server_properties(of).splitlines())


def test_every_listener_is_on_the_loopback_address(tmp_path):
    properties = written(node(tmp_path))

    for name in ("listeners", "advertised.listeners", "controller.quorum.voters"):
        assert set(re.findall(r"(?:@|//)([^:]*):", properties[name])) == {"127.0.0.1"}


def test_clients_are_told_the_advertised_port_and_brokers_are_not(tmp_path):
    properties = written(node(tmp_path, advertised_port=9))

    assert properties["listeners"].startswith("PLAINTEXT://127.0.0.1:1,")
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9,INTERNAL://127.0.0.1:2"


def test_a_setting_wins_over_the_quick_one(tmp_path):
    properties = written(node(tmp_path, settings={"offsets.topic.num.partitions": "3"}))

    assert properties["offsets.topic.num.partitions"] == "3"
    assert properties["group.initial.rebalance.delay.ms"] == "0"


@pytest.mark.parametrize("name", ["listeners", "log.dirs", "node.id", "process.roles"])
def test_a_setting_that_says_where_the_broker_is_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=re.escape(name)):
        server_properties(node(tmp_path, settings={name: "x"}))


def test_factors_fit_the_number_of_brokers():
    assert quick_settings(1)["transaction.state.log.replication.factor"] == "1"
    assert quick_settings(1)["min.insync.replicas"] == "1"
    assert quick_settings(3)["transaction.state.log.replication.factor"] == "3"
    assert quick_settings(3)["transaction.state.log.min.isr"] == "2"
    assert quick_settings(3)["min.insync.replicas"] == "2"


def test_a_path_is_written_as_java_reads_it(tmp_path):
    properties = server_properties(node(tmp_path / "Büro \\ 𝄞"))

    assert "/B\\u00fcro \\\\ \\ud834\\udd1e/log\n" in properties
    assert properties.isascii()


def test_a_path_that_kafka_would_read_as_two_is_refused(tmp_path):
    with pytest.raises(BrokerUnavailable, match="comma"):
        start(node(tmp_path / "a,b"), Runtime(tmp_path, tmp_path))


def test_cluster_ids_have_kafkas_form():
    for _ in range(200):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", new_cluster_id())


def test_down_where_nothing_was_ever_started_finds_nothing_and_makes_no_folder(tmp_path):
    folder = tmp_path / "kafka"

    assert not local.down(folder)
    assert local.running(folder) is None
    assert not folder.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"pid": 1}', json.dumps({"pid": 1, "colour": "red"})])
def test_a_state_file_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "broker.json").write_text(content)

    with pytest.raises(BrokerUnavailable, match=r"broker\.json"):
        local.running(tmp_path)


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(BrokerUnavailable, match="name another data folder"):
        local.up(tmp_path / "file" / "kafka", free_ports(1)[0])


def test_the_container_is_told_the_same_quick_settings_and_the_published_port():
    variables = container.environment(12345)

    assert variables["KAFKA_ADVERTISED_LISTENERS"].startswith("PLAINTEXT://127.0.0.1:12345,")
    assert variables["KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"] == "1000"
    assert all(re.fullmatch(r"KAFKA_[A-Z_]+", name) for name in variables)
