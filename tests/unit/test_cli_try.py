"""`lockgate try`: the steps on a file, without any broker."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import pipeline.workflows
from agents.cli import main
from agents.cli.output import ExitCode

FOLDER = Path(pipeline.workflows.__file__).parent / "ticket_triage"
CUSTOMER = {
    "key": "c-1",
    "age_days": 2,
    "value": {"customer_id": "c-1", "segment": "retail", "language": "en", "product_id": "p-1"},
}
STOLEN = "somebody stole my card, please block it now"


@pytest.fixture
def attempt(monkeypatch, tmp_path):
    """attempt("events.jsonl", ...): the command in an empty folder where no broker is configured."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "LOCKGATE_ENVIRONMENT", "LOCKGATE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("customers.jsonl").write_text(json.dumps(CUSTOMER))
    return lambda *arguments: CliRunner().invoke(main, ["try", "ticket_triage", *arguments])


def event(name, text=STOLEN, customer="c-1", **changes):
    data = {"text": text, "channel": "chat", "language": "en", "customer_id": customer}
    return {"id": name, "source": "/s", "subject": customer, "data": data, **changes}


def write(*events):
    Path("events.jsonl").write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in events))


def told(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


KNOWN = ["--context", "customers=customers.jsonl"]


def test_the_shipped_samples_go_where_their_authors_expected(attempt):
    result = attempt(str(FOLDER / "samples.jsonl"), "--context", str(FOLDER / "context"), "--json")
    assert result.exit_code == ExitCode.OK, result.stderr
    lines = map(json.loads, (FOLDER / "expected.jsonl").read_text("utf-8").splitlines())
    expected = {e["line"]: e["place"].removeprefix("open_") for e in lines if e["file"] == "samples.jsonl"}
    assert {line["line"]: line["place"].removeprefix("open_") for line in told(result)} == expected


def test_each_kind_of_end_is_told_with_its_reason(attempt):
    write(
        event("sure"),
        event("sure"),
        event("sure", "something else"),
        event("unsure", "ξψω ξψω"),
        event("stranger", customer="c-2"),
        event("odd", type="no.such.type"),
    )
    found = told(attempt("events.jsonl", *KNOWN, "--json"))
    assert [(line["place"], line["stage"], line["reasons"]) for line in found] == [
        ("decision", "routing", ["checks_passed", "confidence_reached"]),
        ("duplicate", "enrichment", ["the same event came before"]),
        ("dead_letter", "enrichment", ["conflict: the identity came before with other bytes"]),
        ("open_review", "routing", ["check_abstained:confidence", "no_confidence"]),
        ("open_review", "enrichment", ["context_missing:customer"]),
        ("dead_letter", "enrichment", ["unknown_event_type"]),
    ]
    assert found[0]["action"] == "freeze_card"
    assert found[0]["inference"]["answer"]["intent"] == "card_lost_stolen"
    assert found[0]["context"][0]["age_ms"] == 2 * 86_400_000
    assert {result["verdict"] for result in found[0]["checks"]} == {"pass"}


def test_people_get_a_table_and_the_count_of_each_place(attempt):
    write(event("sure"), event("stranger", customer="c-2"))
    text = attempt("events.jsonl", *KNOWN).stdout
    assert "open review" in text
    assert "context_missing:customer" in text
    assert text.endswith("decision 1, open review 1\n")


def test_without_context_nothing_is_known(attempt):
    write(event("sure"))
    assert told(attempt("events.jsonl", "--json"))[0]["reasons"] == ["context_missing:customer"]


def test_a_csv_is_mapped_as_publish_maps_it(attempt):
    Path("rows.csv").write_text(f'body,who\n"{STOLEN}",c-1\n')
    maps = ["--map", "text=body", "--map", "customer_id=who", "--map", "subject=who", "--map", "channel==web"]
    [line] = told(attempt("rows.csv", *maps, "--map", "id=@hash", *KNOWN, "--json"))
    assert (line["place"], line["source"]) == ("decision", "/try")


def test_a_line_that_could_not_be_published_is_named_and_the_others_are_tried(attempt):
    write("nonsense", event("sure"))
    result = attempt("events.jsonl", *KNOWN, "--json")
    assert result.exit_code == ExitCode.FAILED
    assert "line 1: " in result.stderr
    assert [line["event_id"] for line in told(result)] == ["sure"]


def test_a_file_without_events_is_not_found(attempt):
    write("")
    assert attempt("events.jsonl").exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--context", "customer=customers.jsonl"], ExitCode.USAGE, "did you mean 'customers'"),
        (["--context", "customers"], ExitCode.USAGE, "write NAME=FILE"),
        (["--context", "customers=none.jsonl"], ExitCode.USAGE, "none.jsonl"),
        ([*KNOWN, *KNOWN], ExitCode.USAGE, "names customers twice"),
        (["--map", "text"], ExitCode.USAGE, "--map"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(attempt, arguments, code, says):
    write(event("sure"))
    result = attempt("events.jsonl", *arguments)
    assert result.exit_code == code
    assert says in result.stderr


def test_an_unknown_workflow_is_not_found_and_the_known_ones_are_named(attempt):
    result = CliRunner().invoke(main, ["try", "ticket_tirage", "x.jsonl"])
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "did you mean 'ticket_triage'" in result.stderr


def test_a_file_that_is_not_there_is_a_usage_error(attempt):
    assert attempt("none.jsonl").exit_code == ExitCode.USAGE
