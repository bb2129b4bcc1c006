"""One environment of the real pipeline, driven by its own commands and examined by the proof harness.

Where an event ended is read by a client that shares no code with the engine (tests/proof); only the values of
decisions and reviews are then decoded by the product's codec.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.broker import local
from pipeline.broker.find import broker_folder, find_broker
from pipeline.broker.guardian import Guardian
from pipeline.broker.processes import Process
from pipeline.codec import Codec
from pipeline.config import load_settings
from pipeline.records import Json
from tests.proof.audits import duplicates
from tests.proof.conservation import Report, examine
from tests.proof.ledger import Ledger, Record, read
from tests.proof.topology import STAGES, chain
from tests.proof.workers import Crew, Worker

ROOT = Path(__file__).parents[2]
READY_S = 120.0  # a model may have to be trained first

At = tuple[int, int]
"""Partition and offset in workflow-events."""


@contextmanager
def own_broker(folder: Path) -> Iterator[str]:
    """Bootstrap servers of the configured Kafka, or of one of our own in `folder`, ended and removed with the block."""
    settings = load_settings().model_copy(update={"data_dir": folder})
    with Guardian() as guardian:
        broker = find_broker(settings)
        if broker.kind == "local":
            running = local.running(broker_folder(settings))
            assert running is not None
            guardian.watch(Process(running.pid, running.mark))
        try:
            yield broker.bootstrap
        finally:
            broker.close()
            local.down(broker_folder(settings))
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Ending:
    """Where one published event is now, why, and what a model had answered by then."""

    place: str
    reasons: tuple[str, ...] = ()
    answer: Mapping[str, Json] | None = None
    confidence: float | None = None


class Line:
    """All topics of one environment, and workers for it. `folder` holds the logs and the slots of the workers."""

    def __init__(self, bootstrap: str, environment: str, folder: Path, crew: Crew) -> None:
        self.bootstrap, self.environment = bootstrap, environment
        self.topology = chain(environment, duplicates())
        self._folder, self._crew = folder, crew
        self._argv = [sys.executable, "-m", "agents.cli", "--environment", environment, "--bootstrap", bootstrap]
        self.lockgate("topics", "apply", "--replication", "1")

    def lockgate(self, *command: str) -> Any:
        """What a command says with --json. AssertionError with its stderr when it fails."""
        done = subprocess.run(
            [*self._argv, *command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=180, env=self._env()
        )
        assert done.returncode == 0, f"lockgate {' '.join(command)}: {done.stderr[-2000:]}"
        return json.loads(done.stdout)

    def start(self, *options: str) -> Worker:
        """A worker with all stages that has partitions to feed from."""
        worker = self._crew.start([*self._argv, "worker", *options], cwd=ROOT, env=self._env())
        for stage in STAGES:
            worker.wait_said(f"{stage}: feeding from", READY_S)
        return worker

    def at_rest(self, bound_s: float, poll_s: float = 1.0) -> tuple[Ledger, Report]:
        """What lies in the topics and what the harness says of it, once nothing is on its way or the time is over."""
        until = time.monotonic() + bound_s
        while True:
            ledger = read(self.bootstrap, self.topology.topics, groups=self.topology.groups)
            report = examine(self.topology, ledger)
            if not report.undelivered or time.monotonic() > until:
                return ledger, report
            time.sleep(poll_s)

    def endings(self, ledger: Ledger) -> dict[At, Ending]:
        """The ending of every event that has one. The ledger must be one that the harness found nothing wrong with."""
        found: dict[At, Ending] = {}
        codec = Codec()
        for topic, place in self.topology.exits.items():
            for record in ledger[topic]:
                found[_origin(record)] = _ending(place, record, codec)
        is_duplicate = self.topology.is_duplicate
        assert self.topology.audit is not None
        assert is_duplicate is not None
        for record in ledger[self.topology.audit]:
            if is_duplicate(record):
                found[_origin(record)] = Ending("duplicate", ("duplicate",))
        return found

    def _env(self) -> dict[str, str]:
        return {"LOCKGATE_DATA_DIR": str(self._folder)}


def _ending(place: str, record: Record, codec: Codec) -> Ending:
    match place:
        case "decision":
            decision = codec.decode_decision(record.value or b"")
            return Ending("decision", decision.reasons, decision.answer, decision.confidence)
        case "open_review":
            review = codec.decode_review(record.value or b"")
            answer = review.case.inference
            return Ending("review", review.reasons, answer and answer.answer, answer and answer.confidence)
        case "dead_letter":
            return Ending("dead_letter", ((record.header("lockgate_cause") or b"").decode(),))
        case _:
            return Ending(place)


def _origin(record: Record) -> At:
    for kind in ("origin", "source"):
        partition = record.header(f"lockgate_{kind}_partition")
        offset = record.header(f"lockgate_{kind}_offset")
        if partition is not None and offset is not None:
            return int(partition), int(offset)
    raise AssertionError(f"{record} does not say which event it is about")
