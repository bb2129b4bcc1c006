"""One environment on the real broker with a real worker, the command line, and a plain client's eyes."""

import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner
from confluent_kafka import KafkaException, Producer

from agents.cli import main
from agents.cli.output import ExitCode
from pipeline.codec import Codec, event_headers
from pipeline.records import Case, CheckResult, ContextField, Event, Inference, Position, Verdict, decision_id
from pipeline.share import share
from pipeline.workflow import Check
from tests.broker.one_stage import read_all
from tests.steps.cases import WORKFLOW  # with the release of the shipped folder: the worker has no other

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
CODEC = Codec()


class Line:
    """One environment, with ways to put records in and to read what came out."""

    def __init__(self, kafka, folder):
        self.kafka, self.folder = kafka, folder
        self.environment = f"t{uuid.uuid4().hex[:8]}"
        self.options = ["--bootstrap", kafka, "--environment", self.environment]
        declared = share("topics.yaml").read_text().replace("partitions: 8", f"partitions: {PARTITIONS}")
        (folder / "topics.yaml").write_text(declared)
        made = self.run("topics", "apply", "--file", str(folder / "topics.yaml"), "--replication", "1")
        assert made.exit_code == ExitCode.OK, made.output
        self.count = 0

    def run(self, *arguments):
        return CliRunner().invoke(main, [*self.options, *arguments])

    def json(self, *arguments, code=ExitCode.OK):
        result = self.run(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    @contextmanager
    def worker(self, *stages):
        """`lockgate worker` with these stages, or all, as a process of its own."""
        chosen = [part for stage in stages for part in ("--stage", stage)]
        log = self.folder / f"worker-{time.monotonic_ns()}.log"
        with log.open("wb") as sink:
            worker = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "agents.cli",
                    *self.options,
                    "worker",
                    *chosen,
                ],
                cwd=ROOT,
                env={**os.environ, "LOCKGATE_DATA_DIR": str(self.folder / "data")},
                stdout=sink,
                stderr=sink,
            )
        try:
            yield worker
            assert worker.poll() is None, log.read_text()
        finally:
            worker.terminate()
            worker.wait(20)

    def put(self, topic, value, *, key, headers=(), partition=0):
        """The offset at which one record lies now."""
        told = []
        producer = Producer({"bootstrap.servers": self.kafka, "acks": "all"})
        producer.produce(
            f"{self.environment}.{topic}",
            value,
            key,
            partition,
            headers=list(headers),
            on_delivery=lambda error, message: told.append((error, message)),
        )
        assert producer.flush(20) == 0
        assert told[0][0] is None
        return told[0][1].offset()

    def case(self, *, confidence=0.2, intent="refund", subject=None, partition=0):
        """A validated case of an event of its own."""
        self.count += 1
        subject = subject or f"c-{self.count}"
        event = Event("/bank", f"m-{self.count}", WORKFLOW.event_type, subject, None, {"text": "where is my money?"})
        return Case(
            event,
            Position("workflow-events", partition, self.count, 1_748_772_000_000),
            WORKFLOW.name,
            WORKFLOW.release,
            (ContextField("customer", {"segment": "gold"}, "context-customers[0]@4", 3_600_000),),
            Inference("local", "m1", WORKFLOW.answer(intent), confidence, "probability", 1.0),
            tuple(CheckResult(check.value, Verdict.PASS, "ok") for check in Check),
        )

    def validated(self, case):
        """Puts a case where routing finds it, and returns its review id, which is also that of its decision."""
        self.put(
            "workflow-validated",
            CODEC.encode(case),
            key=case.event.subject.encode(),
            headers=event_headers(case.event),
            partition=case.origin.partition,
        )
        return decision_id(case.event, case.workflow, 1)

    def review(self, **more):
        """The id of a review that is open."""
        review_id = self.validated(self.case(**more))
        self.eventually(lambda: any(r["review_id"] == review_id for r in self.json("review", "list")["reviews"]))
        return review_id

    def eventually(self, check, within_s=60):
        until = time.monotonic() + within_s
        while not (found := check()):
            assert time.monotonic() < until, "it did not come true in time"
            time.sleep(0.1)
        return found

    def records(self, topic):
        """Every committed record, by a client that shares no code with ours."""
        until = time.monotonic() + 30
        while True:
            try:
                return read_all(self.kafka, f"{self.environment}.{topic}")
            except KafkaException:  # such as a leader of a new topic that does not know yet that it is one
                assert time.monotonic() < until
                time.sleep(0.2)

    def read(self, topic, decode):
        return [decode(message.value()) for message in self.records(topic)]

    def decisions(self, *ids):
        found = self.read("decisions", CODEC.decode_decision)
        return [decision for decision in found if not ids or decision.decision_id in ids]

    def audits(self, kind, **detail):
        found = self.read("audit", CODEC.decode_audit)
        return [a for a in found if a.kind == kind and detail.items() <= a.detail.items()]
