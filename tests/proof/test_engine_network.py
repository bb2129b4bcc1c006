"""The engine while the network or the broker goes away: nothing is lost, doubled or reordered, and it goes on."""

import time

import pytest

from tests.proof.kafka_frames import ADD_OFFSETS_TO_TXN, PRODUCE, TXN_OFFSET_COMMIT
from tests.proof.load import Load
from tests.proof.test_engine import Lab, assert_proven, feeding

pytestmark = pytest.mark.broker

LONG = pytest.mark.proof


@pytest.fixture
def lab(direct, environment, topics, crew):
    return Lab(direct, environment, topics, crew)


@pytest.mark.parametrize("fault", ["cut", pytest.param("stall", marks=LONG)])
def test_a_network_that_is_gone_for_shorter_than_the_session_does_no_harm(lab, proxy, proxied, fault):
    with lab.load() as load:
        worker = lab.start("--session-s", "10", bootstrap=proxied)
        feeding(worker)
        for _ in range(3):
            time.sleep(1)
            getattr(proxy, fault)()
            time.sleep(2)
            proxy.let_pass()
        time.sleep(1)
        published = load.stop()
    assert_proven(lab.at_rest(published))
    assert worker.terminate(10) < 10


@pytest.mark.parametrize("fault", ["cut", pytest.param("stall", marks=LONG)])
def test_a_worker_that_was_cut_off_past_its_session_adds_nothing(lab, proxy, proxied, fault):
    """Another worker has taken its partitions over and gone on when the network comes back."""
    with lab.load() as load:
        worker = lab.start("--session-s", "3", "--delay-ms", "20", bootstrap=proxied)
        feeding(worker)
        time.sleep(1)
        getattr(proxy, fault)()
        heir = lab.start(slot="1")
        feeding(heir)
        time.sleep(2)
        proxy.let_pass()
        time.sleep(3)
        published = load.stop()
    assert_proven(lab.at_rest(published))
    for one in (worker, heir):
        assert one.terminate(10) < 10


@pytest.mark.parametrize(
    ("api_key", "when"),
    [
        (PRODUCE, "after"),
        (TXN_OFFSET_COMMIT, "after"),
        pytest.param(PRODUCE, "before", marks=LONG),
        pytest.param(TXN_OFFSET_COMMIT, "before", marks=LONG),
        pytest.param(ADD_OFFSETS_TO_TXN, "before", marks=LONG),
        pytest.param(ADD_OFFSETS_TO_TXN, "after", marks=LONG),
    ],
)
def test_a_cut_at_any_step_of_a_round_does_no_harm(lab, proxy, proxied, api_key, when):
    with lab.load() as load:
        worker = lab.start("--session-s", "10", bootstrap=proxied)
        feeding(worker)
        time.sleep(1)
        proxy.cut_on(api_key, when)
        proxy.wait_cut(20)
        time.sleep(1)
        proxy.let_pass()
        time.sleep(2)
        published = load.stop()
    assert_proven(lab.at_rest(published))
    assert worker.terminate(10) < 10


@LONG
def test_a_slow_network_only_takes_longer(lab, proxy, proxied):
    with lab.load(rate=200) as load:
        proxy.delay(50)
        worker = lab.start("--session-s", "10", bootstrap=proxied)
        feeding(worker)
        time.sleep(4)
        published = load.stop()
        report = lab.at_rest(published)
    assert_proven(report)
    assert worker.terminate(10) < 10


def test_a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing(lab, broker, proxied):
    with Load(proxied, lab.input, keys=40, rate=400, poison_every=20) as load:
        worker = lab.start("--session-s", "10", bootstrap=proxied)
        feeding(worker)
        time.sleep(1.5)
        broker.kill()
        broker.start()
        time.sleep(3)
        published = load.stop()
    lab.direct = broker.direct
    assert_proven(lab.at_rest(published))
    assert worker.terminate(10) < 10
