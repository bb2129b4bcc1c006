"""The checker on made-up topics: each number turns red for its own fault, and only for that."""

from dataclasses import replace

import pytest

from tests.proof.conservation import Report, examine
from tests.proof.ledger import Ledger, Record
from tests.proof.topology import Topology, chain, single

E = "lab"
EVENTS, ENRICHED, INFERRED = f"{E}.workflow-events", f"{E}.workflow-enriched", f"{E}.workflow-inferred"
VALIDATED, DECISIONS = f"{E}.workflow-validated", f"{E}.decisions"
DEAD, REVIEW, BLOCKED, AUDIT = f"{E}.dead-letter", f"{E}.human-review", f"{E}.blocked", f"{E}.audit"
RETRY = f"{E}.retry-enrichment"


def is_duplicate(record: Record) -> bool:
    return record.value == b"duplicate"


ONE = single(E, "enrichment", is_duplicate)
ALL = chain(E, is_duplicate)


def event(number: int, *, key: bytes | None = b"k", partition: int = 0, event_id: str | None = None) -> Record:
    name = f"e{number}" if event_id is None else event_id
    headers = (("ce_source", b"/s"), ("ce_id", name.encode()), ("ce_type", b"t"), ("x", b"\xff\x00"), ("x", None))
    return Record(EVENTS, partition, number, 0, key, b"value %d" % number, headers)


def nameless(number: int, partition: int = 0) -> Record:
    """Cannot be decoded and says not who it is."""
    return Record(EVENTS, partition, number, 0, b"\xff", b"\x00\xfe %d" % number, (("x", b"\xff"),))


def origin(published: Record) -> tuple[tuple[str, bytes], ...]:
    return (
        ("lockgate_origin_partition", b"%d" % published.partition),
        ("lockgate_origin_offset", b"%d" % published.offset),
    )


def onward(published: Record, topic: str = ENRICHED, offset: int | None = None, **changes) -> Record:
    """What a stage makes of an event."""
    made = replace(
        published,
        topic=topic,
        offset=published.offset if offset is None else offset,
        value=b"answer to " + (published.value or b""),
        headers=(*published.headers, *origin(published)),
    )
    return replace(made, **changes)


def kept(source: Record, topic: str = DEAD, offset: int | None = None, **changes) -> Record:
    """A dead letter or a parked record."""
    headers = (
        ("lockgate_source_topic", source.topic.removeprefix(f"{E}.").encode()),
        ("lockgate_source_partition", b"%d" % source.partition),
        ("lockgate_source_offset", b"%d" % source.offset),
    )
    made = replace(
        source,
        topic=topic,
        offset=source.offset if offset is None else offset,
        headers=(*source.headers, *(origin(source) if source.topic == EVENTS else ()), *headers),
    )
    return replace(made, **changes)


def check(topology: Topology, *records: Record, committed=None, acknowledged=()) -> Report:
    topics: dict[str, list[Record]] = {topic: [] for topic in topology.topics}
    for record in records:
        topics[record.topic].append(record)
    settled = {topic: tuple(sorted(found, key=lambda r: (r.partition, r.offset))) for topic, found in topics.items()}
    return examine(topology, Ledger(settled, committed or {}), acknowledged)


def red(report: Report) -> set[str]:
    return set(report.faults)


def done(offset: int, topic: str = EVENTS, stage: str = "enrichment", partition: int = 0):
    return {(f"{E}.{stage}", topic, partition): offset}


E0, E1, E2 = event(0), event(1), event(2)


def test_every_event_in_one_place_is_proven():
    report = check(ONE, E0, E1, E2, onward(E0), kept(E1), onward(E2, REVIEW))
    assert report.faults == {}
    assert report.places == {"decision": 1, "dead_letter": 1, "open_review": 1}
    assert report.published == 3


def test_a_chain_with_every_kind_of_place_is_proven():
    events = [event(n, key=b"k%d" % n) for n in range(7)]
    enriched = [onward(e, ENRICHED, n) for n, e in enumerate(events[:5])]
    inferred = [onward(e, INFERRED, n) for n, e in enumerate(events[:3])]
    report = check(
        ALL,
        *events,
        *enriched,
        *inferred,
        onward(events[0], VALIDATED, 0),
        onward(events[0], DECISIONS, 0),
        onward(events[1], BLOCKED, 0),
        onward(events[2], REVIEW, 0),
        kept(enriched[3], DEAD, 0),
        kept(enriched[4], f"{E}.retry-inference", 0),
        kept(events[5], DEAD, 1),
        Record(AUDIT, 0, 0, 0, b"a", b"duplicate", events[6].headers + origin(events[6])),
        Record(AUDIT, 0, 1, 0, b"a", b"something else", ()),
    )
    assert red(report) == {"undelivered"}
    assert report.places == {
        "decision": 1,
        "blocked": 1,
        "open_review": 1,
        "dead_letter": 2,
        "waiting_retry": 1,
        "duplicate": 1,
    }


