"""The local broker and the cluster: started, found again, stopped, without ever touching what is not ours."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from pipeline.broker import local
from pipeline.broker.cluster import Cluster
from pipeline.broker.find import broker_folder, find_broker, present_broker
from pipeline.broker.processes import Process, free_ports
from pipeline.config import Settings
from pipeline.errors import BrokerUnavailable

QUIET = {"log_level": 0}
# A paused broker is noticed by the client's own clocks only.
IMPATIENT = {
    "socket.timeout.ms": 3000,
    "socket.connection.setup.timeout.ms": 3000,
    "api.version.request.timeout.ms": 3000,
}


@pytest.fixture
def home(tmp_path, guardian):
    """A data folder whose broker is down again after the test."""
    folder = tmp_path / "kafka"
    yield folder
    local.down(folder)


@pytest.fixture
def up(home, guardian):
    """`local.up` on the test's own folder, on a port that other suites leave alone."""

    def start(port=None, **options):
        if port is None and not home.exists():
            port = free_ports(1)[0]
        kafka = local.up(home, port, **options)
        guardian.watch(Process(kafka.pid, kafka.mark))
        return kafka

    return start


@pytest.fixture(scope="module")
def steady(tmp_path_factory, guardian):
    """A broker that the tests only look at: it listens on one port and advertises another."""
    folder = tmp_path_factory.mktemp("steady")
    listened, advertised = free_ports(2)
    kafka = local.up(folder, listened, advertised_port=advertised, settings={"message.max.bytes": "100000"})
    guardian.watch(Process(kafka.pid, kafka.mark))
    yield Steady(kafka, listened, advertised)
    local.down(folder)


@dataclass(frozen=True)
class Steady:
    kafka: local.LocalKafka
    listened: int
    advertised: int

    def up(self, **changes):
        options = {"advertised_port": self.advertised, "settings": {"message.max.bytes": "100000"}, **changes}
        return local.up(self.kafka.data_dir, **options)


@pytest.fixture
def stranger():
    """A process that is none of ours."""
    process = subprocess.Popen(["sleep", "120"])
    yield process
    process.kill()
    process.wait()


def publish(bootstrap, topic, *values, **config):
    """Writes values once each with acks=all and returns once they were acknowledged."""
    failed = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, **QUIET, **config})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert failed == []


def published(bootstrap, topic, count):
    """The first `count` values of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            **QUIET,
        }
    )
    consumer.subscribe([topic])
    values, until = [], time.monotonic() + 60
    while len(values) < count and time.monotonic() < until:
        values += [message.value() for message in consumer.consume(count, 1) if message.error() is None]
    consumer.close()
    return sorted(values)


def create(bootstrap, topic, replicas=1):
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    admin.create_topics([NewTopic(topic, 2, replicas)], operation_timeout=30)[topic].result()


def test_the_first_transaction_commits_within_seconds_of_a_fresh_start(steady):
    create(steady.kafka.direct, "first")
    producer = Producer({"bootstrap.servers": steady.kafka.direct, "transactional.id": "one", **QUIET})
    started = time.monotonic()

    producer.init_transactions(15)
    producer.begin_transaction()
    producer.produce("first", b"value")
    producer.commit_transaction(15)

    assert time.monotonic() - started < 15


def test_up_again_returns_the_one_that_runs(steady):
    assert steady.up() == steady.kafka
    assert local.running(steady.kafka.data_dir) == steady.kafka


@pytest.mark.parametrize(
    "changes", [{"port": 1}, {"advertised_port": None}, {"settings": {}}, {"heap_mb": 300}], ids=lambda c: next(iter(c))
)
def test_up_refuses_to_pretend_that_a_running_broker_is_what_was_asked_for(steady, changes):
    with pytest.raises(BrokerUnavailable, match="lockgate down"):
        steady.up(**changes)


def test_settings_reach_the_broker(steady):
    admin = AdminClient({"bootstrap.servers": steady.kafka.direct, **QUIET})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    config = admin.describe_configs([resource])[resource].result()

    assert config["message.max.bytes"].value == "100000"
    assert config["transaction.abort.timed.out.transaction.cleanup.interval.ms"].value == "1000"
    assert config["auto.create.topics.enable"].value == "false"


def test_clients_are_sent_to_the_advertised_port_and_direct_leads_past_it(steady):
    def told(bootstrap):
        brokers = AdminClient({"bootstrap.servers": bootstrap, **QUIET}).list_topics(timeout=10).brokers
        return [f"{broker.host}:{broker.port}" for broker in brokers.values()]

    assert steady.kafka.bootstrap == f"127.0.0.1:{steady.advertised}"
    assert told(f"127.0.0.1:{steady.listened}") == [steady.kafka.bootstrap]
    assert told(steady.kafka.direct) == [steady.kafka.direct]


def test_nothing_listens_beyond_this_machine(steady):
    addresses = listening_addresses(steady.kafka.pid)

    assert len(addresses) == 3
    assert all(address in {"0100007F", "0000000000000000FFFF00000100007F"} for address in addresses)


def test_data_survive_a_stop_and_a_kill(up, home):
    kafka = up()
    create(kafka.bootstrap, "kept")
    publish(kafka.bootstrap, "kept", b"before the stop")
    local.down(home)

    kafka = up()
    publish(kafka.bootstrap, "kept", b"before the kill")
    Process(kafka.pid, kafka.mark).kill()

    kafka = up()
    assert published(kafka.bootstrap, "kept", 2) == [b"before the kill", b"before the stop"]


def test_a_restart_keeps_the_port_while_it_is_free_and_takes_another_when_it_is_not(up, home):
    first = up()
    local.down(home)
    second = up()
    assert second.bootstrap == first.bootstrap
    local.down(home)

    host, port = first.bootstrap.split(":")
    with closing(socket.create_server((host, int(port)))):
        third = up()

        assert third.bootstrap != first.bootstrap
        assert AdminClient({"bootstrap.servers": third.bootstrap, **QUIET}).list_topics(timeout=10).brokers


def test_a_port_lost_between_the_choice_and_the_start_is_replaced(up, steady, monkeypatch):
    another_kafka = steady.listened
    choices = iter([another_kafka, *free_ports(1)])
    monkeypatch.setattr(local, "_choose_port", lambda *_: next(choices))

    kafka = up()

    assert next(choices, None) is None
    assert kafka.bootstrap != f"127.0.0.1:{another_kafka}"
    assert AdminClient({"bootstrap.servers": kafka.bootstrap, **QUIET}).list_topics(timeout=10).brokers


def test_a_port_asked_for_by_number_is_taken_or_refused_by_number(home):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(BrokerUnavailable, match=f"port {port} is taken"):
            local.up(home, port)

    assert local.running(home) is None


def test_a_start_that_fails_says_why_and_leaves_nothing_running(home):
    with pytest.raises(BrokerUnavailable, match=r"log\.segment\.bytes"):
        local.up(home, settings={"log.segment.bytes": "plenty"})

    assert local.running(home) is None


def test_the_broker_outlives_the_program_that_started_it(home, guardian):
    script = "import sys; from pathlib import Path; from pipeline.broker import local; local.up(Path(sys.argv[1]))"
    root = Path(local.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, str(home)], check=True, cwd=root, timeout=120)

    kafka = local.running(home)

    guardian.watch(Process(kafka.pid, kafka.mark))
    assert AdminClient({"bootstrap.servers": kafka.bootstrap, **QUIET}).list_topics(timeout=10).brokers
    assert local.down(home)
    assert local.running(home) is None


def test_down_ends_a_broker_that_does_not_react(up, home):
    kafka = up()
    os.kill(kafka.pid, signal.SIGSTOP)
    started = time.monotonic()

    assert local.down(home, grace_s=1)

    assert time.monotonic() - started < 15
    assert not Process(kafka.pid, kafka.mark).alive()


def test_a_stale_state_file_makes_nobody_end_a_stranger(up, home, stranger):
    kafka = up()
    Process(kafka.pid, kafka.mark).kill()
    state = home / "broker.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"pid": stranger.pid}))

    assert local.running(home) is None
    assert not local.down(home)
    assert up().pid != stranger.pid
    assert local.down(home)
    assert stranger.poll() is None


def listening_addresses(pid):
    """The addresses, as the kernel writes them, on which a process accepts connections."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in sockets:
                listening.append(address.split(":")[0])
    return listening


