"""The checker shares no code with what it checks."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MAY_START_A_BROKER = {"brokers.py"}
THE_ENGINE = {"engine_worker.py", "test_engine.py", "test_engine_network.py"}
"""What is examined, and the tests that start it: no part of the checker, and nothing of the checker imports them."""
SOURCES = sorted(path for path in HERE.glob("*.py") if path.name not in THE_ENGINE)


def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, level=0):
                assert module is not None
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.ImportFrom():
                names.add("a relative import")
            case ast.Call(func=ast.Name(id="__import__")) | ast.Call(func=ast.Attribute(attr="import_module")):
                names.add("an import by name")
    return names


def _foreign(source: str) -> set[str]:
    ours = ("pipeline", "agents", "a relative import", "an import by name", "tests")
    found = {name for name in _imports(source) if name.partition(".")[0] in ours}
    engine = {f"tests.proof.{name.removesuffix('.py')}" for name in THE_ENGINE}
    return {name for name in found if not name.startswith("tests.proof") or name in engine}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_of_the_harness_imports_the_engine(path):
    foreign = _foreign(path.read_text(encoding="utf-8"))
    if path.name in MAY_START_A_BROKER:
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
