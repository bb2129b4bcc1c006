"""The command line as a whole: exit codes, error texts, what goes to which stream."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import KafkaError, KafkaException

import agents.cli.lag
import agents.worker
from agents.cli import main
from agents.cli.children import Children
from agents.cli.invocation import Invocation
from agents.cli.output import (
    ExitCode,
    NothingFound,
    Refused,
    exit_code,
    moment,
    print_table,
    progress,
    shown,
    span,
)
from pipeline.errors import BrokerUnavailable, ConfigError, LockgateError, StageStopped, TopicPlanRefused

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["up"],
    ["down"],
    ["topics", "plan"],
    ["topics", "apply"],
    ["publish", "-"],
    ["context", "load", "customers", "-"],
    ["worker"],
    ["decisions"],
    ["review", "list"],
    ["review", "show", "r"],
    ["review", "decide", "r", "--approve", "--reviewer", "x", "--reason", "y"],
    ["correct", "d", "--action", "none", "--reviewer", "x", "--reason", "y"],
    ["outcomes"],
    ["explain", "e"],
    ["dlq", "list"],
    ["dlq", "show", "0:0"],
    ["lag"],
]


@pytest.fixture
def lockgate(monkeypatch, tmp_path):
    """lockgate("lag", "--json"): the command in an empty folder, without any broker."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "LOCKGATE_ENVIRONMENT", "LOCKGATE_SLOT", "LOCKGATE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    yield lambda *arguments, **options: CliRunner().invoke(main, list(arguments), **options)
    logging.getLogger().setLevel(level)


def test_help_documents_every_exit_code(lockgate):
    shown_help = lockgate("--help").output
    for code in (0, 1, 2, 3, 4, 5):
        assert f"\n    {code}  " in shown_help


@pytest.mark.parametrize("command", [*COMMANDS, ["try", "ticket_triage", "-"]], ids=" ".join)
def test_every_command_has_help_and_json(lockgate, command):
    result = lockgate(*command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] not in ("up", "down")], ids=" ".join)
def test_without_a_broker_a_command_says_how_to_get_one(lockgate, command):
    result = lockgate(*command)
    assert result.exit_code == ExitCode.BROKER
    assert "lockgate up" in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_unknown_option_is_a_usage_error(lockgate):
    assert lockgate("lag", "--wach").exit_code == ExitCode.USAGE


def test_an_unknown_setting_is_named_with_the_nearest_known_one(lockgate):
    Path("lockgate.yaml").write_text("enviroment: prod\n")
    result = lockgate("lag")
    assert result.exit_code == ExitCode.USAGE
    assert "did you mean 'environment'" in result.stderr


def test_a_bad_option_is_called_by_its_own_name(lockgate):
    result = lockgate("--bootstrap", "nowhere", "lag")
    assert result.exit_code == ExitCode.USAGE
    assert "--bootstrap: 'nowhere' is not host:port" in result.stderr


def test_options_win_over_variables_and_variables_over_the_file(lockgate, monkeypatch):
    Path("other.yaml").write_text("environment: from-file\nbootstrap_servers: file:1\nslot: s\n")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "variable:1")
    monkeypatch.setenv("LOCKGATE_ENVIRONMENT", "from-variable")
    settings = Invocation(config=Path("other.yaml"), environment="from-option").settings()
    assert (settings.environment, settings.bootstrap_servers, settings.slot) == ("from-option", "variable:1", "s")


def test_a_child_process_gets_the_same_options_again():
    invocation = Invocation(Path("x.yaml"), "prod", "h:1", verbose=True)
    assert invocation.arguments() == ["--config", "x.yaml", "--environment", "prod", "--bootstrap", "h:1", "--verbose"]
    assert Invocation().arguments() == []


def test_up_refuses_a_port_when_another_broker_is_configured(lockgate):
    result = lockgate("--bootstrap", "127.0.0.1:1", "up", "--port", "9092")
    assert result.exit_code == ExitCode.USAGE
    assert "unset one of them" in result.stderr


