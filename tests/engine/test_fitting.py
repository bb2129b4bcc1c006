"""What goes into a round when the commit's metadata has not room for all that is finished."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.fitting import fitting_prefix
from pipeline.stream.progress import Progress
from tests.engine.builders import a_delivery, a_tenure
from tests.engine.profile import quick

LIMIT = "pipeline.stream.progress.BODY_LIMIT"


@st.composite
def cases(draw):
    """(limit, base, finished): a base that fits, and what finished since, in an order that lanes allow."""
    limit = draw(st.integers(4, 24))
    at = draw(st.integers(0, 1000))
    base = Progress(at)
    track = a_tenure(progress=base).input
    open_by_key = {}
    for key in draw(st.lists(st.sampled_from([None, b"a", b"b", b"c"]), max_size=40)):
        offset = at + draw(st.integers(0, 2))
        open_by_key.setdefault(key, []).append(a_delivery(track, offset, cover=at, key=key))
        at = offset + 1

    def finish_one():
        key = draw(st.sampled_from([key for key in open_by_key if open_by_key[key]]))
        one = draw(st.integers(0, len(open_by_key[key]) - 1)) if key is None else 0
        return open_by_key[key].pop(one)

    with patch(LIMIT, limit):
        for _ in range(draw(st.integers(0, 10))):
            if not any(open_by_key.values()):
                break
            one = finish_one()
            trial = base.copy()
            trial.mark(one.cover, one.offset + 1)
            if not trial.fits():
                open_by_key[one.key] = sorted([*open_by_key[one.key], one], key=lambda d: d.offset)
                break
            base = trial
    finished = []
    for _ in range(draw(st.integers(0, 40))):
        if any(open_by_key.values()):
            finished.append(finish_one())
    return limit, base, finished


rooms = st.one_of(st.just(1000), st.integers(1, 10))


def with_all(base, deliveries):
    progress = base.copy()
    for delivery in deliveries:
        progress.mark(delivery.cover, delivery.offset + 1)
    return progress


@quick
@given(cases(), rooms)
def test_what_is_chosen_fits_and_is_what_the_progress_says(case, room):
    limit, base, finished = case
    with patch(LIMIT, limit):
        chosen, progress = fitting_prefix(base, finished, room)
        assert progress.fits()
    expected = with_all(base, chosen)
    assert (progress.base, progress.runs) == (expected.base, expected.runs)
    assert len(chosen) == len(set(chosen)) <= room
    assert set(chosen) <= set(finished)


@quick
@given(cases(), rooms)
def test_it_is_a_prefix_in_finishing_order_and_then_only_the_lowest(case, room):
    limit, base, finished = case
    with patch(LIMIT, limit):
        chosen, _ = fitting_prefix(base, finished, room)
    prefix = 0
    while prefix < len(chosen) and chosen[prefix] is finished[prefix]:
        prefix += 1
    progress = with_all(base, chosen[:prefix])
    for delivery in chosen[prefix:]:
        assert delivery.cover <= progress.base
        progress.mark(delivery.cover, delivery.offset + 1)


@quick
@given(cases(), rooms)
def test_no_key_is_overtaken(case, room):
    limit, base, finished = case
    with patch(LIMIT, limit):
        chosen, _ = fitting_prefix(base, finished, room)
    for key in {delivery.key for delivery in finished} - {None}:
        of_key = [delivery for delivery in finished if delivery.key == key]
        taken = [delivery for delivery in chosen if delivery.key == key]
        assert taken == of_key[: len(taken)]


@quick
@given(cases(), rooms)
def test_the_lowest_one_is_never_left_waiting(case, room):
    limit, base, finished = case
    with patch(LIMIT, limit):
        chosen, _ = fitting_prefix(base, finished, room)
    lowest = [delivery for delivery in finished if delivery.cover <= base.base]
    assert not lowest or chosen


@quick
@given(cases(), rooms)
def test_nothing_waits_while_there_is_room_for_the_next(case, room):
    limit, base, finished = case
    with patch(LIMIT, limit):
        chosen, progress = fitting_prefix(base, finished, room)
        if with_all(base, finished).fits() and room >= len(finished):
            assert chosen == finished
        elif len(chosen) < room and chosen == finished[: len(chosen)] != finished:
            assert not with_all(progress, finished[len(chosen) : len(chosen) + 1]).fits()


@quick
@given(cases())
def test_with_the_missing_ones_finished_everything_gets_in_at_last(case):
    limit, base, finished = case
    waiting = list(finished)
    end = max((d.offset for d in finished), default=-1) + 1
    with patch(LIMIT, limit):
        while waiting:
            chosen, base = fitting_prefix(base, waiting, 3)
            if not chosen:
                # Somebody finishes the lowest hole: that is what the partition waits for.
                hole = min(d.cover for d in waiting)
                base = base.copy()
                base.mark(base.base, min([hole, *(start for start, _ in base.runs), end]))
            waiting = [delivery for delivery in waiting if delivery not in chosen]


def test_the_lowest_ones_too_are_no_more_than_there_is_room_for():
    track = a_tenure().input
    low = [a_delivery(track, offset) for offset in range(4)]
    far = [a_delivery(track, offset) for offset in (20, 40, 60)]
    with patch(LIMIT, 2):
        chosen, _ = fitting_prefix(Progress(0), [*far, *low], 3)
    assert chosen == [far[0], low[0], low[1]]


def test_at_the_true_limit_thousands_of_holes_leave_room_for_the_lowest():
    track = a_tenure().input
    odd = [a_delivery(track, offset) for offset in range(1, 12_000, 2)]
    chosen, progress = fitting_prefix(Progress(0), odd, 5_000)
    assert 1_500 < len(chosen) < 3_000
    assert chosen == odd[: len(chosen)]
    lowest = a_delivery(track, 0)
    more, after = fitting_prefix(progress, [*odd[len(chosen) :], lowest], 5_000)
    assert lowest in more
    assert after.fits()
