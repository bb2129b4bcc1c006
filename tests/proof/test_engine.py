"""The engine on the real broker: killed, frozen, cut off, joined and left, examined by a client that shares no code.

The short forms run in `make test`, the long ones in `make proof`. The last tests break the engine on purpose and
must find it out.
"""

import sys
import time
from pathlib import Path

import pytest

from tests.proof.conservation import Report, examine
from tests.proof.engine_worker import Break
from tests.proof.kafka_frames import END_TXN
from tests.proof.ledger import read, read_uncommitted
from tests.proof.load import Load, Published
from tests.proof.topology import Stage, Topology
from tests.proof.workers import Crew, Worker, wait_until

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
PARTITIONS = 4


class Lab:
    """One environment with a load, engine workers, and an examination of what lies in the topics."""

    def __init__(self, direct: str, environment: str, topics, crew: Crew) -> None:
        self.direct = direct
        self.environment = environment
        self.input, self.output, self.dead, self.retry = topics("in", "out", "dead", "retry", partitions=PARTITIONS)
        self.group = f"{environment}.engine"
        stage = Stage("engine", self.input, self.output, self.group, retry=self.retry)
        self.topology = Topology((stage,), dead_letter=self.dead, final="answer", prefix=f"{environment}.")
        self._crew = crew

    def load(self, **options) -> Load:
        return Load(self.direct, self.input, **{"keys": 40, "rate": 400, "poison_every": 20, **options})

    def start(self, *options: str, slot: str = "0", bootstrap: str | None = None) -> Worker:
        argv = [sys.executable, "-m", "tests.proof.engine_worker", "--bootstrap", bootstrap or self.direct]
        argv += ["--environment", self.environment, "--slot", slot, *options]
        return self._crew.start(argv, f"worker-{slot}", cwd=ROOT)

    def report(self, published: list[Published]) -> Report:
        return examine(self.topology, read(self.direct, self.topology.topics), published)

    def at_rest(self, published: list[Published], bound_s: float = 60.0) -> Report:
        """The report once nothing is on the way any more, or after the bound with what still is."""
        until = time.monotonic() + bound_s
        while True:
            report = self.report(published)
            if not report.undelivered or time.monotonic() > until:
                return report
            time.sleep(0.5)

    def aborted(self) -> int:
        """How many outputs were written and never committed: what the faults struck in the middle."""
        everything = read_uncommitted(self.direct, [self.output])[self.output]
        return len(everything) - len(read(self.direct, [self.output])[self.output])


@pytest.fixture
def lab(direct, environment, topics, crew):
    return Lab(direct, environment, topics, crew)


def feeding(worker: Worker, after: int = 0) -> int:
    return worker.wait_said("feeding from", 30, after=after)


def kills(lab: Lab, count: int, *options: str, alive_s: float = 1.0) -> Report:
    """A steady load, and a worker that is killed and started again, `count` times."""
    with lab.load() as load:
        for number in range(count):
            worker = lab.start(*options)
            feeding(worker)
            time.sleep(alive_s * (0.4 + (number % 5) * 0.3))  # not always at the same moment
            worker.kill()
        published = load.stop()
    last = lab.start(*options)
    report = lab.at_rest(published)
    last.terminate(10)
    return report


def assert_proven(report: Report) -> None:
    assert report.faults == {}
    assert report.places["answer"] + report.places["dead_letter"] == report.published
    assert report.places["dead_letter"] == report.published // 20


def test_kills_under_load_lose_double_and_reorder_nothing(lab):
    report = kills(lab, 5)
    assert_proven(report)
    assert lab.aborted() > 0, "no kill struck an open transaction: the test proves nothing"


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_twenty_kills_under_load_lose_double_and_reorder_nothing(lab):
    report = kills(lab, 20, "--fail-every", "50")
    assert_proven(report)
    assert lab.aborted() > 0


def test_kills_while_keys_are_parked_keep_every_order(lab):
    """One attempt in ten fails, so that keys go through the retry topic all the time."""
    assert_proven(kills(lab, 4, "--fail-every", "10"))


def join_and_leave(lab: Lab, times: int) -> Report:
    with lab.load() as load:
        first = lab.start()
        feeding(first)
        for number in range(times):
            second = lab.start(slot="1")
            feeding(second)
            time.sleep(0.5)
            if number % 2:
                second.kill()
            else:
                assert second.terminate(10) < 10
        published = load.stop()
    report = lab.at_rest(published)
    first.terminate(10)
    return report


def test_workers_joining_and_leaving_under_load_lose_double_and_reorder_nothing(lab):
    assert_proven(join_and_leave(lab, 3))


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_workers_joining_and_leaving_twenty_times_lose_double_and_reorder_nothing(lab):
    assert_proven(join_and_leave(lab, 20))


