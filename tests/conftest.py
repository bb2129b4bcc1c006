"""Long proofs are resumable: `--proofs FILE` keeps which passed, and skips those when the code is still the same."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption("--proofs", type=Path, metavar="FILE", help="keep passed tests here, and do not run them again")


def _code() -> str:
    """Names the state of the code: the commit, and the changes on top of it."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    change = subprocess.run(["git", "diff", "HEAD"], cwd=ROOT, capture_output=True)
    digest = subprocess.run(["git", "hash-object", "--stdin"], cwd=ROOT, input=change.stdout, capture_output=True)
    return f"{commit.stdout.strip()} {digest.stdout.decode().strip()}"


class _Proofs:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._code = _code()
        kept = json.loads(file.read_text()) if file.exists() else {}
        self._passed: list[str] = kept.get("passed", []) if kept.get("code") == self._code else []

    def pytest_collection_modifyitems(self, items):
        for item in items:
            if item.nodeid in self._passed:
                item.add_marker(pytest.mark.skip(reason=f"passed before on the same code ({self._file})"))

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self._passed.append(report.nodeid)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps({"code": self._code, "passed": self._passed}, indent=1) + "\n")


def pytest_configure(config):
    file = config.getoption("--proofs")
    if file is not None:
        config.pluginmanager.register(_Proofs(file))
