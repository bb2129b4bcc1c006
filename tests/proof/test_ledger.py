"""What lies in real topics is read back whole, and only when it is settled."""

import threading
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.proof.ledger import Unreadable, committed_offsets, read, read_uncommitted

pytestmark = pytest.mark.broker


def transactional(bootstrap: str, name: str) -> Producer:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "transaction.timeout.ms": 60_000})
    producer.init_transactions(20)
    return producer


def write(producer: Producer, topic: str, *values: bytes, partition: int = 0) -> None:
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(20) == 0


def values(records) -> list[bytes]:
    return [record.value for record in records]


def test_keys_values_and_headers_come_back_as_they_are(direct, topics):
    (topic,) = topics("a")
    producer = Producer({"bootstrap.servers": direct})
    headers = [("x", b"\xff\x00"), ("x", None), ("y", b"")]
    producer.produce(topic, b"\x00\xfe", key=b"\xff", partition=2, headers=headers, timestamp=1_700_000_000_123)
    producer.produce(topic, None, key=None, partition=2)
    assert producer.flush(20) == 0
    first, second = read(direct, [topic])[topic]
    assert (first.key, first.value, first.headers) == (b"\xff", b"\x00\xfe", tuple(headers))
    assert (first.partition, first.offset, first.timestamp_ms) == (2, 0, 1_700_000_000_123)
    assert (second.key, second.value, second.headers) == (None, None, ())


def test_an_empty_topic_is_read_as_empty(direct, topics):
    (topic,) = topics("a")
    assert read(direct, [topic])[topic] == ()


def test_partitions_that_end_in_markers_and_aborted_records_are_read_to_their_end(direct, topics, environment):
    (topic,) = topics("a")
    producer = transactional(direct, environment)
    for commits, value in [(True, b"1"), (False, b"aborted"), (True, b"2"), (False, b"aborted too")]:
        producer.begin_transaction()
        write(producer, topic, value)
        if commits:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)
    producer.begin_transaction()
    write(producer, topic, b"only aborted here", partition=1)
    producer.abort_transaction(20)
    began = time.monotonic()
    assert values(read(direct, [topic])[topic]) == [b"1", b"2"]
    assert time.monotonic() - began < 10
    assert len(read_uncommitted(direct, [topic])[topic]) == 5


def test_an_open_transaction_is_waited_for(direct, topics, environment):
    (topic,) = topics("a")
    producer = transactional(direct, environment)
    producer.begin_transaction()
    write(producer, topic, b"in time")
    threading.Timer(1.0, lambda: producer.commit_transaction(20)).start()
    assert values(read(direct, [topic])[topic]) == [b"in time"]


def test_a_transaction_that_stays_open_is_an_error_that_names_its_partition(direct, topics, environment):
    (topic,) = topics("a")
    producer = transactional(direct, environment)
    producer.begin_transaction()
    write(producer, topic, b"never settled", partition=3)
    with pytest.raises(Unreadable, match=rf"{topic}\[3\]': 'stable to 0 of 1"):
        read(direct, [topic], timeout_s=1)
    producer.abort_transaction(20)


def test_records_that_came_after_the_call_belong_to_the_next_one(direct, topics):
    (topic,) = topics("a")
    producer = Producer({"bootstrap.servers": direct})
    write(producer, topic, *[b"%d" % n for n in range(1000)])
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            producer.produce(topic, b"later", partition=0)
            producer.poll(0)
            time.sleep(0.0005)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        found = values(read(direct, [topic], timeout_s=20)[topic])
    finally:
        stop.set()
        thread.join()
    assert found[:1000] == [b"%d" % n for n in range(1000)]


def test_a_topic_that_does_not_exist_is_an_error(direct):
    with pytest.raises(Unreadable, match=r"do not exist: \['no-such-topic'\]"):
        read(direct, ["no-such-topic"])


def test_a_topic_that_was_not_read_cannot_be_asked_for(direct, topics):
    (topic,) = topics("a")
    with pytest.raises(Unreadable, match="was not read"):
        read(direct, [topic])["another"]


def test_the_offsets_of_a_group_are_read_with_the_records(direct, topics, environment):
    (topic,) = topics("a")
    producer = transactional(direct, environment)
    consumer = Consumer({"bootstrap.servers": direct, "group.id": environment})
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(topic, 2, 17)], consumer.consumer_group_metadata(), 20)
    producer.commit_transaction(20)
    consumer.close()
    ledger = read(direct, [topic], groups=[environment, "a-group-that-is-not"])
    assert ledger.committed == {(environment, topic, 2): 17}
    assert committed_offsets(direct, environment) == {(topic, 2): 17}