def test_find_broker_starts_a_local_one_that_the_next_command_finds(tmp_path, guardian, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")
    settings = Settings(data_dir=tmp_path)

    broker = find_broker(settings)

    try:
        running = local.running(broker_folder(settings))
        guardian.watch(Process(running.pid, running.mark))
        assert (broker.kind, broker.bootstrap) == ("local", running.bootstrap)
        assert present_broker(settings).bootstrap == broker.bootstrap
        configured = find_broker(settings.model_copy(update={"bootstrap_servers": broker.bootstrap}))
        assert (configured.kind, configured.bootstrap) == ("configured", broker.bootstrap)
    finally:
        local.down(broker_folder(settings))


@pytest.mark.timeout(300)
def test_three_brokers_lose_one_and_go_on_and_take_it_back(tmp_path):
    with Cluster(tmp_path) as cluster:
        create(cluster.bootstrap, "kept", replicas=3)
        cluster.wait_in_sync()
        publish(cluster.bootstrap, "kept", b"all live")

        cluster.kill(0)
        assert not cluster.alive(0)
        publish(cluster.bootstrap, "kept", b"one dead")

        cluster.start(0)
        cluster.wait_in_sync()
        cluster.pause(1)
        publish(cluster.bootstrap, "kept", b"one paused", **IMPATIENT)
        cluster.resume(1)
        cluster.wait_in_sync()
        cluster.restart(2)
        cluster.wait_in_sync()

        assert published(cluster.bootstrap, "kept", 3) == [b"all live", b"one dead", b"one paused"]
        processes = [Process(cluster.pid(i), cluster.mark(i)) for i in range(3)]
        assert all(process.alive() for process in processes)
    assert not any(process.alive() for process in processes)


def test_a_cluster_ends_with_the_program_that_opened_it_however_that_dies(tmp_path):
    script = """if True:
        import sys, time
        from pathlib import Path
        from pipeline.broker.cluster import Cluster
        cluster = Cluster(Path(sys.argv[1]), brokers=1).__enter__()
        print(cluster.pid(0), cluster.mark(0), flush=True)
        time.sleep(120)
    """
    root = Path(local.__file__).parents[2]
    opener = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
    pid, mark = opener.stdout.readline().decode().rstrip("\n").split(" ", 1)
    broker = Process(int(pid), mark)
    assert broker.alive()

    opener.kill()
    opener.wait()
    opener.stdout.close()

    assert broker.wait(10)
