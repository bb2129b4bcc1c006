"""Which offsets are done: exact in any order of finishing, and never lost or invented on the way through a commit."""

from unittest.mock import patch

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import StageStopped
from pipeline.stream.progress import BODY_LIMIT, METADATA_LIMIT, Progress, decode
from tests.engine.builders import a_tenure, read_on
from tests.engine.profile import quick

GAPS = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 2**34))


@st.composite
def logs(draw, most=60):
    """(start, offsets): a partition as its reader sees it, with gaps of markers, aborted and compacted records."""
    start = at = draw(st.integers(0, 2**40))
    offsets = []
    for gap in draw(st.lists(GAPS, max_size=most)):
        offsets.append(at + gap)
        at = offsets[-1] + 1
    return start, offsets


@st.composite
def half_done(draw, most=60):
    """(start, records, done): records as (cover, offset), and those of them that are done, in finishing order."""
    start, offsets = draw(logs(most))
    records = list(zip([start, *(offset + 1 for offset in offsets)], offsets, strict=False))
    return start, records, draw(st.permutations([record for record in records if draw(st.booleans())]))


def marked(start, done):
    progress = Progress(start)
    for cover, offset in done:
        progress.mark(cover, offset + 1)
    return progress


def body_of(progress):
    return progress.encode().rpartition(".")[2]


@quick
@given(half_done())
def test_the_base_is_the_lowest_offset_not_done(case):
    start, records, done = case
    open_covers = [record[0] for record in records if record not in done]
    end = records[-1][1] + 1 if records else start
    assert marked(start, done).base == min(open_covers, default=end)


@quick
@given(half_done())
def test_every_offset_that_was_read_is_known_as_done_or_not(case):
    start, records, done = case
    progress = marked(start, done)
    assert [progress.is_done(offset) for _, offset in records] == [record in done for record in records]


@quick
@given(half_done())
def test_runs_are_in_order_and_never_touch_each_other_or_the_base(case):
    start, _, done = case
    progress = marked(start, done)
    edges = [progress.base, *(edge for run in progress.runs for edge in run)]
    assert edges == sorted(set(edges))


@quick
@given(half_done(), st.randoms(use_true_random=False))
def test_the_order_of_finishing_and_repeats_leave_no_trace(case, random):
    start, _, done = case
    again = [*done, *done]
    random.shuffle(again)
    one, other = marked(start, done), marked(start, again)
    assert (one.base, one.runs) == (other.base, other.runs)


@quick
@given(half_done())
def test_a_copy_lives_on_its_own(case):
    start, records, done = case
    progress = marked(start, done)
    before = (progress.base, progress.runs)
    copy = progress.copy()
    for cover, offset in records:
        copy.mark(cover, offset + 1)
    assert (progress.base, progress.runs) == before


@quick
@given(half_done())
def test_a_commit_brings_back_what_it_was_given(case):
    start, _, done = case
    progress = marked(start, done)
    back = decode(progress.base, progress.encode())
    assert (back.base, back.runs) == (progress.base, progress.runs)


@quick
@given(half_done())
def test_metadata_is_printable_ascii_and_empty_when_there_is_nothing_to_say(case):
    start, _, done = case
    progress = marked(start, done)
    metadata = progress.encode()
    assert all(" " < sign <= "~" for sign in metadata)
    assert (metadata == "") == (progress.runs == ())


def striped(runs, last=1):
    """Every second offset done, `runs` times; the last run is `last` long."""
    ends = [(2 * n + 1, 2 * n + 2) for n in range(runs - 1)]
    start = 2 * runs - 1
    return Progress(0, (*ends, (start, start + last)))


