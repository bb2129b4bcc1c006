"""The harness proven end to end: it passes a right worker under kills and cuts, and catches each broken one."""

import sys
from pathlib import Path

import pytest

from tests.proof.conservation import Report, examine
from tests.proof.kafka_frames import END_TXN
from tests.proof.ledger import committed_offsets, read, read_uncommitted
from tests.proof.load import Load, Published
from tests.proof.reference_worker import Fault
from tests.proof.topology import Stage, Topology
from tests.proof.workers import Crew, Worker, wait_until

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
KILLS = 5
PARTITIONS = 2


class Lab:
    """One environment with a load, a reference worker that is started again and again, and an examination."""

    def __init__(self, direct: str, environment: str, topics, crew: Crew) -> None:
        self.direct = direct
        self.input, self.output, self.dead_letter = topics("in", "out", "dead", partitions=PARTITIONS)
        self.group = f"{environment}.group"
        stage = Stage("reference", self.input, self.output, self.group)
        self.topology = Topology((stage,), dead_letter=self.dead_letter, final="answer")
        self._environment = environment
        self._crew = crew

    def load(self, **options) -> Load:
        return Load(self.direct, self.input, **{"keys": 10, "rate": 200, "poison_every": 20, **options})

    def start(self, fault: Fault, *options: str, bootstrap: str | None = None, name: str = "a") -> Worker:
        argv = [sys.executable, "-m", "tests.proof.reference_worker"]
        argv += ["--bootstrap", bootstrap or self.direct, "--group", self.group]
        argv += ["--input", self.input, "--output", self.output, "--dead-letter", self.dead_letter]
        argv += ["--transactional-id", f"{self._environment}.{name}", "--fault", fault, *options]
        return self._crew.start(argv, name, cwd=ROOT)

    def rest(self, published: list[Published], bound_s: float = 40.0) -> None:
        """Waits until the group has committed all that was published."""
        ends: dict[int, int] = {}
        for event in published:
            ends[event.partition] = max(event.offset + 1, ends.get(event.partition, 0))

        def done() -> bool:
            committed = committed_offsets(self.direct, self.group)
            return all(committed.get((self.input, partition), 0) >= end for partition, end in ends.items())

        wait_until(done, bound_s, f"{self.group} has committed everything", poll_s=0.1)

    def report(self, published) -> Report:
        ledger = read(self.direct, self.topology.topics, groups=[self.group])
        return examine(self.topology, ledger, published)


@pytest.fixture
def lab(direct, environment, topics, crew):
    return Lab(direct, environment, topics, crew)


def under_kills(lab: Lab, fault: Fault, seam: str) -> Report:
    """A steady load, and a worker that is killed at a seam, five times."""
    static = ("--instance", "i", "--dwell-ms", "40")
    with lab.load() as load:
        for _ in range(KILLS):
            worker = lab.start(fault, *static)
            heard = worker.wait_said(f"seam: {seam}", 20)
            worker.wait_said(f"seam: {seam}", 20, after=heard)
            worker.kill()
        published = load.stop()
    last = lab.start(fault, "--instance", "i")
    lab.rest(published)
    last.terminate(10)
    return lab.report(published)


def test_a_right_worker_passes_under_kills(lab):
    report = under_kills(lab, Fault.NONE, "sent")
    assert report.faults == {}
    assert report.places["answer"] + report.places["dead_letter"] == report.published
    assert report.places["dead_letter"] == report.published // 20
    # The kills did strike open transactions: their records are there, aborted.
    assert len(read_uncommitted(lab.direct, [lab.output])[lab.output]) > report.places["answer"]


def test_offsets_outside_the_transaction_are_caught_as_doubled_and_contradicting(lab):
    report = under_kills(lab, Fault.OFFSETS_OUTSIDE, "committed")
    assert {"doubled", "contradicting"} <= set(report.faults)
    assert report.lost == []


def test_offsets_before_the_outputs_are_caught_as_lost(lab):
    report = under_kills(lab, Fault.OFFSETS_FIRST, "offsets")
    assert set(report.faults) == {"lost"}


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        (Fault.NONE, None),
        (Fault.SHUFFLE, "reordered"),
        (Fault.MANGLE, "damaged"),
        (Fault.SWALLOW, "lost"),
    ],
)
def test_a_fault_in_plain_running_turns_its_own_number_red(lab, fault, number):
    published = lab.load(rate=2_000, count=400).start().finish()
    worker = lab.start(fault)
    lab.rest(published)
    worker.terminate(10)
    assert set(lab.report(published).faults) == ({number} if number else set())


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.NO_EPOCH])
def test_a_zombie_adds_nothing_unless_it_takes_its_old_work_into_the_new_generation(lab, fault):
    published = lab.load(rate=2_000, count=400).start().finish()
    sleeper = lab.start(fault, "--session-ms", "1500", "--dwell-ms", "1000")
    heard = sleeper.wait_said("seam: sent", 20)
    sleeper.pause()
    heir = lab.start(Fault.NONE, "--session-ms", "1500", name="b")
    lab.rest(published)
    sleeper.resume()
    sleeper.wait_said("seam: committed" if fault is Fault.NO_EPOCH else "round failed", 20, after=heard)
    sleeper.kill()
    heir.terminate(10)
    faults = lab.report(published).faults
    if fault is Fault.NO_EPOCH:
        assert set(faults) >= {"doubled", "contradicting"}
    else:
        assert faults == {}


@pytest.mark.parametrize(
    ("fault", "when"), [(Fault.NONE, "before"), (Fault.NONE, "after"), (Fault.BLIND_REPEAT, "after")]
)
def test_a_commit_of_unknown_outcome_is_doubled_only_by_a_worker_that_does_not_look(lab, proxy, proxied, fault, when):
    with lab.load() as load:
        worker = lab.start(fault, "--session-ms", "20000", bootstrap=proxied)
        worker.wait_said("seam: committed", 20)
        proxy.cut_on(END_TXN, when)
        proxy.wait_cut(20)
        heard = worker.wait_said("round failed" if fault is Fault.NONE else "commit failed", 20)
        proxy.let_pass()
        worker.wait_said("seam: committed", 30, after=heard)
        published = load.stop()
        lab.rest(published)
        worker.terminate(10)
    faults = lab.report(published).faults
    # It sends the same answers again, so they agree: doubled, and nothing else.
    assert set(faults) == ({"doubled"} if fault is Fault.BLIND_REPEAT else set())
