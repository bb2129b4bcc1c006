"""What a view holds in memory: the same as a dict would, whatever was written, in whatever order it was read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context.entries import ENTRY_BYTES, Entries, ViewLimits
from pipeline.errors import ConfigError, StageStopped
from pipeline.steps.enrich import Found, Missing, Unreadable

KEYS = ["a", "b", "c", "é"]
PARTITIONS = 3

keys = st.sampled_from(KEYS)
values = st.none() | st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 9) | st.text(max_size=3), max_size=2)


def text(value):
    return None if value is None else json.dumps(value).encode()


def entries(partitions=PARTITIONS, **limits):
    made = Entries("context-things", ViewLimits(**limits))
    made.add_partitions(range(partitions))
    return made


def of_key(key):
    return sum(key.encode()) % PARTITIONS


def content(held):
    """What a caller can see: everything under every key."""
    return {key: found.value for key in KEYS if isinstance(found := held.find(key), Found)}


@given(st.lists(st.tuples(keys, values)), st.integers(0, 20))
def test_after_any_writes_and_deletions_it_holds_what_a_dict_holds(writes, settled_after):
    held, expected = entries(), {}
    for offset, (key, value) in enumerate(writes):
        if offset == settled_after:
            held.settle()
        held.put(of_key(key), offset, offset, key.encode(), text(value))
        expected[key] = value
    assert content(held) == {key: value for key, value in expected.items() if value is not None}


@given(st.lists(st.tuples(keys, values)))
def test_once_settled_what_it_counts_is_what_a_dict_holds(writes):
    held, expected = entries(), {}
    for offset, (key, value) in enumerate(writes):
        held.put(of_key(key), offset, 0, key.encode(), text(value))
        expected[key] = value
    held.settle()
    kept = {key: value for key, value in expected.items() if value is not None}
    assert held.count == len(kept)
    assert held.bytes == sum(ENTRY_BYTES + len(key.encode()) + len(text(value)) for key, value in kept.items())


# A log for each partition, in which one key may lie in several, with the owner's clock running on in each of them.
logs = st.lists(st.lists(st.tuples(keys, values, st.integers(0, 3)), max_size=6), min_size=2, max_size=PARTITIONS)


def timed(log):
    at_ms, records = 0, []
    for offset, (key, value, pause_ms) in enumerate(log):
        at_ms += pause_ms
        records.append((offset, at_ms, key.encode(), text(value)))
    return records


@given(logs, st.randoms(use_true_random=False))
def test_the_order_in_which_partitions_are_read_does_not_matter(logs, random):
    queues = [timed(log) for log in logs]
    in_turn, mixed = entries(), entries()
    for partition, queue in enumerate(queues):
        for record in queue:
            in_turn.put(partition, *record)
    left = [(partition, list(queue)) for partition, queue in enumerate(queues) if queue]
    while left:
        partition, queue = chosen = random.choice(left)
        mixed.put(partition, *queue.pop(0))
        if not queue:
            left.remove(chosen)
    for held in (in_turn, mixed):
        held.settle()
    assert [in_turn.find(key) for key in KEYS] == [mixed.find(key) for key in KEYS]
    assert (in_turn.count, in_turn.bytes) == (mixed.count, mixed.bytes)


def test_what_was_found_tells_where_it_lies_and_since_when():
    held = entries()
    held.put(2, 17, 1_000, b"a", b'{"x":1}')
    assert held.find("a") == Found({"x": 1}, 1_000, "context-things[2]@17")


def test_a_record_without_a_timestamp_has_none():
    held = entries()
    held.put(0, 0, -1, b"a", b"{}")
    assert held.find("a").timestamp_ms is None


def test_what_nobody_wrote_is_missing():
    assert entries().find("a") == Missing("context-things")


def test_a_key_that_no_utf_8_can_spell_is_missing():
    assert entries().find("\ud800") == Missing("context-things")


@pytest.mark.parametrize(
    "value",
    [b"", b"nonsense", b"\xff\xfe", b"[1]", b'"text"', b"null", b"NaN", b'{"x":1e999}', b"[" * 100_000],
    ids=["empty", "no json", "no utf-8", "list", "string", "null", "nan", "too large", "too deep"],
)
def test_a_value_that_is_no_json_object_is_unreadable_and_counted(value):
    held = entries()
    held.put(0, 5, 1_000, b"a", value)
    assert held.find("a") == Unreadable(1_000, "context-things[0]@5")
    assert held.unreadable == 1


def test_a_readable_value_ends_the_complaint():
    held = entries()
    held.put(0, 5, 1_000, b"a", b"nonsense")
    held.put(0, 6, 1_000, b"a", b"{}")
    assert isinstance(held.find("a"), Found)
    assert held.unreadable == 0


def test_a_record_without_a_key_is_counted_and_hurts_nobody():
    held = entries()
    held.put(0, 5, 1_000, None, b"{}")
    assert (held.keyless, held.count) == (1, 0)


def test_nobody_can_change_what_others_will_be_given():
    held = entries()
    held.put(0, 0, 0, b"a", b'{"x":[1]}')
    held.find("a").value["x"].append(2)
    assert held.find("a").value == {"x": [1]}


def test_the_newer_of_one_key_in_two_partitions_counts_also_when_it_is_a_deletion():
    held = entries()
    held.put(0, 0, 5_000, b"a", None)
    held.put(1, 0, 4_000, b"a", b"{}")
    held.settle()
    assert isinstance(held.find("a"), Missing)


def test_a_key_that_comes_back_after_its_deletion_is_found():
    held = entries()
    held.settle()
    held.put(0, 0, 5_000, b"a", b"{}")
    held.put(0, 1, 5_000, b"a", None)
    held.put(0, 2, 4_000, b"a", b'{"x":2}')
    assert held.find("a").value == {"x": 2}


def test_a_partition_that_is_added_later_is_looked_into():
    held = entries(partitions=1)
    held.settle()
    held.add_partitions([0, 1])
    held.put(1, 0, 0, b"a", b"{}")
    assert isinstance(held.find("a"), Found)


def test_at_the_limit_of_entries_it_stops_and_names_topic_and_setting():
    held = entries(max_entries=2)
    held.put(0, 0, 0, b"a", b"{}")
    held.put(0, 1, 0, b"b", b"{}")
    held.put(0, 2, 0, b"b", b'{"again":true}')
    with pytest.raises(
        StageStopped, match=r"context-things holds more than context_max_entries = 2 .*LOCKGATE_CONTEXT"
    ):
        held.put(0, 3, 0, b"c", b"{}")


def test_at_the_limit_of_bytes_it_stops_and_names_topic_and_setting():
    held = entries(max_bytes=1_000)
    held.put(0, 0, 0, b"a", b"{}")
    with pytest.raises(StageStopped, match=r"context-things holds more than context_max_bytes = 1,000 "):
        held.put(0, 1, 0, b"a", b'{"x":"%s"}' % (b"x" * 700))


def test_keys_that_come_and_go_for_ever_do_not_fill_it():
    held = entries(max_entries=3)
    held.settle()
    for offset in range(0, 1_000, 2):
        held.put(0, offset, 0, b"k%d" % offset, b"{}")
        held.put(0, offset + 1, 0, b"k%d" % offset, None)
    assert held.count == 0


@pytest.mark.parametrize("name", ["max_entries", "max_bytes", "patience_s"])
def test_a_limit_of_nothing_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"context_{name} must be above 0"):
        ViewLimits(**{name: 0})
