"""The whole pipeline on the real broker under kills: every event has exactly one place, examined by an outsider."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.proof.audits import duplicates
from tests.proof.conservation import examine
from tests.proof.ledger import read
from tests.proof.load import Load
from tests.proof.topology import STAGES, chain

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
MESSAGES = (
    "my card has not arrived yet, where is it?",
    "somebody stole my wallet, block my card now",
    "the transfer to my landlord failed twice",
    "hello",
    "I was charged twice for the same coffee!!",
    "wie kann ich meine PIN aendern",
)


def ticket(key: str, sequence: int) -> bytes:
    text = MESSAGES[(sequence + sum(key.encode())) % len(MESSAGES)]
    return json.dumps({"text": text, "channel": "chat", "language": "en", "customer_id": key}).encode()


class Pipeline:
    """One environment with all its topics, and workers for it."""

    def __init__(self, direct, environment, crew, folder):
        self.direct, self.environment, self.crew, self.folder = direct, environment, crew, folder
        apply = [sys.executable, "-m", "agents.cli", "--environment", environment, "--bootstrap", direct]
        done = subprocess.run(
            [*apply, "topics", "apply", "--replication", "1"], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        self.topology = chain(environment, duplicates())

    def start(self, name="worker"):
        argv = [sys.executable, "-m", "tests.proof.chain_worker", "--bootstrap", self.direct]
        argv += ["--environment", self.environment, "--data-dir", str(self.folder)]
        return self.crew.start(argv, name, cwd=ROOT)

    def load(self, **options):
        topic = f"{self.environment}.workflow-events"
        options = {"keys": 40, "rate": 150, "poison_every": 25, "repeat_every": 30, **options}
        load = Load(self.direct, topic, event_type="com.bank.message.received", value=ticket, **options)
        self._know(load)
        return load

    def _know(self, load):
        """Nine customers of ten are known: the others go to people before any model is asked."""
        producer = Producer({"bootstrap.servers": self.direct, "enable.idempotence": True})
        for number in range(load.keys):
            if number % 10:
                name = f"{load.run}-{number}"
                customer = {"customer_id": name, "segment": "retail", "language": "en", "product_id": "prod-1"}
                producer.produce(f"{self.environment}.context-customers", json.dumps(customer), name)
        assert producer.flush(30) == 0

    def report(self, published):
        return examine(self.topology, read(self.direct, self.topology.topics), published)

    def at_rest(self, published, bound_s=90.0):
        until = time.monotonic() + bound_s
        while True:
            report = self.report(published)
            if not report.undelivered or time.monotonic() > until:
                return report
            time.sleep(1)


def all_feeding(worker):
    for stage in STAGES:
        worker.wait_said(f"{stage}: feeding from", 45)


@pytest.fixture
def line(direct, environment, crew, tmp_path):
    return Pipeline(direct, environment, crew, tmp_path)


def killed(line, count):
    with line.load() as load:
        for number in range(count):
            worker = line.start()
            all_feeding(worker)
            time.sleep(0.5 + (number % 4) * 0.7)
            worker.kill()
        published = load.stop()
    last = line.start()
    report = line.at_rest(published)
    assert last.terminate(10) < 10
    return report


def assert_conserved(report):
    assert report.faults == {}
    assert sum(report.places.values()) == report.published
    assert set(report.places) <= {"decision", "open_review", "dead_letter", "blocked", "duplicate"}
    assert report.places["decision"] > 0
    assert report.places["open_review"] > 0
    assert report.places["duplicate"] > 0
    assert report.places["dead_letter"] > 0


def test_five_kills_of_the_whole_worker_leave_every_event_in_exactly_one_place(line):
    assert_conserved(killed(line, 5))


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_twenty_kills_of_the_whole_worker_leave_every_event_in_exactly_one_place(line):
    assert_conserved(killed(line, 20))


def test_two_workers_that_come_and_go_leave_every_event_in_exactly_one_place(line):
    with line.load() as load:
        first = line.start("first")
        all_feeding(first)
        second = line.start("second")
        all_feeding(second)
        time.sleep(2)
        first.kill()
        time.sleep(5)
        third = line.start("third")
        all_feeding(third)
        published = load.stop()
    report = line.at_rest(published)
    assert_conserved(report)
    for worker in (second, third):
        assert worker.terminate(10) < 10
