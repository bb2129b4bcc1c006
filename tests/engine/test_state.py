"""The keyed memory of a partition, and the repeats that it recognises, against a plain dict."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DecodeError
from pipeline.stream.identity import Fresh, Repeat, admit
from pipeline.stream.state import State
from tests.engine.profile import quick

KEYS = [b"a", b"b", b"c", b"d", b"e", b"f"]
acts = st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=2))), max_size=60)


def replayed(limit, changes):
    state = State(limit)
    for change in changes:
        state.restore(change.key, change.value)
    return state


def content(state):
    return {key: state.get(key) for key in KEYS if state.get(key) is not None}


def act(state, model, key, value):
    """One write to both; the model is a dict in order of writing. Returns what goes to the topic."""
    model.pop(key, None)
    if value is None:
        return (state.delete(key),)
    model[key] = value
    return state.put(key, value)


@quick
@given(acts, st.integers(1, 5))
def test_it_holds_the_newest_writes_up_to_its_limit(writes, limit):
    state, model = State(limit), {}
    for key, value in writes:
        act(state, model, key, value)
        while len(model) > limit:
            del model[next(iter(model))]
        assert content(state) == model
        assert len(state) == len(model)
        assert state.oldest() == next(iter(model.items()), None)


@quick
@given(acts, st.integers(1, 5), st.booleans())
def test_the_topic_brings_back_the_same_content_compacted_or_not(writes, limit, compacted):
    state, log = State(limit), []
    for key, value in writes:
        log += act(state, {}, key, value)
    if compacted:
        last = {change.key: at for at, change in enumerate(log)}
        log = [change for at, change in enumerate(log) if last[change.key] == at]
    restored = replayed(limit, log)
    assert content(restored) == content(state)
    assert restored.oldest() == state.oldest()


@quick
@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=30), st.integers(1, 3))
def test_a_lowered_limit_is_reached_by_two_at_most_in_one_write(keys, limit):
    state = State(1_000)
    for key in KEYS:
        state.put(key, b"old")
    state.limit = limit
    count = 0
    for key in keys:
        before = len(state)
        changes = state.put(key, b"new")
        forgotten = [change.key for change in changes if change.value is None]
        assert len(forgotten) <= 2
        assert key not in forgotten
        assert len(state) <= max(limit, before + 1 - 2)
        count += len(forgotten)
    assert state.evicted == count


def test_a_state_record_without_a_key_is_refused():
    with pytest.raises(DecodeError, match="something else writes"):
        State(10).restore(None, b"x")


HORIZON = 1_000
events = st.lists(
    st.tuples(
        st.sampled_from([("s", "1"), ("s", "2"), ("s1", ""), ("", "s1"), ("ü", "\ud800")]),
        st.sampled_from([(b"k", b"v"), (b"k", b"w"), (b"kv", b""), (b"kv", None), (None, b"kv"), (b"", b"kv")]),
        st.integers(0, 700),
    ),
    max_size=40,
)


def look(state, identity, content, now_ms):
    return admit(
        state,
        source=identity[0],
        event_id=identity[1],
        key=content[0],
        value=content[1],
        now_ms=now_ms,
        horizon_ms=HORIZON,
    )


@quick
@given(events, st.booleans())
def test_a_repeat_within_the_horizon_is_recognised_and_only_that(came, restarts):
    state, model, log, now = State(100), {}, [], 5_000
    for identity, bytes_, pause_ms in came:
        now += pause_ms
        if restarts:
            state = replayed(100, log)
        seen = look(state, identity, bytes_, now)
        taken = model.get(identity)
        if taken is None or now - taken[1] > HORIZON:
            assert isinstance(seen, Fresh)
            model[identity] = (bytes_, now)
            log += seen.changes
        elif taken[0] == bytes_:
            assert seen is Repeat.DUPLICATE
        else:
            assert seen is Repeat.CONFLICT


@quick
@given(events)
def test_what_is_past_the_horizon_is_forgotten_bit_by_bit(came):
    state, now = State(100), 5_000
    for identity, bytes_, pause_ms in came:
        now += pause_ms
        before = state.oldest()
        seen = look(state, identity, bytes_, now)
        if isinstance(seen, Fresh) and before is not None:
            taken = int.from_bytes(before[1][16:], "big")
            assert (state.oldest() != before) or now - taken <= HORIZON


def test_at_the_limit_the_oldest_identity_is_new_again():
    state = State(2)
    for n in range(3):
        assert isinstance(look(state, ("s", str(n)), (b"k", b"v"), n), Fresh)
    assert look(state, ("s", "2"), (b"k", b"v"), 3) is Repeat.DUPLICATE
    assert isinstance(look(state, ("s", "0"), (b"k", b"v"), 3), Fresh)


def test_the_horizon_itself_still_counts():
    state = State(10)
    look(state, ("s", "1"), (b"k", b"v"), 5_000)
    assert look(state, ("s", "1"), (b"k", b"v"), 5_000 + HORIZON) is Repeat.DUPLICATE
    assert isinstance(look(state, ("s", "1"), (b"k", b"v"), 5_001 + HORIZON), Fresh)


def test_a_clock_that_goes_back_makes_no_repeat_new():
    state = State(10)
    look(state, ("s", "1"), (b"k", b"v"), 10_000)
    assert look(state, ("s", "1"), (b"k", b"v"), 100) is Repeat.DUPLICATE


def test_other_memories_in_the_same_state_are_left_alone():
    state = State(10)
    state.put(b"once:review-1", b"1700000000000")
    assert isinstance(look(state, ("s", "1"), (b"k", b"v"), 10_000), Fresh)
    assert state.get(b"once:review-1") is not None


def test_an_entry_is_small_and_says_when_it_was_taken():
    changes = look(State(10), ("s" * 10_000, "1"), (b"k", b"v"), 77).changes
    assert [len(change.key) for change in changes] == [16]
    assert changes[0].value[16:] == pack(">q", 77)
