"""Bytes that Lockgate writes come back equal, and broken ones only ever raise DecodeError."""

import json
from dataclasses import replace
from io import BytesIO

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import Codec, json_text, plain
from pipeline.codec.values import KINDS
from pipeline.errors import ConfigError, DecodeError, EncodeError
from pipeline.records import Audit, Case, CheckResult, Event, Inference, Position, Verdict
from tests.contract import strategies as values

CODEC = Codec()
DECODERS = {
    "case": CODEC.decode_case,
    "decision": CODEC.decode_decision,
    "review": CODEC.decode_review,
    "blocked": CODEC.decode_blocked,
    "audit": CODEC.decode_audit,
    "review_verdict": CODEC.decode_verdict,
    "decision_outcome": CODEC.decode_outcome,
}
DRAWN = [
    ("case", values.cases),
    ("decision", values.decisions),
    ("review", values.reviews),
    ("blocked", values.blocked),
    ("audit", values.audits),
    ("review_verdict", values.verdicts),
    ("decision_outcome", values.outcomes),
]
SECRET = "4111-1111-1111-1111"
CASE = Case(
    event=Event("urn:chat", "t-1", "ticket.created", "cust-1", None, {"text": SECRET}),
    origin=Position("workflow-events", 0, 7, 1_764_000_000_000),
    workflow="ticket_triage",
    release="r1",
    inference=Inference("local", "m", {"intent": "x"}, 0.5, "softmax", 1.0),
    checks=(CheckResult("schema", Verdict.PASS, "ok"),),
)


def outcome_of(decode, data):
    try:
        return decode(data)
    except DecodeError as error:
        return error


@pytest.mark.parametrize(
    ("kind", "drawn"),
    DRAWN,
)
def test_any_value_comes_back_equal(kind, drawn):
    @settings(max_examples=150, deadline=None)
    @given(drawn)
    def check(value):
        assert DECODERS[kind](CODEC.encode(value)) == value

    check()


@pytest.mark.parametrize("kind", DECODERS)
def test_any_bytes_decode_or_raise_decode_error(kind):
    header = CODEC.schemas.newest(kind).header

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200), st.booleans())
    def check(data, with_header):
        outcome_of(DECODERS[kind], header + data if with_header else data)

    check()


def fastavro_bytes(value, schema):
    for dump in (json_text.dump, json_text.dump_ascii):
        out = BytesIO()
        try:
            fastavro.schemaless_writer(out, schema.parsed, plain.to_plain(schema.parsed, value, dump))
        except UnicodeEncodeError:
            continue
        return schema.header + out.getvalue()
    raise AssertionError("no text of this value can be written")


@pytest.mark.parametrize(("kind", "drawn"), DRAWN)
def test_the_bytes_are_those_that_fastavro_writes(kind, drawn):
    schema = CODEC.schemas.newest(kind)

    @settings(max_examples=100, deadline=None)
    @given(drawn)
    def check(value):
        assert CODEC.encode(value) == fastavro_bytes(value, schema)

    check()


@settings(max_examples=300, deadline=None)
@given(values.cases, st.data())
def test_damaged_bytes_decode_or_raise_decode_error(case, data):
    good = CODEC.encode(case)
    place = data.draw(st.integers(0, len(good) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "drop", "double"]))
    damaged = {
        "flip": good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :],
        "cut": good[:place],
        "drop": good[:place] + good[place + 1 :],
        "double": good[:place] + good[place : place + 1] + good[place:],
    }[damage]
    outcome = outcome_of(CODEC.decode_case, damaged)
    assert isinstance(outcome, Case | DecodeError)
    if damage == "cut":
        assert isinstance(outcome, DecodeError), "a value that lost its end must not pass for a whole one"


def test_what_was_decoded_from_damaged_bytes_can_be_encoded_again():
    good = CODEC.encode(CASE)
    for place in range(5, len(good)):
        for bit in range(8):
            damaged = good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
            outcome = outcome_of(CODEC.decode_case, damaged)
            if isinstance(outcome, Case):
                assert CODEC.decode_case(CODEC.encode(outcome)) == outcome


def test_what_is_read_from_damaged_bytes_is_what_fastavro_reads():
    schema = CODEC.schemas.newest("case")
    good = CODEC.encode(CASE)
    accepted = 0
    for place in range(5, len(good)):
        for bit in range(8):
            damaged = good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
            outcome = outcome_of(CODEC.decode_case, damaged)
            if isinstance(outcome, Case):
                accepted += 1
                content = CODEC.read(damaged)[1]
                assert repr(plain.from_plain(schema.parsed, content, KINDS)) == repr(outcome)
    assert accepted > 100, "most flips inside a text leave a text"


def test_blocks_that_state_their_size_are_read():
    """Other Avro writers put a negative count and the size in bytes in front of a block."""
    audit = Audit("routing", "decided", "1:s/1", CASE.origin, 5, {})
    entry = b"\x02k\x02v"
    sized = CODEC.encode(audit)[:-1] + b"\x01" + bytes([2 * len(entry)]) + entry + b"\0"
    assert CODEC.decode_audit(sized) == replace(audit, detail={"k": "v"})


