"""Dead letters and parked records: the original byte for byte, and small headers that say all about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FailureClass
from pipeline.stream import output
from pipeline.stream.exits import dead_letter, parked, unpark
from pipeline.stream.output import CAUSE_LIMIT, cut
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.profile import quick

OURS = [
    output.SOURCE_TOPIC,
    output.SOURCE_PARTITION,
    output.SOURCE_OFFSET,
    output.SOURCE_TIMESTAMP,
    output.GROUP,
    output.STAGE,
    output.CLASS,
    output.CAUSE,
    output.ATTEMPT,
    output.FIRST_FAILURE,
    output.LAST_FAILURE,
]
names = st.one_of(st.sampled_from([*OURS, "ce_id", "traceparent"]), st.text(max_size=8))
header_lists = st.lists(st.tuples(names, st.binary(max_size=8)), max_size=6).map(tuple)
bytes_or_none = st.one_of(st.none(), st.binary(max_size=20))
causes = st.one_of(st.text(max_size=40), st.text(alphabet="aé€😀\ud800", min_size=100, max_size=1200))
failures = st.sampled_from(list(FailureClass))


@st.composite
def deliveries(draw):
    delivery = a_delivery(
        a_tenure(draw(st.integers(0, 99))).input,
        draw(st.integers(0, 2**62)),
        key=draw(bytes_or_none),
        value=draw(bytes_or_none),
        headers=draw(header_lists),
    )
    delivery.attempt = draw(st.integers(0, 50))
    delivery.first_failure_s = draw(st.sampled_from([0.0, 1_700_000_000.25]))
    return delivery


@quick
@given(deliveries(), causes, failures)
def test_a_dead_letter_keeps_key_value_and_headers_byte_for_byte(delivery, cause, failure):
    letter = dead_letter(ROUTE, delivery, cause, failure, 1_700_000_001.0)
    assert (letter.topic, letter.key, letter.value) == ("dev.dead", delivery.key, delivery.value)
    assert letter.headers[: len(delivery.headers)] == delivery.headers
    assert [name for name, _ in letter.headers[len(delivery.headers) :]] == OURS


@quick
@given(deliveries(), causes, failures)
def test_what_is_added_is_small_whatever_the_cause(delivery, cause, failure):
    added = dead_letter(ROUTE, delivery, cause, failure, 1_700_000_001.0).headers[len(delivery.headers) :]
    assert len(dict(added)[output.CAUSE]) <= CAUSE_LIMIT
    assert sum(len(name) + len(content) for name, content in added) < 1_100


@quick
@given(deliveries(), failures)
def test_a_dead_letter_says_where_it_lay_and_when_it_failed(delivery, failure):
    letter = dead_letter(ROUTE, delivery, "because", failure, 1_700_000_001.0)
    said = dict(letter.headers[len(delivery.headers) :])
    assert said[output.SOURCE_TOPIC] == b"in"
    assert int(said[output.SOURCE_PARTITION]) == delivery.track.partition
    assert int(said[output.SOURCE_OFFSET]) == delivery.offset
    assert int(said[output.SOURCE_TIMESTAMP]) == delivery.timestamp_ms
    assert (said[output.GROUP], said[output.STAGE], said[output.CLASS]) == (b"dev.lone", b"lone", failure.encode())
    assert 1_700_000_000_000 < int(said[output.FIRST_FAILURE]) <= int(said[output.LAST_FAILURE]) == 1_700_000_001_000


@quick
@given(causes)
def test_a_cause_is_cut_at_the_border_of_a_character(cause):
    kept = cut(cause)
    assert len(kept) <= CAUSE_LIMIT
    whole = cause.encode("utf-8", "backslashreplace")
    assert whole.startswith(kept)
    assert len(whole) - len(kept) < 4 or len(kept) > CAUSE_LIMIT - 4
    kept.decode()


def as_read(tenure, letter, offset=77):
    return a_delivery(tenure.retry, offset, key=letter.key, value=letter.value, headers=letter.headers)


@quick
@given(deliveries(), causes, failures)
def test_a_parked_record_comes_back_as_it_was(delivery, cause, failure):
    back = as_read(delivery.track.tenure, parked(ROUTE, delivery, cause, failure, 1_700_000_001.0))
    unpark(back)
    assert (back.key, back.value, back.headers) == (delivery.key, delivery.value, delivery.headers)
    assert (back.source_offset, back.source_timestamp_ms) == (delivery.offset, delivery.timestamp_ms)
    assert back.attempt == delivery.attempt
    assert back.first_failure_s == delivery.first_failure_s


@quick
@given(deliveries(), causes)
def test_the_letter_of_a_record_that_died_in_the_retry_topic_names_the_input(delivery, cause):
    back = as_read(delivery.track.tenure, parked(ROUTE, delivery, cause, FailureClass.TRANSIENT, 1_700_000_001.0))
    unpark(back)
    letter = dead_letter(ROUTE, back, cause, FailureClass.PERMANENT, 1_700_000_009.0)
    assert letter.headers[: len(delivery.headers)] == delivery.headers
    said = dict(letter.headers[len(delivery.headers) :])
    assert (said[output.SOURCE_TOPIC], int(said[output.SOURCE_OFFSET])) == (b"in", delivery.offset)


@quick
@given(deliveries(), st.data())
def test_headers_of_our_names_from_a_publisher_change_nothing(delivery, data):
    spoofed = tuple((name, b"999999") for name in data.draw(st.permutations(OURS)))
    delivery.headers = data.draw(st.sampled_from([spoofed + delivery.headers, delivery.headers + spoofed]))
    back = as_read(delivery.track.tenure, parked(ROUTE, delivery, "x", FailureClass.TRANSIENT, 1_700_000_001.0))
    unpark(back)
    assert back.headers == delivery.headers
    assert (back.source_offset, back.attempt) == (delivery.offset, delivery.attempt)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("ce_id", b"1"),),
        ((output.SOURCE_TOPIC, b"in"),),
        (
            (output.SOURCE_TOPIC, b"in"),
            (output.SOURCE_OFFSET, b"x"),
            (output.SOURCE_TIMESTAMP, b"1"),
            (output.ATTEMPT, b"1"),
            (output.FIRST_FAILURE, b"1"),
        ),
        (
            (output.SOURCE_TOPIC, b"in"),
            (output.SOURCE_OFFSET, b"1"),
            (output.SOURCE_TIMESTAMP, b"1"),
            (output.ATTEMPT, b"1"),
            (output.FIRST_FAILURE, b"9" * 400),
        ),
    ],
    ids=["none", "others", "only the topic", "no number", "no time"],
)
def test_a_record_in_the_retry_topic_that_no_stage_parked_is_left_as_it_is(headers):
    stranger = a_delivery(a_tenure().retry, 5, headers=headers)
    unpark(stranger)
    assert stranger.headers == headers
    assert (stranger.attempt, stranger.source_offset, stranger.first_failure_s) == (0, 5, 0.0)
