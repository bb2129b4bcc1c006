"""Failed attempts: every road ends, pauses keep their bounds, and parked keys are counted right."""

from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.stream.limits import RetryLimits
from pipeline.stream.retry import Again, Exhausted, Park, ParkedKeys, after_failure, pause
from tests.engine.profile import quick

seconds = st.floats(0.001, 100, allow_nan=False)


@st.composite
def limits(draw):
    base = draw(st.floats(0.001, 10))
    return RetryLimits(
        base_s=base,
        cap_s=base * draw(st.floats(1, 100)),
        jitter=draw(st.floats(0, 0.99)),
        lane_attempts=draw(st.integers(1, 6)),
        lane_keys=draw(st.integers(0, 3)),
        attempts=draw(st.integers(1, 40)),
        ceiling_s=draw(st.floats(0.01, 1000)),
    )


def decide(rules, **changes):
    facts = {
        "attempt": 1,
        "first_failure_s": 1000.0,
        "now_s": 1000.0,
        "after_s": None,
        "parked": False,
        "lane_has_room": True,
        "random": Random(0),
    }
    return after_failure(rules, **{**facts, **changes})


@quick
@given(
    limits(),
    st.booleans(),
    st.lists(st.tuples(seconds, st.one_of(st.none(), seconds)), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_a_record_that_always_fails_is_exhausted_within_both_ceilings(rules, parked, works, seed):
    first = now = 5_000.0
    attempt = 0
    random = Random(seed)
    while True:
        attempt += 1
        assert attempt <= rules.attempts
        work_s, after_s = works[attempt % len(works)]
        decision = decide(
            rules, attempt=attempt, first_failure_s=first, now_s=now, after_s=after_s, parked=parked, random=random
        )
        match decision:
            case Exhausted():
                break
            case Park():
                assert not parked
                parked = True
            case Again():
                now += decision.delay_s
                assert now - first <= rules.ceiling_s + 1e-6
                now += work_s
    assert decision.ceiling


@quick
@given(limits(), st.integers(1, 200), st.integers(0, 2**32))
def test_a_pause_lies_within_its_jitter_and_below_the_cap(rules, attempt, seed):
    middle = min(rules.cap_s, rules.base_s * 2.0 ** (attempt - 1))
    drawn = pause(rules, attempt, Random(seed))
    assert middle * (1 - rules.jitter) * 0.999 <= drawn <= min(rules.cap_s, middle * (1 + rules.jitter) * 1.001)


@quick
@given(limits(), st.integers(1, 60), st.integers(0, 2**32))
def test_with_the_same_luck_a_later_pause_is_never_shorter(rules, attempt, seed):
    assert pause(rules, attempt, Random(seed)) <= pause(rules, attempt + 1, Random(seed))


@quick
@given(limits(), st.integers(1, 5), st.floats(0, 2000), st.booleans())
def test_what_the_provider_asked_for_is_never_cut_short(rules, attempt, after_s, parked):
    match decide(rules, attempt=attempt, after_s=after_s, parked=parked):
        case Again(delay_s):
            assert delay_s >= after_s
        case Park():
            assert after_s <= rules.ceiling_s
        case Exhausted(ceiling):
            assert attempt >= rules.attempts or ceiling.startswith("time")


@quick
@given(limits(), st.integers(1, 50), st.booleans(), st.booleans())
def test_only_a_record_in_its_lane_is_parked_and_only_when_its_budget_is_spent(rules, attempt, parked, room):
    decision = decide(rules, attempt=attempt, parked=parked, lane_has_room=room)
    assume(not isinstance(decision, Exhausted))
    spent = not parked and (attempt >= rules.lane_attempts or not room)
    assert isinstance(decision, Park) == spent


def test_a_wait_that_would_pass_the_ceiling_is_the_end_at_once():
    rules = RetryLimits(ceiling_s=60)
    assert isinstance(decide(rules, after_s=61.0), Exhausted)
    assert isinstance(decide(rules, after_s=59.0), Again)


@quick
@given(st.lists(st.tuples(st.sampled_from([None, b"a", b"b", b"c"]), st.booleans()), max_size=60))
def test_parked_keys_count_like_a_bag(acts):
    parked = ParkedKeys({b"a": 1}, unkeyed=1)
    bag = [b"a", None]
    for key, comes in acts:
        if comes:
            parked.add(key)
            bag.append(key)
        elif key in bag:
            parked.remove(key)
            bag.remove(key)
        assert parked.total == len(bag)
        assert parked.keys == {key for key in bag if key is not None}
        assert [key in parked for key in (b"a", b"b", b"c")] == [key in bag for key in (b"a", b"b", b"c")]


def test_a_key_that_was_never_parked_is_not_counted_when_it_is_done():
    parked = ParkedKeys({b"a": 1})
    parked.remove(b"stranger")
    assert (parked.total, parked.keys) == (1, {b"a"})