def test_a_body_of_exactly_the_limit_fits():
    progress = striped(BODY_LIMIT // 2)
    assert len(body_of(progress)) == BODY_LIMIT
    assert progress.fits()
    assert len(progress.encode()) <= METADATA_LIMIT


def test_a_body_one_sign_above_the_limit_does_not_fit():
    progress = striped(BODY_LIMIT // 2, last=32)
    assert len(body_of(progress)) == BODY_LIMIT + 1
    assert not progress.fits()


def test_few_runs_may_be_too_long_when_their_gaps_are_wide():
    wide = 2**31
    progress = Progress(0, tuple((2 * n * wide + wide, 2 * n * wide + 2 * wide) for n in range(BODY_LIMIT // 12)))
    assert len(body_of(progress)) > BODY_LIMIT
    assert not progress.fits()


@quick
@given(half_done(most=40), st.integers(0, 80))
def test_fits_says_exactly_what_the_length_of_the_body_says(case, limit):
    start, _, done = case
    progress = marked(start, done)
    with patch("pipeline.stream.progress.BODY_LIMIT", limit):
        assert progress.fits() == (len(body_of(progress)) <= limit)


@quick
@given(half_done())
def test_finishing_the_lowest_never_needs_more_room(case):
    start, records, done = case
    progress = marked(start, done)
    sizes = [len(body_of(progress))]
    for cover, offset in records:
        progress.mark(cover, offset + 1)
        sizes.append(len(body_of(progress)))
    assert sizes == sorted(sizes, reverse=True)


@quick
@given(logs(), st.data())
def test_however_often_it_restarts_every_record_is_finished_once(log, data):
    start, offsets = log
    committed = (start, "")
    finished = []
    for _ in range(data.draw(st.integers(0, 4))):
        progress = decode(*committed)
        handed = read_on(a_tenure(progress=progress).input, offsets)
        some = [record for record in handed if data.draw(st.booleans())]
        for cover, offset in data.draw(st.permutations(some)):
            progress.mark(cover, offset + 1)
            finished.append(offset)
        committed = (progress.base, progress.encode())
    last = [offset for _, offset in read_on(a_tenure(progress=decode(*committed)).input, offsets)]
    assert sorted(finished + last) == offsets


@quick
@given(half_done(), st.data())
def test_what_retention_took_away_below_a_hole_is_done(case, data):
    start, records, done = case
    assume(records)
    progress = marked(start, done)
    low = data.draw(st.integers(progress.base, max(progress.base, records[-1][1] + 1)))
    progress.mark(progress.base, low)
    assert progress.base >= low
    assert [progress.is_done(offset) for _, offset in records] == [
        offset < low or (cover, offset) in done for cover, offset in records
    ]


@quick
@given(half_done(), st.data())
def test_one_changed_sign_in_the_metadata_stops_the_stage(case, data):
    start, _, done = case
    metadata = marked(start, done).encode()
    assume(metadata)
    at = data.draw(st.integers(0, len(metadata) - 1))
    sign = data.draw(st.characters(exclude_characters=metadata[at]))
    with pytest.raises(StageStopped, match="did not write"):
        decode(start, metadata[:at] + sign + metadata[at + 1 :])


@quick
@given(half_done(), st.data())
def test_metadata_cut_short_stops_the_stage(case, data):
    start, _, done = case
    metadata = marked(start, done).encode()
    assume(metadata)
    with pytest.raises(StageStopped):
        decode(start, metadata[: data.draw(st.integers(1, len(metadata) - 1))])


@quick
@given(st.text(alphabet=st.characters(), min_size=1))
def test_metadata_of_another_tool_stops_the_stage(metadata):
    with pytest.raises(StageStopped, match="Another tool or a newer version"):
        decode(7, metadata)


@pytest.mark.parametrize("body", ["?", "AB=", "B", "BBB", "AB", "BA", "g", "BBg", ""], ids=repr)
def test_a_right_checksum_over_a_body_that_is_none_stops_the_stage(body):
    from zlib import crc32

    with pytest.raises(StageStopped):
        decode(7, f"1.{crc32(body.encode()):08x}.{body}")


def test_metadata_that_no_encoding_can_write_stops_the_stage():
    with pytest.raises(StageStopped):
        decode(7, "1.00000000.\ud800")


@pytest.mark.parametrize("metadata", [None, ""])
def test_no_metadata_means_nothing_done_beyond_the_offset(metadata):
    progress = decode(7, metadata)
    assert (progress.base, progress.runs) == (7, ())