def test_an_event_that_was_committed_and_is_nowhere_is_lost():
    report = check(ONE, E0, E1, onward(E0), committed=done(2))
    assert red(report) == {"lost"}
    assert "e1" in report.faults["lost"][1]


def test_an_event_that_is_not_committed_yet_is_undelivered():
    report = check(ONE, E0, E1, onward(E0), committed=done(1))
    assert red(report) == {"undelivered"}
    assert report.places == {"decision": 1, f"in_flight:{EVENTS}": 1}


def test_an_event_that_a_later_stage_swallowed_is_lost_there():
    enriched = onward(E0)
    committed = done(1) | done(1, ENRICHED, "inference")
    report = check(ALL, E0, enriched, committed=committed)
    assert red(report) == {"lost"}
    assert "lab.inference has done lab.workflow-enriched[0]@0" in report.lost[0].what


def test_an_event_between_two_stages_is_in_flight():
    report = check(ALL, E0, onward(E0), committed=done(1))
    assert red(report) == {"undelivered"}
    assert report.places == {f"in_flight:{ENRICHED}": 1}


def test_a_parked_event_that_was_committed_and_is_nowhere_is_lost():
    parked = kept(E0, RETRY)
    assert red(check(ONE, E0, parked, committed=done(1))) == {"undelivered"}
    assert red(check(ONE, E0, parked, committed=done(1) | done(1, RETRY))) == {"lost"}


def test_a_parked_event_that_was_answered_later_has_one_place():
    report = check(ONE, E0, kept(E0, RETRY), onward(E0), committed=done(1) | done(1, RETRY))
    assert report.faults == {}
    assert report.places == {"decision": 1}


def test_an_acknowledged_event_that_is_not_in_the_topic_is_lost():
    report = check(ONE, E0, onward(E0), acknowledged=[E0, E1])
    assert red(report) == {"lost"}


def test_an_acknowledged_event_with_other_bytes_is_damaged():
    assert red(check(ONE, E0, onward(E0), acknowledged=[replace(E0, value=b"other")])) == {"damaged"}


def test_the_same_answer_twice_is_doubled():
    report = check(ONE, E0, onward(E0), onward(E0, offset=1))
    assert red(report) == {"doubled"}


def test_two_different_answers_are_doubled_and_contradicting():
    report = check(ONE, E0, onward(E0), onward(E0, offset=1, value=b"another answer"))
    assert red(report) == {"doubled", "contradicting"}


def test_a_doubled_answer_between_two_stages_is_found_though_one_decision_came_of_it():
    way = [onward(E0, topic) for topic in (ENRICHED, INFERRED, VALIDATED, DECISIONS)]
    report = check(ALL, E0, *way, onward(E0, INFERRED, 1, value=b"another"))
    assert red(report) == {"doubled", "contradicting"}
    assert report.places == {"decision": 1}


@pytest.mark.parametrize(("topic", "place"), [(REVIEW, "open_review"), (BLOCKED, "blocked"), (DEAD, "dead_letter")])
def test_an_event_in_two_places_is_doubled(topic, place):
    other = kept(E0) if topic == DEAD else onward(E0, topic)
    report = check(ONE, E0, onward(E0), other)
    assert red(report) == {"doubled"}
    assert place in report.doubled[0].what


@pytest.mark.parametrize("topic", [DEAD, RETRY])
def test_the_same_letter_twice_is_doubled(topic):
    report = check(ONE, E0, kept(E0, topic, 0), kept(E0, topic, 1))
    assert "doubled" in red(report)


def test_a_dropped_repeat_has_a_place_of_its_own():
    again = event(1, event_id="e0")
    dropped = Record(AUDIT, 0, 0, 0, b"a", b"duplicate", again.headers + origin(again))
    report = check(ONE, E0, again, onward(E0), dropped)
    assert report.faults == {}
    assert report.places == {"decision": 1, "duplicate": 1}


def test_a_repeat_that_was_answered_too_is_doubled():
    again = event(1, event_id="e0")
    report = check(ONE, E0, again, onward(E0), onward(again))
    assert red(report) == {"doubled", "contradicting"}


