"""What `lockgate publish` makes of files: rows, mappings, drafts, and what it says about lines that cannot be used."""

import hashlib
import io
import json
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import fastavro
import pytest
from click.testing import CliRunner

from agents.cli import main
from agents.cli.drafting import Drafting
from agents.cli.mapping import RowIds, Unfit, map_by_name, parse_rules
from agents.cli.output import ExitCode
from agents.cli.sources import LINE_LIMIT, BrokenFile, Form, form_of, open_input, read_table
from pipeline.codec import Codec
from pipeline.codec.schemas import Schemas, schema_fingerprint, schema_id
from pipeline.errors import ConfigError
from pipeline.share import share

EVENT = {
    "id": "t-1",
    "source": "/shop",
    "type": "com.bank.message.received",
    "subject": "c-7",
    "time": "2026-01-31T09:30:00Z",
    "data": {"text": "Where is my card?", "channel": "chat"},
}
CODEC = Codec()


@pytest.fixture
def lockgate(monkeypatch, tmp_path):
    """lockgate("publish", ...) in an empty folder, without a broker."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "LOCKGATE_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(main, list(arguments), **options)


def without(name, **changes):
    return {key: value for key, value in (EVENT | changes).items() if key != name}


def rows(content, form=Form.JSONL, delimiter=","):
    return list(read_table(io.BytesIO(content), form, delimiter).rows)


def draft(event=None, *, content=None, form=Form.JSONL, maps=(), defaults=None, schema="ticket", max_bytes=2**20):
    """The draft of the first row."""
    table = read_table(io.BytesIO(json.dumps(event).encode() if content is None else content), form, ",")
    row_map = parse_rules(maps)
    if form is Form.CSV and row_map is None:
        row_map = map_by_name(table.columns)
    drafting = Drafting(CODEC, form, row_map, defaults or {}, schema, max_bytes)
    return drafting.draft(next(table.rows), RowIds())


def unfit(*arguments, **options):
    """Why the first row cannot be published."""
    with pytest.raises(Unfit) as caught:
        draft(*arguments, **options)
    return str(caught.value)


def avro_file(*records, schema):
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(schema), records)
    return out.getvalue()


# -- JSON lines ---------------------------------------------------------------------------------------------


def test_a_line_becomes_a_record_that_the_entrance_reads_back():
    ready = draft(EVENT)
    assert ready.key == b"c-7"
    assert ready.value[0] == 0
    event = CODEC.decode_event(ready.value, ready.headers, ready.key)
    assert (event.id, event.source, event.subject, event.time) == ("t-1", "/shop", "c-7", EVENT["time"])
    assert event.data == {**EVENT["data"], "language": None, "customer_id": None}


def test_json_encoding_keeps_fields_that_no_schema_knows():
    ready = draft(without("", data={"text": "x", "mood": ["bad"]}), schema=None)
    assert json.loads(ready.value) == {"text": "x", "mood": ["bad"]}
    assert ("content-type", b"application/json") in ready.headers


def test_an_event_without_subject_has_no_key():
    ready = draft(without("subject"))
    assert ready.key is None
    assert "ce_subject" not in dict(ready.headers)


def test_a_trace_goes_along_as_a_header():
    assert ("traceparent", b"00-ab-cd-01") in draft(EVENT | {"traceparent": "00-ab-cd-01"}).headers


def test_source_and_type_may_come_from_the_options_and_the_line_wins():
    ready = draft(without("source"), defaults={"source": "/option", "type": "option"})
    assert dict(ready.headers)["ce_source"] == b"/option"
    assert dict(ready.headers)["ce_type"] == b"com.bank.message.received"


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (without("id"), "id is missing"),
        (without("", id=""), "id is missing"),
        (without("source"), "--source"),
        (without("type"), "--type"),
        (without("data"), "data is missing"),
        (without("", data=[1]), "data is missing"),
        (without("", id=7), "id must be a text"),
        (without("", subject=7), "subject must be a text"),
        (without("", id="\ud800"), "half a surrogate pair"),
        (without("", time="yesterday"), "RFC 3339"),
        (without("", time="2026-01-31T09:30:00"), "RFC 3339"),
        (without("", time="2026-01-31"), "RFC 3339"),
        (without("", subjct="c"), "did you mean 'subject'"),
        (without("", specversion="0.3"), "specversion must be 1.0"),
        (without("", datacontenttype="text/xml"), "datacontenttype"),
        (without("", id="x" * 9000), "the pipeline would not take it"),
        (without("", data={"channel": "chat"}), "data.text: missing, and the schema ticket requires it"),
        (without("", data={"text": 1, "channel": "chat"}), "data.text: int does not fit string"),
        (without("", data={"text": "\ud800", "channel": "c"}), "data.text"),
        (without("", data={"text": "x", "chanel": "chat"}), "did you mean 'channel'"),
    ],
)
def test_an_event_that_the_pipeline_would_refuse_is_not_published(event, says):
    assert says in unfit(event)


def test_an_event_that_the_topic_cannot_take_is_not_published():
    big = without("", data={"text": "x" * 5000, "channel": "chat"})
    assert "where workflow-events takes 4,096" in unfit(big, max_bytes=4096)
    assert draft(big, max_bytes=8192).line == 1


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"id": }', "column 8: not JSON"),
        (b'{"a": "\xff"}', "column 8: not UTF-8"),
        (b"[1]", "`jq -c '.[]'`"),
        (b"id,text", "--format csv"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1e999}', "too large"),
        (b'"text"', "not an object"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_event_is_told_with_its_column_and_the_way_out(line, fault):
    [row] = rows(line)
    assert fault in row.fault


def test_lines_keep_their_numbers_over_blank_ones_and_bad_ones():
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a":\n{"a": 2}'
    assert [(row.line, row.fields, row.fault is None) for row in rows(content)] == [
        (1, {"a": 1}, True),
        (4, {}, False),
        (5, {"a": 2}, True),
    ]


def test_a_line_without_end_does_not_fill_the_memory():
    row, after = rows(b'{"a": "' + b"x" * (LINE_LIMIT + 10) + b'"}\n{"a": 1}\n')
    assert "longer than" in row.fault
    assert len(row.text) <= LINE_LIMIT + 1
    assert after.fields == {"a": 1}


# -- CSV ----------------------------------------------------------------------------------------------------


def test_without_a_mapping_columns_go_by_their_names():
    ready = draft(content=b"id,source,type,text,channel,language\n1,/s,t,hello,chat,\n", form=Form.CSV)
    event = CODEC.decode_event(ready.value, ready.headers, ready.key)
    assert (event.id, event.source, event.type) == ("1", "/s", "t")
    assert event.data == {"text": "hello", "channel": "chat", "language": None, "customer_id": None}


def test_with_a_mapping_only_what_is_mapped_is_used():
    ready = draft(
        content=b"no,body,secret\n1,hello,x\n",
        form=Form.CSV,
        maps=["id=no", "text=body", "channel==chat"],
        defaults={"source": "/s", "type": "t"},
    )
    event = CODEC.decode_event(ready.value, ready.headers, ready.key)
    assert event.id == "1"
    assert event.data == {"text": "hello", "channel": "chat", "language": None, "customer_id": None}


def test_a_data_field_may_have_the_name_of_an_attribute():
    ready = draft(
        content=b"no,kind\n1,card\n",
        form=Form.CSV,
        maps=["id=no", "data.type=kind", "data.id=no"],
        defaults={"source": "/s", "type": "t"},
        schema=None,
    )
    assert json.loads(ready.value) == {"type": "card", "id": "1"}


def test_a_constant_may_hold_any_text():
    [rule] = parse_rules(["text===a=b"]).rules
    assert (rule.target, rule.argument) == ("text", "=a=b")


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        (["text"], "write FIELD=COLUMN"),
        (["=text"], "write FIELD=COLUMN"),
        (["text="], "write FIELD=COLUMN"),
        (["data.=x"], "name a field"),
        (["subject=@hash"], "only id=@hash"),
        (["text=a", "text=b"], "names text twice"),
        (["text=a", "data.text=b"], "names text twice"),
    ],
)
def test_a_mapping_that_means_nothing_is_a_usage_error(maps, says):
    with pytest.raises(ConfigError, match=says):
        parse_rules(maps)


def test_a_row_hash_is_the_hash_of_the_text_and_its_occurrence():
    ids = RowIds()
    digest = hashlib.sha256(b"hello,card").hexdigest()[:32]
    assert [ids.next(text) for text in (b"hello,card", b"other", b"hello,card", b"hello,card")] == [
        f"{digest}-1",
        f"{hashlib.sha256(b'other').hexdigest()[:32]}-1",
        f"{digest}-2",
        f"{digest}-3",
    ]


def test_a_row_hash_is_made_of_the_whole_row_as_it_stands():
    content = b'a,b\r\n1,"x\r\ny"\r\n'
    [row] = rows(content, Form.CSV)
    assert row.text == b'1,"x\r\ny"'


def test_a_row_is_found_by_the_line_on_which_it_begins():
    content = b'a,b\n1,"x\ny\nz"\n\n2,"w"\n3\n'
    assert [(row.line, row.fields, row.fault) for row in rows(content, Form.CSV)][:2] == [
        (2, {"a": "1", "b": "x\ny\nz"}, None),
        (6, {"a": "2", "b": "w"}, None),
    ]
    assert (rows(content, Form.CSV)[2].line, "1 cell," in rows(content, Form.CSV)[2].fault) == (7, True)


def test_bad_rows_of_a_csv_do_not_hide_the_others():
    content = b'a,b\n1,"x" y\n2,\xff\n3,ok\n4,"never closed\n'
    found = rows(content, Form.CSV)
    assert [row.line for row in found] == [2, 3, 4, 5]
    assert "quote" in found[0].fault
    assert "column 'b': not UTF-8" in found[1].fault
    assert found[2].fields == {"a": "3", "b": "ok"}
    assert "not closed" in found[3].fault


@pytest.mark.parametrize(
    ("header", "says"), [(b"a,a\n", "names 'a' twice"), (b"\xff\n", "in UTF-8"), (b'a,"b\n', "header cannot be read")]
)
def test_a_header_that_names_no_columns_is_a_usage_error(header, says):
    with pytest.raises(ConfigError, match=says):
        rows(header, Form.CSV)


def test_cells_become_what_the_schema_wants(tmp_path):
    schema = {
        "type": "record",
        "name": "Claim",
        "fields": [
            {"name": "amount", "type": "double"},
            {"name": "count", "type": ["null", "long"], "default": None},
            {"name": "urgent", "type": "boolean"},
        ],
    }
    print_ = schema_fingerprint(schema)
    shutil.copytree(share("schemas"), tmp_path / "schemas")
    (tmp_path / "schemas" / "claim.avsc").write_text(json.dumps(schema))
    with (tmp_path / "schemas" / "ids.yaml").open("a") as ids:
        ids.write(f"\nclaim: [{{version: 1, id: {schema_id(print_)}, fingerprint: {print_}}}]\n")
    codec = Codec(Schemas(tmp_path / "schemas"))

    def drafted(cells):
        table = read_table(io.BytesIO(b"id,amount,count,urgent\n" + cells), Form.CSV, ",")
        drafting = Drafting(codec, Form.CSV, map_by_name(table.columns), {"source": "s", "type": "t"}, "claim", 2**20)
        ready = drafting.draft(next(table.rows), RowIds())
        return codec.decode_event(ready.value, ready.headers, ready.key).data

    assert drafted(b"1,12.5,3,True\n") == {"amount": 12.5, "count": 3, "urgent": True}
    assert drafted(b"1,12,,false\n") == {"amount": 12.0, "count": None, "urgent": False}
    for cells, says in (
        (b"1,much,3,true\n", "column 'amount': data.amount: 'much' is not a number"),
        (b"1,1,3,maybe\n", "neither true nor false"),
        (b"1,nan,3,true\n", "not finite"),
    ):
        with pytest.raises(Unfit, match=says):
            drafted(cells)


# -- Avro ---------------------------------------------------------------------------------------------------

ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "fields": [
        *({"name": name, "type": "string"} for name in ("id", "source", "type")),
        {"name": "subject", "type": ["null", "string"]},
        {
            "name": "data",
            "type": {
                "type": "record",
                "name": "Data",
                "fields": [{"name": "text", "type": "string"}, {"name": "channel", "type": "string"}],
            },
        },
    ],
}


def test_an_avro_record_is_an_event_in_the_same_form_as_a_line():
    ready = draft(content=avro_file(without("time"), schema=ENVELOPE), form=Form.AVRO)
    event = CODEC.decode_event(ready.value, ready.headers, ready.key)
    assert (event.id, event.subject, event.data["text"]) == ("t-1", "c-7", "Where is my card?")


def test_flat_avro_records_are_mapped_like_columns():
    schema = {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "no", "type": "long"},
            {"name": "body", "type": "string"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
    at = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    ready = draft(
        content=avro_file({"no": 7, "body": "hello", "at": at}, schema=schema),
        form=Form.AVRO,
        maps=["id=no", "text=body", "time=at", "channel==app"],
        defaults={"source": "/s", "type": "t"},
    )
    event = CODEC.decode_event(ready.value, ready.headers, ready.key)
    assert (event.id, event.time, event.data["text"]) == ("7", "2026-01-31T09:30:00+00:00", "hello")


def test_bytes_in_an_avro_record_are_a_fault_of_that_record_alone():
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": ["bytes", "string"]}]}
    bad, good = rows(avro_file({"a": b"\x00"}, {"a": "x"}, schema=schema), Form.AVRO)
    assert "bytes has no form in JSON" in bad.fault
    assert (good.line, good.fields) == (2, {"a": "x"})


def test_an_avro_file_that_breaks_off_cannot_be_read_on():
    content = avro_file(*({"a": "x" * 100} for _ in range(5)), schema={
        "type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}],
    })  # fmt: skip
    with pytest.raises(BrokenFile, match="damaged from here on"):
        rows(content[:-40], Form.AVRO)


def test_what_is_no_avro_file_is_a_usage_error():
    with pytest.raises(ConfigError, match="not an Avro object container file"):
        rows(b"id,text\n", Form.AVRO)


# -- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("a.jsonl", Form.JSONL),
        ("a.NDJSON", Form.JSONL),
        ("a.csv", Form.CSV),
        ("a.tsv", Form.CSV),
        ("a.avro", Form.AVRO),
    ],
)
def test_the_suffix_says_what_a_file_is(path, form):
    assert form_of(path, "auto") is form
    assert form_of(path, "csv") is Form.CSV


def test_a_name_that_says_nothing_needs_a_format():
    with pytest.raises(ConfigError, match="--format"):
        form_of("events.txt", "auto")


def test_a_checked_file_needs_no_broker(lockgate):
    Path("events.jsonl").write_text(json.dumps(EVENT) + "\n")
    result = lockgate("publish", "--check", "events.jsonl", "--json")
    assert result.exit_code == ExitCode.OK
    assert json.loads(result.stdout) == {"good": 1, "rejected": 0}


def test_every_bad_line_is_told_with_its_number_and_counted(lockgate):
    Path("events.csv").write_text("id,text\n1,hello\n2,\n3,a,b\n")
    result = lockgate(
        "publish", "--check", "events.csv", "--source", "/s", "--type", "t", "--map", "id=id", "--map", "text=text",
        "--map", "channel==chat",
    )  # fmt: skip
    assert result.exit_code == ExitCode.FAILED
    assert result.stdout == "1 good, 2 bad\n"
    first, second = result.stderr.splitlines()
    assert first == "line 3, column 'text': data.text: missing, and the schema ticket requires it"
    assert second.startswith("line 4: 3 cells")


def test_of_many_bad_lines_the_first_are_told_and_the_rest_counted(lockgate):
    Path("events.jsonl").write_text("{}\n" * 30)
    result = lockgate("publish", "--check", "events.jsonl")
    assert len(result.stderr.splitlines()) == 21
    assert "and 10 more bad lines; --skip-bad FILE" in result.stderr


def test_bad_lines_are_kept_as_they_are_under_their_header(lockgate):
    Path("events.csv").write_bytes(b'id,text,channel\r\n1,a,c\r\n2,"x\r\ny",c,d\r\n')
    result = lockgate("publish", "--check", "events.csv", "--source", "s", "--type", "t", "--skip-bad", "bad.csv")
    assert result.exit_code == ExitCode.FAILED
    assert Path("bad.csv").read_bytes() == b'id,text,channel\n2,"x\r\ny",c,d\n'


def test_stdin_is_read_as_json_lines(lockgate):
    result = lockgate("publish", "--check", "-", input=json.dumps(EVENT))
    assert result.stdout == "1 good, 0 bad\n"


def test_what_cannot_be_rewound_is_read_all_the_same(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"{}\n"))
    writer.start()
    with open_input(str(pipe)) as stream:
        assert stream.read() == b"{}\n"
        stream.seek(0)
        assert stream.read() == b"{}\n"
    writer.join()


@pytest.mark.parametrize("content", ["", "\n\n", "id,text\n"], ids=["empty", "blank lines", "only a header"])
def test_a_file_without_events_is_nothing_found(lockgate, content):
    Path("events.csv").write_text(content)
    result = lockgate("publish", "--check", "events.csv")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "holds no events" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.csv"], "missing.csv cannot be read"),
        (["events.csv", "--map", "text=boddy"], "did you mean 'body'"),
        (["events.csv", "--schema", "tikcet"], "no schema 'tikcet'"),
        (["events.csv", "--delimiter", "::"], "--delimiter must be one character"),
        (["events.csv", "--skip-bad", "nowhere/bad.csv"], "nowhere/bad.csv cannot be written"),
        (["events.csv", "--skip-bad", "./events.csv"], "is the file that is published"),
    ],
)
def test_what_the_command_line_gets_wrong_is_a_usage_error(lockgate, arguments, says):
    Path("events.csv").write_text("id,body\n1,x\n")
    result = lockgate("publish", "--check", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert says in result.stderr