def test_json_parts_with_spaces_of_another_writer_are_read():
    schema = CODEC.schemas.newest("case")
    content = plain.to_plain(schema.parsed, CASE, lambda value: f" {json.dumps(value)}\n")
    out = BytesIO()
    fastavro.schemaless_writer(out, schema.parsed, content)
    assert CODEC.decode_case(schema.header + out.getvalue()) == CASE


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "1", '{"a": NaN}', '{"a": 1e999}', "{} {}", "[" * 100_000])
def test_a_json_part_that_is_no_object_is_refused(text):
    schema = CODEC.schemas.newest("case")
    content = plain.to_plain(schema.parsed, CASE, json_text.dump)
    content["event"]["data"] = text
    out = BytesIO()
    fastavro.schemaless_writer(out, schema.parsed, content)
    with pytest.raises(DecodeError, match="do not fit the schema"):
        CODEC.decode_case(schema.header + out.getvalue())


def test_bytes_left_over_are_refused():
    with pytest.raises(DecodeError, match="do not fit the schema"):
        CODEC.decode_case(CODEC.encode(CASE) + b"\0")


def test_an_unknown_schema_id_is_named():
    with pytest.raises(DecodeError, match="schema id 77 is not known"):
        CODEC.decode_case(b"\0\0\0\0\x4d" + CODEC.encode(CASE)[5:])


def test_a_value_of_another_schema_is_named():
    with pytest.raises(DecodeError, match="is case, where decision was expected"):
        CODEC.decode_decision(CODEC.encode(CASE))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\0", b'{"a": 1}', b"\x01" + CODEC.encode(CASE)[1:]])
def test_bytes_without_magic_and_id_are_no_wire_format(data):
    with pytest.raises(DecodeError, match="Confluent wire format"):
        CODEC.decode_case(data)


def test_half_a_surrogate_pair_in_the_data_survives():
    case = replace(CASE, event=replace(CASE.event, data={"text": "half \ud83d of a smile, and é 漢"}))
    assert CODEC.decode_case(CODEC.encode(case)) == case


def test_text_outside_ascii_is_not_blown_up():
    case = replace(CASE, event=replace(CASE.event, data={"text": "漢" * 10_000}))
    assert len(CODEC.encode(case)) < 31_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"workflow": None}, "workflow: NoneType does not fit string"),
        ({"workflow": b"bytes"}, "workflow: bytes does not fit string"),
        ({"workflow": f"{SECRET} \ud83d"}, "workflow: str does not fit string"),
        ({"release": 4}, "release: int does not fit string"),
        ({"origin": replace(CASE.origin, offset=2**63)}, "origin.offset: int does not fit long"),
        ({"origin": replace(CASE.origin, partition="0")}, "origin.partition: str does not fit int"),
        ({"event": replace(CASE.event, subject=SECRET.encode())}, "event.subject: bytes does not fit null or string"),
        ({"event": replace(CASE.event, data={"x": float("nan")})}, "a part is not JSON"),
        ({"event": replace(CASE.event, data={"x": {1, 2}})}, "a part is not JSON"),
        (
            {"inference": replace(CASE.inference, confidence=SECRET)},
            "inference.confidence: str does not fit null or double",
        ),
        ({"checks": (CheckResult("c", "maybe", "r"),)}, "checks[0].verdict: str does not fit lockgate.Verdict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_misfit_names_its_field_and_not_its_content(change, field):
    with pytest.raises(EncodeError) as caught:
        CODEC.encode(replace(CASE, **change))
    assert field in str(caught.value)
    assert SECRET not in str(caught.value)


def test_data_that_holds_itself_is_a_misfit():
    loop = {}
    loop["self"] = loop
    with pytest.raises(EncodeError, match="a part is not JSON"):
        CODEC.encode(replace(CASE, event=replace(CASE.event, data=loop)))


def test_a_value_without_schema_is_refused():
    with pytest.raises(EncodeError, match="Position has no schema"):
        CODEC.encode(CASE.origin)


def test_an_event_is_written_as_json_or_by_a_named_schema():
    data = {"text": "hi", "channel": "chat", "language": None, "customer_id": None}
    headers = (("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t"))
    assert CODEC.encode_event(data) == b'{"text":"hi","channel":"chat","language":null,"customer_id":null}'
    assert CODEC.decode_event(CODEC.encode_event(data, "ticket"), headers, None).data == data


def test_an_event_that_does_not_fit_its_schema_names_the_field():
    with pytest.raises(EncodeError, match="ticket: channel: NoneType does not fit string"):
        CODEC.encode_event({"text": "hi"}, "ticket")


def test_an_unknown_schema_of_an_event_is_named():
    with pytest.raises(ConfigError, match="no schema 'tickets'"):
        CODEC.encode_event({}, "tickets")