def test_a_repeat_that_vanished_without_audit_is_lost():
    again = event(1, event_id="e0")
    assert red(check(ONE, E0, again, onward(E0), committed=done(2))) == {"lost"}


def test_a_repeat_with_other_bytes_may_be_a_dead_letter_beside_the_answer():
    conflict = event(1, event_id="e0")
    report = check(ONE, E0, conflict, onward(E0), kept(conflict))
    assert report.faults == {}
    assert report.places == {"decision": 1, "dead_letter": 1}


def test_answers_of_one_key_in_another_order_are_reordered():
    report = check(ONE, E0, E1, onward(E0, offset=1), onward(E1, offset=0))
    assert red(report) == {"reordered"}
    assert len(report.reordered) == 1


def test_answers_of_different_keys_may_pass_each_other():
    other = event(1, key=b"other")
    assert check(ONE, E0, other, onward(E0, offset=1), onward(other, offset=0)).faults == {}


def test_answers_without_a_key_have_no_order():
    a, b = event(0, key=None), event(1, key=None)
    assert check(ONE, a, b, onward(a, offset=1), onward(b, offset=0)).faults == {}


def test_a_key_in_another_partition_than_it_came_from_is_reordered():
    assert red(check(ONE, E0, onward(E0, partition=1))) == {"reordered"}


def test_a_key_in_two_partitions_is_reordered():
    loose = replace(ONE, keeps_partition=False)
    assert check(loose, E0, E1, onward(E0, partition=1), onward(E1, partition=1)).faults == {}
    assert red(check(loose, E0, E1, onward(E0, partition=1), onward(E1, partition=2))) == {"reordered"}


def test_parked_records_of_one_key_in_another_order_are_reordered():
    parked = [kept(E0, RETRY, 1), kept(E1, RETRY, 0)]
    answered = [onward(E0), onward(E1)]
    assert red(check(ONE, E0, E1, *parked, *answered)) == {"reordered"}


def test_the_order_of_dead_letters_and_reviews_is_nobodys_promise():
    report = check(ONE, E0, E1, kept(E0, offset=1), kept(E1, offset=0))
    assert report.faults == {}


def test_what_cannot_be_decoded_is_traced_by_its_position():
    bad = nameless(0)
    report = check(ONE, bad, kept(bad))
    assert report.faults == {}
    assert report.places == {"dead_letter": 1}


def test_what_cannot_be_decoded_is_traced_by_its_source_alone():
    bad = nameless(0)
    letter = kept(bad)
    bare = replace(letter, headers=tuple(h for h in letter.headers if "origin" not in h[0]))
    assert check(ONE, bad, bare).faults == {}


@pytest.mark.parametrize(
    "change",
    [
        {"value": b"\x00\xef\xbf\xbd 0"},
        {"value": None},
        {"key": b"\xef\xbf\xbd"},
        {"key": None},
        {"key": b""},
    ],
    ids=["value decoded and encoded", "no value", "key decoded and encoded", "no key", "empty key"],
)
@pytest.mark.parametrize("topic", [DEAD, RETRY])
def test_bytes_that_changed_on_the_way_are_damaged(topic, change):
    bad = nameless(0)
    assert "damaged" in red(check(ONE, bad, kept(bad, topic, **change)))


@pytest.mark.parametrize(
    "headers",
    [
        lambda h: h[:3] + h[4:],
        lambda h: h[:4] + h[5:],
        lambda h: (h[1], h[0], *h[2:]),
        lambda h: tuple((name, b"\xef\xbf\xbd" if value == b"\xff\x00" else value) for name, value in h),
        lambda h: tuple((name, b"" if value is None else value) for name, value in h),
    ],
    ids=["one lost", "the second of a name lost", "order changed", "bytes changed", "none became empty"],
)
def test_headers_that_changed_on_the_way_are_damaged(headers):
    letter = kept(E0)
    assert red(check(ONE, E0, replace(letter, headers=headers(letter.headers)))) == {"damaged"}


def test_a_dead_letter_of_a_later_stage_holds_what_that_stage_read():
    enriched = onward(E0)
    assert check(ALL, E0, enriched, kept(enriched)).faults == {}
    assert red(check(ALL, E0, enriched, kept(enriched, value=E0.value))) == {"damaged"}


def test_a_dead_letter_that_names_a_source_which_does_not_exist_is_damaged():
    letter = kept(E0)
    wrong = tuple((n, b"77" if n == "lockgate_source_offset" else v) for n, v in letter.headers)
    assert red(check(ONE, E0, replace(letter, headers=wrong))) == {"damaged"}


