"""What ships with a workflow as records: ages, bytes, and bad lines that are named."""

import json

import pytest
from click.testing import CliRunner

from agents.cli import main
from agents.cli.demo_data import context_of, messages_of
from agents.cli.output import ExitCode
from pipeline.errors import ConfigError

DAY_MS = 86_400_000
NOW_MS = 1_760_000_000_000
MESSAGE = {"id": "m", "source": "/s", "type": "t", "subject": "c", "data": {"text": "hello", "channel": "chat"}}


@pytest.fixture
def folder(tmp_path):
    """folder({"samples.jsonl": [...]}) writes files of JSON lines and returns where they lie."""

    def write(files):
        for name, lines in files.items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(
                "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8"
            )
        return tmp_path

    return write


def test_a_context_record_is_as_old_as_its_line_says_on_whatever_day_it_is_published(folder):
    place = folder({"context/customers.jsonl": [{"key": "c-1", "age_days": 1.5, "value": {"x": "é"}}]})
    [(name, [draft])] = context_of(place, NOW_MS)
    assert (name, draft.key, draft.value, draft.timestamp_ms) == (
        "customers", b"c-1", '{"x":"é"}'.encode(), NOW_MS - DAY_MS * 3 // 2,
    )  # fmt: skip


def test_the_value_null_takes_a_key_back(folder):
    place = folder({"context/customers.jsonl": [{"key": "c-1", "age_days": 0, "value": None}]})
    [(_, [draft])] = context_of(place, NOW_MS)
    assert draft.value is None


def test_a_line_separator_inside_a_text_ends_no_line(folder):
    place = folder({"context/customers.jsonl": ['{"key": "c-1", "age_days": 0, "value": {"x": "a\u2028b\x85"}}']})
    [(_, [draft])] = context_of(place, NOW_MS)
    assert json.loads(draft.value) == {"x": "a\u2028b\x85"}


def test_messages_come_before_raw_records_and_those_byte_for_byte(folder):
    raw = {"raw": {"key": None, "value": "/wD+", "headers": [["ce_id", "eA=="], ["ce_id", "/w=="]]}}
    first, second = messages_of(folder({"samples.jsonl": [MESSAGE], "samples-raw.jsonl": [raw]}), 1 << 20)
    assert (first.key, dict(first.headers)["ce_id"]) == (b"c", b"m")
    assert (second.key, second.value, second.headers) == (None, b"\xff\x00\xfe", (("ce_id", b"x"), ("ce_id", b"\xff")))


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("samples.jsonl", {**MESSAGE, "id": ""}, "samples.jsonl:2: id is missing"),
        ("samples.jsonl", "{", "samples.jsonl:2: column 2: not JSON"),
        ("samples-raw.jsonl", {"raw": {"key": "?", "value": None, "headers": []}}, "samples-raw.jsonl:2: raw.key"),
        ("samples-raw.jsonl", {"row": {}}, "samples-raw.jsonl:2: raw"),
        ("context/customers.jsonl", {"key": "c", "age_days": -1, "value": {}}, "customers.jsonl:2: age_days"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(folder, name, line, said):
    good = {
        "samples.jsonl": MESSAGE,
        "samples-raw.jsonl": {"raw": {"key": None, "value": None, "headers": []}},
        "context/customers.jsonl": {"key": "c", "age_days": 0, "value": {}},
    }
    place = folder({"samples.jsonl": [MESSAGE], name: [good[name], line]})
    with pytest.raises(ConfigError) as refusal:
        context_of(place, NOW_MS), messages_of(place, 1 << 20)
    assert said in str(refusal.value)


def test_a_workflow_without_samples_is_not_found():
    result = CliRunner().invoke(main, ["samples", "ticket_triaje"])
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "no samples for 'ticket_triaje'" in result.stderr
