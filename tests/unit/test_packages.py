"""The packages that are imported are ours, whatever else of these plain names is installed."""

import importlib
import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["agents", "pipeline"])
def test_the_package_is_the_one_of_this_checkout(name):
    assert Path(importlib.import_module(name).__file__) == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", ["agents", "pipeline"])
def test_the_package_is_ours_from_any_working_directory(name, tmp_path):
    """No sys.path of the test run helps here: it is what the environment has installed under this name."""
    shown = subprocess.run(
        [sys.executable, "-c", f"import {name}; print({name}.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert Path(shown.stdout.strip()) == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", ["agents", "pipeline"])
def test_no_other_distribution_brings_a_package_of_this_name(name):
    assert set(packages_distributions().get(name, ["lockgate"])) == {"lockgate"}


def test_the_command_is_ours():
    (command,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "lockgate"]
    assert command.value == "agents.cli:main"