def test_a_zombie_adds_nothing(lab):
    """SIGSTOP past the session, an heir works on, then SIGCONT."""
    with lab.load(rate=300) as load:
        zombie = lab.start("--delay-ms", "20")
        feeding(zombie)
        time.sleep(1.5)
        zombie.pause()
        heir = lab.start(slot="1")
        feeding(heir)
        time.sleep(2)
        published = load.stop()
        zombie.resume()
        zombie.wait_said("lost", 30)
        time.sleep(1)
    report = lab.at_rest(published)
    assert_proven(report)
    for worker in (zombie, heir):
        assert worker.terminate(10) < 10


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_of_unknown_outcome_is_settled_and_nothing_doubled(lab, proxy, proxied, when):
    """The connection is cut before the broker sees the commit, or before the client hears of it."""
    with lab.load() as load:
        worker = lab.start("--session-s", "20", bootstrap=proxied)
        heard = feeding(worker)
        time.sleep(1)
        proxy.cut_on(END_TXN, when)
        proxy.wait_cut(20)
        heard = worker.wait_said("outcome unknown, settling", 40, after=heard)
        proxy.let_pass()
        time.sleep(3)
        published = load.stop()
    report = lab.at_rest(published)
    assert_proven(report)
    assert worker.terminate(10) < 10


def test_it_stops_within_ten_seconds_of_sigterm_under_load(lab):
    with lab.load() as load:
        worker = lab.start("--delay-ms", "500")
        feeding(worker)
        time.sleep(1.5)
        assert worker.terminate(10) < 10
        assert worker.returncode == 0
        published = load.stop()
    last = lab.start()
    report = lab.at_rest(published)
    last.terminate(10)
    assert_proven(report)


def test_steps_that_hang_do_not_hold_up_the_stop_and_lose_nothing(lab):
    published = lab.load(rate=1000, count=200).start().finish()
    worker = lab.start("--delay-ms", "1", "--slow-every", "10", "--slow-s", "3600")
    feeding(worker)
    time.sleep(2)
    assert worker.terminate(10) < 10
    assert worker.returncode == 0
    last = lab.start()
    report = lab.at_rest(published)
    last.terminate(10)
    assert_proven(report)


@pytest.mark.proof
@pytest.mark.timeout(700)
def test_a_two_minute_step_with_a_session_of_ten_seconds_causes_no_rebalance(lab):
    published = lab.load(rate=1000, count=100).start().finish()
    worker = lab.start("--session-s", "10", "--delay-ms", "1", "--slow-every", "20", "--slow-s", "120")
    feeding(worker)
    # By chance one key may have several slow records, which then wait for each other: up to four in a row.
    report = lab.at_rest(published, 520)
    assert_proven(report)
    assert "revoked" not in worker.said()
    assert "lost" not in worker.said()
    worker.terminate(10)


# -- the engine broken on purpose: each break must turn its number red --------------------------------------------


def test_offsets_outside_the_transaction_are_found_out(lab):
    report = kills(lab, 5, "--break", Break.TRANSACTION)
    assert {"doubled", "contradicting"} <= set(report.faults)


def test_metadata_that_is_dropped_is_found_out(lab):
    """A slow record holds the committed offset back; what is done beyond it must not be done again."""
    report = kills(lab, 3, "--break", Break.METADATA, "--slow-every", "100", "--slow-s", "2", alive_s=1.5)
    assert {"doubled", "contradicting"} <= set(report.faults)


def test_results_of_a_lost_partition_are_found_out(lab):
    """A record is worked on for longer than the revoke waits; its result comes when the partition has moved."""
    slow = ("--slow-every", "40", "--slow-s", "4", "--grace-s", "0.2")
    with lab.load(rate=200) as load:
        first = lab.start("--break", Break.EPOCH, *slow)
        feeding(first)
        time.sleep(1)
        second = lab.start("--break", Break.EPOCH, *slow, slot="1")
        feeding(second)
        time.sleep(5)
        published = load.stop()
    wait_until(lambda: lab.report(published).doubled, 30, "something is doubled", poll_s=0.5)


def test_the_same_without_the_break_is_proven(lab):
    """The control of the three tests above: the same slow steps and short grace, and nothing is found."""
    slow = ("--slow-every", "40", "--slow-s", "4", "--grace-s", "0.2")
    with lab.load(rate=200) as load:
        first = lab.start(*slow)
        feeding(first)
        time.sleep(1)
        second = lab.start(*slow, slot="1")
        feeding(second)
        time.sleep(5)
        published = load.stop()
    report = lab.at_rest(published)
    for worker in (first, second):
        worker.terminate(10)
    assert_proven(report)
