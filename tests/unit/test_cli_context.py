"""`lockgate context load`: which lines it takes, and that one bad line loads nothing."""

import io
import json
import logging

import pytest
from click.testing import CliRunner

from agents.cli import main
from agents.cli.context_lines import context_drafts
from agents.cli.output import ExitCode
from pipeline.errors import ConfigError

NOW_MS = 1_748_772_000_000


def drafts(*lines, **options):
    text = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    return list(context_drafts(io.BytesIO(text), "customers.jsonl", NOW_MS, **options))


def test_a_line_becomes_a_record_as_old_as_it_says():
    (draft,) = drafts({"key": "c-1", "age_days": 1.5, "value": {"name": "Zoë"}})
    assert (draft.key, draft.value) == (b"c-1", '{"name":"Zoë"}'.encode())
    assert draft.timestamp_ms == NOW_MS - 129_600_000


def test_a_line_without_an_age_is_new():
    assert drafts({"key": "c-1", "value": {}})[0].timestamp_ms == NOW_MS


def test_the_value_null_takes_the_key_back():
    assert drafts({"key": "c-1", "value": None})[0].value is None


def test_empty_lines_are_skipped_and_lines_keep_their_numbers():
    assert [draft.line for draft in drafts(b"\n", {"key": "a", "value": {}}, b"  \r\n", {"key": "b", "value": {}})] == [
        2,
        4,
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"value": {}}, "key: Field required"),
        ({"key": "", "value": {}}, "key: "),
        ({"key": 7, "value": {}}, "key: "),
        ({"key": "c"}, "value: Field required"),
        ({"key": "c", "value": {}, "age": 3}, "age: Extra inputs"),
        ({"key": "c", "value": {}, "age_days": -1}, "age_days: "),
        ({"key": "c", "value": {}, "age_days": 1e9}, "age_days: "),
        ({"key": "c", "value": "see the paper file"}, "value: must be an object, or null to take the key back"),
        ({"key": "c", "value": {"x": "y" * 600}}, "609 bytes, where the topic takes 1,000"),
        (b'{"key": "c", "value": {"x": NaN}}\n', "value: holds what JSON"),
        (b"not json\n", "Invalid JSON"),
        (b'{"key": "\xff", "value": {}}\n', "Invalid JSON"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_bad_line_is_named_with_what_is_wrong_with_it(line, complaint):
    with pytest.raises(ConfigError, match=f"customers.jsonl:2: .*{complaint}"):
        drafts({"key": "fine", "value": {}}, line, max_bytes=1_000)


def test_a_value_that_no_view_can_read_is_let_through_where_it_is_wanted():
    assert drafts({"key": "c", "value": "text"}, objects_only=False)[0].value == b'"text"'


@pytest.fixture
def load(monkeypatch, tmp_path):
    """load("customers", "file"): in an empty folder, without any broker."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    yield lambda *arguments, **options: CliRunner().invoke(main, ["context", "load", *arguments], **options)
    logging.getLogger().setLevel(level)


def test_an_unknown_context_is_a_usage_error_with_the_nearest_name(load):
    result = load("custmers", "-", input="")
    assert result.exit_code == ExitCode.USAGE
    assert "did you mean 'context-customers'" in result.stderr