def test_an_answer_under_another_key_is_damaged():
    assert red(check(ONE, E0, onward(E0, key=b"other"))) == {"damaged"}


def test_a_record_of_nobody_is_unexplained():
    stray = Record(ENRICHED, 0, 5, 0, b"k", b"v", ())
    assert red(check(ONE, E0, onward(E0), stray)) == {"unexplained"}


def test_a_record_with_an_unknown_identity_is_unexplained():
    assert red(check(ONE, E0, onward(E0), replace(onward(E1), headers=E1.headers))) == {"unexplained"}


def test_a_record_from_a_position_where_nothing_was_published_is_unexplained():
    assert red(check(ONE, E0, onward(E0), onward(E1))) == {"unexplained"}


def structured(number: int, event_id: str) -> Record:
    """A CloudEvent that carries its attributes in its value."""
    value = b'{"source": "/s", "id": "%s", "data": {}}' % event_id.encode()
    return Record(EVENTS, 0, number, 0, b"k", value, (("content-type", b"application/cloudevents+json"),))


def named(published: Record, event_id: str) -> Record:
    """What a stage makes of a structured event: its attributes are headers from then on."""
    headers = (("ce_source", b"/s"), ("ce_id", event_id.encode()), *origin(published))
    return replace(onward(published), headers=headers)


def test_a_structured_event_is_known_by_the_attributes_in_its_value():
    published = structured(0, "e0")
    assert check(ONE, published, named(published, "e0")).unexplained == []


def test_a_record_under_another_identity_than_its_structured_event_is_unexplained():
    published = structured(0, "e0")
    assert len(check(ONE, published, named(published, "e1")).unexplained) == 1


def test_a_structured_event_that_cannot_be_read_has_no_identity():
    published = replace(structured(0, "e0"), value=b"{")
    assert check(ONE, published, kept(published)).faults == {}


def test_a_record_under_the_identity_of_another_event_is_unexplained():
    mixed = onward(E0, headers=(*E1.headers, *origin(E0)))
    report = check(ONE, E0, E1, mixed, committed=done(2))
    assert red(report) == {"unexplained", "lost"}


def test_identities_of_source_and_id_do_not_run_together():
    a = event(0, event_id="c", key=b"1")
    a = replace(a, headers=(("ce_source", b"a b"), ("ce_id", b"c")))
    b = replace(event(1, key=b"2"), headers=(("ce_source", b"a"), ("ce_id", b"b c")))
    assert check(ONE, a, b, onward(a), onward(b)).faults == {}


def test_records_without_origin_are_traced_by_identity():
    assert check(ONE, E0, onward(E0, headers=E0.headers)).faults == {}


def test_a_stage_in_the_middle_is_judged_by_what_it_read():
    middle = single(E, "inference")
    read = [onward(event(7), ENRICHED, 0), onward(event(9), ENRICHED, 1)]
    answers = [replace(r, topic=INFERRED) for r in read]
    assert check(middle, *read, *answers).faults == {}
    assert red(check(middle, *read, *answers, replace(answers[0], offset=5))) == {"doubled"}
    committed = done(2, ENRICHED, "inference")
    assert red(check(middle, *read, answers[0], committed=committed)) == {"lost"}


def test_an_empty_pipeline_proves_nothing_and_says_so():
    assert check(ONE).published == 0


def test_stages_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match=r"reads lab\.workflow-inferred, but enrichment writes"):
        replace(ONE, stages=(ONE.stages[0], single(E, "validation").stages[0]))


@pytest.mark.parametrize("missing", ["ce_source", "ce_id"])
def test_half_an_identity_is_none_so_position_tells_events_apart(missing):
    events = [replace(e, headers=tuple(h for h in e.headers if h[0] != missing)) for e in (E0, event(1, event_id="e0"))]
    assert check(ONE, *events, *(onward(e) for e in events)).faults == {}


@pytest.mark.parametrize("topic", [REVIEW, BLOCKED])
def test_a_repeat_that_went_to_people_or_was_blocked_again_is_doubled(topic):
    again = event(1, event_id="e0")
    assert red(check(ONE, E0, again, onward(E0, topic), onward(again, topic))) == {"doubled", "contradicting"}


def test_a_dead_letter_without_a_source_is_held_against_the_event_itself():
    letter = kept(E0)
    bare = tuple(h for h in letter.headers if h[0] != "lockgate_source_offset")
    assert check(ONE, E0, replace(letter, headers=bare)).faults == {}
    assert red(check(ONE, E0, replace(letter, headers=bare, value=b"other"))) == {"damaged"}
