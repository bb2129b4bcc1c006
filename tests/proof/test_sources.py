"""The checker shares no code with what it checks."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKER = (
    "__init__",
    "audits",
    "brokers",
    "conservation",
    "kafka_frames",
    "ledger",
    "load",
    "reference_worker",
    "tcp_proxy",
    "topology",
    "workers",
)
"""All that a verdict rests on. What is beside it starts the engine and asks for the verdict."""
MAY_START_A_BROKER = "brokers"


def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module="tests.proof", level=0, names=aliases):
                names |= {f"tests.proof.{alias.name}" for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module)
            case ast.ImportFrom():
                names.add("a relative import")
            case ast.Call(func=ast.Name(id="__import__")) | ast.Call(func=ast.Attribute(attr="import_module")):
                names.add("an import by name")
    return names


def _foreign(source: str) -> set[str]:
    ours = {"pipeline", "agents", "tests", "a relative import", "an import by name"}
    checker = {f"tests.proof.{name}" for name in CHECKER}
    return {name for name in _imports(source) if name.partition(".")[0] in ours and name not in checker}


@pytest.mark.parametrize("name", CHECKER)
def test_the_checker_imports_nothing_of_ours_but_itself(name):
    foreign = _foreign((HERE / f"{name}.py").read_text(encoding="utf-8"))
    if name == MAY_START_A_BROKER:
        foreign = {name for name in foreign if not name.startswith("pipeline.broker")}
    assert foreign == set()


@pytest.mark.parametrize(
    "line",
    [
        "import pipeline.stream",
        "from pipeline import records",
        "from agents.app import app",
        "from . import ledger",
        "import importlib; importlib.import_module('pipeline')",
        "__import__('pipeline')",
        "from tests.bench import load",
        "from tests.proof.engine_worker import Break",
        "from tests.proof import engine_worker",
    ],
)
def test_an_import_of_the_engine_would_be_found(line):
    assert _foreign(f"def late():\n    {line}\n") != set()


def test_an_import_within_the_checker_is_none_of_the_engine():
    assert _foreign("from tests.proof.ledger import read\nfrom tests.proof import load\n") == set()
