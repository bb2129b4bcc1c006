"""What may be published to workflow-events, and why everything else is a dead letter."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import Codec, KeyMismatch, event_headers
from pipeline.errors import DecodeError
from pipeline.records import Case, Event, Position
from tests.contract import strategies as values

CODEC = Codec()
ENVELOPE = {"ce_specversion": "1.0", "ce_id": "t-1", "ce_source": "urn:chat", "ce_type": "ticket.created"}
TICKET = {"text": "Où est ma carte ?", "channel": "chat", "language": "fr", "customer_id": "cust-1"}
SECRET = "4111-1111-1111-1111"


def headers(**changes):
    """The headers of a good event; a change to None leaves one out. `content_type` stands for content-type."""
    texts = ENVELOPE | {name.replace("content_type", "content-type"): text for name, text in changes.items()}
    return tuple((n, t if isinstance(t, bytes) else t.encode()) for n, t in texts.items() if t is not None)


def refused(value=b"{}", given=None, key=None):
    with pytest.raises(DecodeError) as caught:
        CODEC.decode_event(value, headers() if given is None else given, key)
    return str(caught.value)


def test_a_json_object_is_an_event():
    event = CODEC.decode_event(json.dumps(TICKET).encode(), headers(ce_subject="cust-1", ce_time="noon"), b"cust-1")
    assert event == Event("urn:chat", "t-1", "ticket.created", "cust-1", "noon", TICKET)


def test_avro_by_a_schema_of_ours_is_an_event():
    assert CODEC.decode_event(CODEC.encode_event(TICKET, "ticket"), headers(), None).data == TICKET


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.bank+json", None, "text/plain"]
)
def test_a_json_object_is_known_by_its_type_or_its_first_byte(kind):
    assert CODEC.decode_event(b'{"a": 1}', headers(content_type=kind), None).data == {"a": 1}


def test_json_with_leading_space_is_read_when_its_type_is_declared():
    assert CODEC.decode_event(b'\n {"a": 1} ', headers(content_type="application/json"), None).data == {"a": 1}
    assert "neither a JSON object nor Avro" in refused(b'\n {"a": 1} ')


def test_a_structured_event_is_read_from_its_body():
    body = {"specversion": "1.0", "id": "t-1", "source": "s", "type": "t", "subject": "k", "data": {"a": 1}}
    kind = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    event = CODEC.decode_event(json.dumps(body).encode(), kind, b"k")
    assert event == Event("s", "t-1", "t", "k", None, {"a": 1})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": None}, "id is missing"),
        ({"id": 7}, "id is not a text"),
        ({"id": 0}, "id is not a text"),
        ({"id": []}, "id is not a text"),
        ({"id": "half \ud83d"}, "id is not UTF-8"),
        ({"source": "s" * 8193}, "source has 8193 bytes"),
        ({"subject": ["k"]}, "subject is not a text"),
        ({"data": "text"}, "no JSON object in data"),
        ({"specversion": "0.3"}, "specversion is not 1.0"),
        ({"subject": "another"}, "key_mismatch"),
    ],
)
def test_a_structured_event_that_breaks_the_envelope_is_refused(change, fault):
    body = {"specversion": "1.0", "id": "t-1", "source": "s", "type": "t", "subject": "k", "data": {}} | change
    assert fault in refused(json.dumps(body).encode(), (("content-type", b"application/cloudevents+json"),), b"k")


def test_the_key_is_the_subject_when_none_is_declared():
    assert CODEC.decode_event(b"{}", headers(), "clé".encode()).subject == "clé"
    assert CODEC.decode_event(b"{}", headers(), None).subject is None


@pytest.mark.parametrize(("subject", "key"), [("a", b"b"), ("a", None), ("a", b""), ("", None), ("é", b"e")])
def test_a_key_that_is_not_the_subject_has_its_own_cause(subject, key):
    with pytest.raises(KeyMismatch, match=r"^key_mismatch: "):
        CODEC.decode_event(b"{}", headers(ce_subject=subject), key)


def test_a_key_that_is_no_text_is_refused():
    assert refused(key=b"\xff\xfe") == "the key is not UTF-8"


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_type"])
def test_the_envelope_is_required(name):
    assert f"{name} is missing" in refused(given=headers(**{name: None}))
    assert f"{name} is missing" in refused(given=headers(**{name: ""}))


@pytest.mark.parametrize("version", ["0.3", "2.0", ""])
def test_another_version_of_cloudevents_is_refused(version):
    assert "ce_specversion is not 1.0" in refused(given=headers(ce_specversion=version))


@pytest.mark.parametrize("name", ["ce_id", "ce_subject", "ce_anything"])
def test_a_header_of_the_envelope_that_is_no_text_is_refused(name):
    assert refused(given=headers(**{name: b"\xff"})) == f"header {name} is not UTF-8"


def test_a_header_without_value_is_refused_in_the_envelope_only():
    assert "ce_extra has no value" in refused(given=(*headers(), ("ce_extra", None)))
    assert CODEC.decode_event(b"{}", (*headers(), ("x", None)), None).id == "t-1"


def test_an_identity_that_is_given_twice_is_no_identity():
    assert "ce_id appears twice" in refused(given=(*headers(), ("ce_id", b"t-2")))


def test_headers_have_a_limit_in_size():
    CODEC.decode_event(b"{}", (*headers(), ("x", b"x" * 8192)), None)
    assert "8193 bytes" in refused(given=(*headers(), ("x", b"x" * 8193)))


def test_headers_that_are_not_of_the_envelope_may_hold_anything():
    foreign = (("x", b"\xff"), ("x", b"\xfe"), ("traceparent", b"\0"))
    assert CODEC.decode_event(b"{}", (*headers(), *foreign), None).id == "t-1"


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": -Infinity}', "not JSON"),
        (b'{"a": 1e400}', "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": ' + b"[" * 200_000, "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "neither"),
        (b"hello", "neither"),
        (b"\x01\0\0\0\x01", "neither"),
        (b"\0", "wire format"),
        (b"\0\0\0\0\x09abc", "schema id 9 is not known"),
        (CODEC.encode_event(TICKET, "ticket")[:-1], "ticket: the bytes do not fit"),
        (CODEC.encode_event(TICKET, "ticket") + b"x", "ticket: bytes are left over"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_is_neither_is_refused(value, fault):
    assert fault in refused(value)


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null"])
def test_json_that_is_no_object_is_refused(text):
    assert refused(text.encode(), headers(content_type="application/json")) == "the JSON value is not an object"


@pytest.mark.parametrize(
    ("value", "given", "key"),
    [
        (f'{{"card": "{SECRET}" oops'.encode(), headers(), None),
        (f"{SECRET}".encode(), headers(), None),
        (b"\0\0\0\0\x09" + SECRET.encode(), headers(), None),
        (CODEC.encode_event(TICKET, "ticket")[:5] + SECRET.encode(), headers(), None),
        (b"{}", headers(ce_subject=SECRET), b"x"),
        (b"{}", headers(), SECRET.encode() + b"\xff"),
        (b"{}", headers(ce_specversion=SECRET), None),
    ],
)
def test_a_refusal_repeats_nothing_of_the_data(value, given, key):
    assert SECRET not in refused(value, given, key)


def test_the_headers_of_an_event_lead_back_to_it():
    event = Event("urn:é", "t-1", "t", "k", "2026-01-01T00:00:00Z", {"a": 1})
    assert CODEC.decode_event(b'{"a": 1}', event_headers(event), b"k") == event


def test_the_headers_of_an_event_may_name_the_type_of_its_value():
    event = Event("s", "1", "t", None, None, {})
    assert dict(event_headers(event, "application/json"))["content-type"] == b"application/json"
    assert "ce_subject" not in dict(event_headers(event))


names = st.sampled_from([*ENVELOPE, "ce_subject", "ce_time", "content-type", "Content-Type", "x"]) | st.text(max_size=5)
kinds = st.sampled_from([b"application/json", b"application/cloudevents+json", b"application/avro", b"1.0"])
any_header = st.tuples(names, st.none() | kinds | st.binary(max_size=12))
structured = st.fixed_dictionaries(
    {"id": values.json_text, "source": values.json_value, "type": st.just("t"), "data": values.json_object},
    optional={"subject": values.json_value, "time": values.json_text, "specversion": st.just("1.0")},
)
any_value = (
    st.none()
    | structured.map(lambda body: json.dumps(body).encode())
    | st.binary(max_size=60)
    | values.json_object.map(lambda data: json.dumps(data).encode())
    | st.binary(max_size=40).map(lambda data: CODEC.schemas.newest("ticket").header + data)
    | values.cases.map(CODEC.encode)
)


@settings(max_examples=500, deadline=None)
@given(any_value, st.lists(any_header, max_size=4), st.booleans(), st.none() | st.binary(max_size=6))
def test_any_record_is_an_event_that_can_travel_or_a_decode_error(value, more, whole, key):
    try:
        event = CODEC.decode_event(value, [*(headers() if whole else ()), *more], key)
    except DecodeError:
        return
    case = Case(event, Position("workflow-events", 0, 0, 0), "w", "r")
    assert CODEC.decode_case(CODEC.encode(case)) == case
    assert all(len(text) <= 8192 for _, text in event_headers(event))


@settings(max_examples=100, deadline=None)
@given(values.json_object)
def test_any_json_object_comes_through_the_entrance_unchanged(data):
    value = CODEC.encode_event(data)
    if value:
        assert CODEC.decode_event(value, headers(), None).data == data
