"""How lag is counted from records and progress, and how it is shown."""

import math

import pytest

from agents.cli.lag import _age, _count, _plain, _rows
from pipeline.stream.lag import PartitionLag, StageLag, _born_ms, _partition_lag, _Tally
from pipeline.stream.progress import Progress


class Record:
    """A record as the client hands it over."""

    def __init__(self, offset, born_ms=0, headers=None):
        self.offset = lambda: offset
        self.timestamp = lambda: (2, born_ms)
        self.headers = lambda: headers


def tally(end, base=0, runs=(), retry=False):
    return _Tally(Progress(base, tuple(runs)), base, end, retry)


def test_only_records_that_are_not_done_count():
    count = tally(10, base=2, runs=[(4, 6)])
    for offset in range(2, 10):
        count.take(Record(offset, born_ms=100 + offset), 1000)
    assert (count.records, count.oldest_ms, count.exact, count.next) == (6, 102, True, 10)


def test_offsets_without_a_record_do_not_count():
    count = tally(10)
    for offset in (0, 7):  # between them and after them: transaction markers
        count.take(Record(offset), 1000)
    count.take(Record(12), 1000)
    assert (count.records, count.exact, count.next) == (2, True, 10)


def test_the_oldest_is_the_oldest_by_its_own_time():
    count = tally(3)
    for offset, born in enumerate((300, 100, 200)):
        count.take(Record(offset, born_ms=born), 1000)
    assert count.oldest_ms == 100


def test_beyond_the_limit_the_count_is_an_upper_bound_without_what_is_done():
    count = tally(100, runs=[(20, 30), (90, 120)])
    for offset in range(10):
        count.take(Record(offset), 10)
    assert (count.records, count.exact, count.next) == (10 + 90 - 10 - 10, False, 100)


def test_the_last_record_at_the_limit_is_still_an_exact_count():
    count = tally(10)
    for offset in range(10):
        count.take(Record(offset), 10)
    assert (count.records, count.exact) == (10, True)


def test_a_partition_full_of_done_records_is_not_read_without_end():
    count = tally(10_000, runs=[(n, n + 1) for n in range(1, 10_000, 2)])
    offset = 0
    while count.next < count.end:
        count.take(Record(offset), 100)
        offset += 1
    assert offset <= 501
    assert (count.records, count.exact) == (5_000, False)


def test_a_long_run_of_done_records_is_passed_over():
    count = tally(10_000, runs=[(1, 9_000)])
    count.take(Record(0), 100)
    assert count.jump()
    assert count.next == 9_000
    count.take(Record(500), 100)  # fetched before the jump
    assert (count.next, count.records) == (9_000, 1)


def test_a_jump_never_leaves_the_range_that_was_asked_for():
    count = tally(5_000, runs=[(0, 9_000)])
    assert count.jump()
    assert count.next == 5_000


def test_a_short_run_is_read_through():
    assert not tally(100, runs=[(0, 50)]).jump()


def test_a_record_of_the_retry_topic_is_as_old_as_when_it_lay_in_the_input():
    headers = [("lockgate_source_timestamp", b"100"), ("lockgate_source_timestamp", b"200")]
    assert _born_ms(Record(0, 900, headers), retry=True) == 200
    assert _born_ms(Record(0, 900, [("lockgate_source_timestamp", b"x")]), retry=True) == 900


def test_what_a_publisher_writes_into_headers_does_not_change_the_age():
    assert _born_ms(Record(0, 900, [("lockgate_source_timestamp", b"100")]), retry=False) == 900


def test_no_age_is_negative_when_the_clocks_differ():
    waiting = tally(1)
    waiting.take(Record(0, born_ms=5_000), 10)
    part = _partition_lag(0, waiting, None, None, now_ms=4_000)
    assert (part.not_done, part.oldest_age_s) == (1, 0.0)


def test_both_topics_make_the_lag_of_a_partition():
    waiting, retrying = tally(2), tally(1, retry=True)
    waiting.take(Record(0, born_ms=3_000), 10)
    retrying.take(Record(0, born_ms=9_000, headers=[("lockgate_source_timestamp", b"1000")]), 10)
    part = _partition_lag(0, waiting, retrying, "host", now_ms=4_000)
    assert (part.waiting, part.retrying, part.not_done, part.oldest_age_s) == (1, 1, 2, 3.0)


def stage(*partitions, workers=1):
    return StageLag("routing", workers, partitions)


def test_an_idle_stage_has_zeros_and_no_rows_of_partitions():
    idle = stage(PartitionLag(0, 0, 0, 0.0, True, "host"), workers=1)
    assert _rows(idle) == [("routing", "all", "0", "0", "0.0 s", "1", "")]
    plain = _plain(idle)
    assert (plain["not_done"], plain["oldest_age_s"], plain["exact"]) == (0, 0.0, True)
    assert _plain(stage())["oldest_age_s"] == 0.0


def test_a_stage_that_nobody_works_on_says_so():
    total, part = _rows(stage(PartitionLag(0, 3, 0, 5.0, True, None), workers=0))
    assert total[5] == "no worker"
    assert part[5] == "nobody"


def test_an_upper_bound_is_marked_and_a_zero_is_a_zero():
    total, _ = _rows(stage(PartitionLag(0, 12_345, 0, 1.0, False, "h")))
    assert total[2:4] == ("<=12,345", "0")


def test_the_numbers_of_a_stage_are_those_of_its_partitions():
    both = stage(PartitionLag(0, 3, 1, 5.0, True, "h"), PartitionLag(1, 2, 0, 9.0, False, "h"))
    assert (both.not_done, both.retrying, both.oldest_age_s, both.exact) == (6, 1, 9.0, False)
    assert all(math.isfinite(number) for number in (both.not_done, both.oldest_age_s))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (99.94, "99.9 s"), (100, "1 min 40 s"), (3_600, "1 h 00 min"), (90_061, "25 h 01 min")],
)
def test_ages_are_shown_as_people_say_them(seconds, text):
    assert _age(seconds) == text


def test_counts_have_separators():
    assert _count(1_234_567, exact=True) == "1,234,567"
