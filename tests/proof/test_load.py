"""The publisher says exactly what lies in the topic."""

import pytest

from tests.proof.ledger import read
from tests.proof.load import Load

pytestmark = pytest.mark.broker


def positions(things):
    return [(thing.partition, thing.offset) for thing in things]


@pytest.fixture
def topic(topics):
    return topics("events")[0]


def test_what_was_acknowledged_is_what_lies_in_the_topic(direct, topic):
    with Load(direct, topic, keys=7, rate=5_000, count=1_000, poison_every=10) as load:
        published = load.finish()
    found = {(r.partition, r.offset): r for r in read(direct, [topic])[topic]}
    assert len(published) == 1_000
    assert set(positions(published)) == set(found)
    for event in published:
        record = found[event.partition, event.offset]
        assert (record.key, record.value, record.headers) == (event.key, event.value, event.headers)


def test_identities_are_unique_and_headers_name_them(direct, topic):
    with Load(direct, topic, rate=5_000, count=300) as load:
        published = load.finish()
    records = read(direct, [topic])[topic]
    assert len({record.header("ce_id") for record in records}) == 300
    assert {record.header("ce_source") for record in records} == {f"/proof/{load.run}".encode()}
    assert all(record.header("ce_subject") == record.key for record in records)
    assert {event.event_id.encode() for event in published} == {record.header("ce_id") for record in records}


def test_the_events_of_a_key_lie_in_one_partition_in_the_order_of_their_sequence(direct, topic):
    with Load(direct, topic, keys=5, rate=5_000, count=1_000) as load:
        published = load.finish()
    for key in {event.key for event in published}:
        mine = sorted((e.partition, e.offset, e.sequence) for e in published if e.key == key)
        assert len({partition for partition, _, _ in mine}) == 1
        assert [sequence for _, _, sequence in mine] == list(range(200))


def test_poison_is_mixed_in_as_bytes_that_are_no_text(direct, topic):
    with Load(direct, topic, rate=5_000, count=100, poison_every=10) as load:
        poison = [event for event in load.finish() if event.poison]
    assert len(poison) == 10
    for event in poison:
        for part in (event.key, event.value, dict(event.headers)["not-text"]):
            with pytest.raises(UnicodeDecodeError):
                part.decode()


def test_repeats_are_published_twice_with_the_same_bytes(direct, topic):
    with Load(direct, topic, rate=5_000, count=100, repeat_every=10) as load:
        published = load.finish()
    assert len(published) == 110
    assert len({(event.event_id, event.key, event.value) for event in published}) == 100


def test_it_goes_on_at_its_rate_until_it_is_stopped(direct, topic):
    with Load(direct, topic, rate=200) as load:
        load._thread.join(1.5)
        published = load.stop()
    assert 200 <= len(published) <= 320


def test_what_the_broker_refuses_is_an_error(direct, topics):
    (small,) = topics("small", **{"max.message.bytes": "300"})
    with Load(direct, small, count=3) as load, pytest.raises(AssertionError, match="3 events were not taken"):
        load.finish()
