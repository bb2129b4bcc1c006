"""What is read before a partition is fed, on the real broker: all of it, also what is not decided yet."""

import threading

from confluent_kafka import Producer

from pipeline.stream.limits import StageLimits
from pipeline.stream.restore import Restorer
from tests.broker.one_stage import Names


def restorer(kafka, names):
    return Restorer(
        {"bootstrap.servers": kafka}, names.route(remembers=True), StageLimits(), lambda: False, lambda _count: None
    )


def test_an_undecided_write_to_the_state_is_waited_for(kafka, environment, create_topics):
    """The former owner's transaction is committed, but its marker has not reached the state topic yet."""
    names = Names(environment)
    create_topics(*names.all, partitions=1)
    settled = Producer({"bootstrap.servers": kafka})
    settled.produce(names.topic("state"), b"old", b"a", 0)
    settled.flush(10)
    former = Producer({"bootstrap.servers": kafka, "transactional.id": f"{environment}.former"})
    former.init_transactions(10)
    former.begin_transaction()
    former.produce(names.topic("state"), b"new", b"a", 0)
    former.produce(names.topic("retry"), b"parked", b"k", 0)
    former.flush(10)
    restored = []
    reading = threading.Thread(target=lambda: restored.extend(restorer(kafka, names).restore([0], 1)))
    reading.start()
    reading.join(3)
    assert reading.is_alive(), "it did not wait for what the open transaction holds"
    former.commit_transaction(10)
    reading.join(20)
    (tenure,) = restored
    assert tenure.state.get(b"a") == b"new"
    assert tenure.parked.keys == {b"k"}


def test_an_aborted_write_leaves_no_trace(kafka, environment, create_topics):
    names = Names(environment)
    create_topics(*names.all, partitions=1)
    former = Producer({"bootstrap.servers": kafka, "transactional.id": f"{environment}.former"})
    former.init_transactions(10)
    former.begin_transaction()
    former.produce(names.topic("state"), b"never", b"a", 0)
    former.produce(names.topic("retry"), b"never", b"k", 0)
    former.flush(10)
    former.abort_transaction(10)
    (tenure,) = restorer(kafka, names).restore([0], 1)
    assert tenure.state.get(b"a") is None
    assert tenure.parked.total == 0
