from tests.bench.checks import KeyChecks


def checked(*seen):
    checks = KeyChecks()
    for key, n, *place in seen:
        checks.see(key, n, *place)
    return checks


def counts(checks):
    return {"gaps": checks.gaps, "repeats": checks.repeats, "reordered": checks.reordered}


def test_keys_in_order_are_sound_however_they_interleave():
    assert checked((b"a", 0), (b"b", 0), (b"b", 1), (b"a", 1)).sound


def test_a_missing_record_is_a_gap():
    assert counts(checked((b"a", 0), (b"a", 2))) == {"gaps": 1, "repeats": 0, "reordered": 0}


def test_a_missing_first_record_is_a_gap():
    assert checked((b"a", 1)).gaps == 1


def test_a_late_record_is_reordered_and_no_gap():
    assert counts(checked((b"a", 1), (b"a", 0), (b"a", 2))) == {"gaps": 0, "repeats": 0, "reordered": 1}


def test_a_repeat_counts_once_and_leaves_the_distinct_count_alone():
    checks = checked((b"a", 0), (b"a", 1), (b"a", 0))
    assert counts(checks) == {"gaps": 0, "repeats": 1, "reordered": 0}
    assert checks.distinct == 2
    assert not checks.sound


def test_two_places_may_be_read_in_any_order():
    assert checked((b"a", 1, "review"), (b"a", 0, "decisions"), (b"a", 2, "decisions")).sound


def test_within_one_place_the_order_counts():
    assert checked((b"a", 1, "decisions"), (b"a", 0, "decisions"), (b"a", 2, "review")).reordered == 1


def test_a_repeat_in_another_place_is_a_repeat():
    assert checked((b"a", 0, "decisions"), (b"a", 0, "review")).repeats == 1


def test_lost_headers_are_unsound():
    checks = checked((b"a", 0))
    checks.bare += 1
    assert not checks.sound