def test_down_without_a_broker_is_no_failure(lockgate):
    assert lockgate("down").exit_code == ExitCode.OK
    assert json.loads(lockgate("down", "--json").stdout) == {"stopped": False}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), ExitCode.USAGE),
        (BrokerUnavailable("x"), ExitCode.BROKER),
        (TopicPlanRefused("x"), ExitCode.REFUSED),
        (Refused("x"), ExitCode.REFUSED),
        (NothingFound("x"), ExitCode.NOT_FOUND),
        (StageStopped("x"), ExitCode.FAILED),
        (LockgateError("x"), ExitCode.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_kind_of_an_error_chooses_the_exit_code(lockgate, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Invocation, "connected", fail)
    result = lockgate("lag")
    assert exit_code(error) == result.exit_code == code
    assert result.stderr == "lockgate: x\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(KafkaError._TRANSPORT, ExitCode.BROKER), (KafkaError.TOPIC_AUTHORIZATION_FAILED, ExitCode.FAILED)],
    ids=["no answer", "a refusal"],
)
def test_an_error_of_the_client_is_told_in_one_line(lockgate, monkeypatch, code, expected):
    def fail(*_, **__):
        raise KafkaException(KafkaError(code))

    monkeypatch.setattr(Invocation, "connected", fail)
    result = lockgate("lag")
    assert result.exit_code == expected
    assert result.stderr.startswith("lockgate: Kafka: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_trace(lockgate, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(Invocation, "connected", fail)
    assert isinstance(lockgate("lag").exception, ZeroDivisionError)


def test_ctrl_c_ends_a_command_with_130(lockgate, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Invocation, "connected", interrupt)
    assert lockgate("decisions").exit_code == ExitCode.INTERRUPTED


def test_ctrl_c_is_the_way_to_end_watching(lockgate, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Invocation, "connected", lambda self: self.settings())
    monkeypatch.setattr(agents.cli.lag, "_show", interrupt)
    assert lockgate("lag", "--watch").exit_code == ExitCode.OK
    assert lockgate("lag").exit_code == ExitCode.INTERRUPTED


def test_a_reader_that_goes_away_is_no_noise():
    reading, writing = os.pipe()
    os.close(reading)
    command = subprocess.run(
        [sys.executable, "-m", "agents.cli", "publish", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        timeout=60,
    )
    os.close(writing)
    assert command.stderr == b""
    assert command.returncode == ExitCode.FAILED


# -- worker -------------------------------------------------------------------------------------------------


@pytest.fixture
def run_worker(lockgate, monkeypatch):
    """What `run_worker` was called with; no worker is run."""
    calls = []
    monkeypatch.setattr(
        agents.worker, "run_worker", lambda *arguments, workflows: calls.append((*arguments, workflows))
    )
    monkeypatch.setattr(Invocation, "connected", lambda self: self.settings())
    return calls


def test_the_worker_runs_the_stages_that_are_named(lockgate, run_worker):
    assert lockgate("--bootstrap", "h:1", "worker", "--stage", "routing", "--stage", "inference").exit_code == 0
    [(settings, bootstrap, stages, _)] = run_worker
    assert (settings.environment, bootstrap, stages) == ("dev", "h:1", ("routing", "inference"))


def test_the_worker_runs_all_stages_when_none_is_named(lockgate, run_worker):
    assert lockgate("--bootstrap", "h:1", "worker").exit_code == 0
    assert run_worker[0][2] is None


def test_the_worker_serves_the_workflows_of_a_folder_when_one_is_named(lockgate, run_worker, tmp_path):
    lockgate("--bootstrap", "h:1", "worker")
    lockgate("--bootstrap", "h:1", "worker", "--workflows", str(tmp_path))
    assert [workflows for *_, workflows in run_worker] == [None, tmp_path]


def test_an_unknown_stage_is_a_usage_error(lockgate, run_worker):
    result = lockgate("worker", "--stage", "rooting")
    assert result.exit_code == ExitCode.USAGE
    assert "routing" in result.stderr
    assert run_worker == []


def test_a_stage_that_cannot_go_on_ends_the_worker_with_its_text(lockgate, run_worker, monkeypatch):
    def fail(*_, **__):
        raise StageStopped("give it the ACLs")

    monkeypatch.setattr(agents.worker, "run_worker", fail)
    result = lockgate("--bootstrap", "h:1", "worker")
    assert result.exit_code == ExitCode.FAILED
    assert "lockgate: give it the ACLs" in result.stderr


def test_a_child_that_fails_is_named_and_its_exit_code_kept(capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = Children(["worker", "--stage", "rooting"], 2, None).run()
    assert code == ExitCode.USAGE
    assert re.search(r"worker process [01] \(pid \d+\) failed: exit code 2", capfd.readouterr().err)


# -- output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("größer", "größer"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines", "two\\nlines"),
        ("\ud800", "\\ud800"),
        (None, "-"),
        (1234567, "1,234,567"),
        (True, "True"),
    ],
)
def test_nothing_that_is_shown_can_steer_a_terminal(value, text):
    assert shown(value) == text


def test_a_time_is_shown_in_utc():
    assert moment(1_767_225_600_000) == "2026-01-01T00:00:00Z"
    assert moment(-1) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (100, "1 min 40 s"),
        (3_600, "1 h 00 min"),
        (86_399, "23 h 59 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_a_span_has_two_units_at_most(seconds, text):
    assert span(seconds) == text


def test_a_table_in_a_pipe_is_never_cut(capsys):
    print_table(("NAME", ">COUNT"), [("x" * 300, 1), ("y", 22)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["x" * 300, "1"]
    assert lines[2].split() == ["y", "22"]


def test_no_progress_is_drawn_where_nobody_looks(capsys):
    with progress("working", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
