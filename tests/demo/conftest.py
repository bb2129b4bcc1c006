"""A broker for the tests in this folder that need one, and workers that end with their test."""

import tempfile
import uuid
from pathlib import Path

import pytest

from tests.demo.line import Line, own_broker
from tests.proof.workers import Crew


@pytest.fixture(scope="package")
def bootstrap():
    with own_broker(Path(tempfile.mkdtemp(prefix="lockgate-demo-"))) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="module")
def line(bootstrap, tmp_path_factory):
    """A pipeline with topics of its own. Workers that a module's tests start run until its last test is over."""
    folder = tmp_path_factory.mktemp("line")
    with Crew(folder) as crew:
        yield Line(bootstrap, f"t{uuid.uuid4().hex[:8]}", folder, crew)
