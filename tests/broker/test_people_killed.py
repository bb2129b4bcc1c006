"""Verdicts under kill -9: however often routing dies, each review is decided once, by the verdict that came first."""

import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

from confluent_kafka import Producer

from pipeline.codec import event_headers
from pipeline.records import ReviewVerdict, VerdictKind, enclosed
from tests.broker.line import CODEC, PARTITIONS, ROOT, Line

REVIEWS = 180


@contextmanager
def worker(line, name):
    """The real worker with a session of three seconds, so that its death is noticed soon."""
    command = [sys.executable, "-m", "tests.proof.chain_worker", *line.options, "--data-dir", str(line.folder / "data")]
    with (line.folder / f"{name}.log").open("wb") as sink:
        running = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=sink, stderr=sink)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def put_all(line, topic, records):
    """Publishes (partition, key, value, headers) in order."""
    producer = Producer({"bootstrap.servers": line.kafka, "enable.idempotence": True})
    for partition, key, value, headers in records:
        producer.produce(f"{line.environment}.{topic}", value, key, partition, headers=list(headers))
    assert producer.flush(30) == 0


def give_and_kill(line, running, verdicts):
    """The worker dies while it judges: a few verdicts at a time, and no word of goodbye."""
    for at in range(0, len(verdicts), 10):
        put_all(line, "review-verdicts", verdicts[at : at + 10])
        if at >= len(verdicts) // 2:
            running.kill()


def judged(line):
    """How many verdicts have come to an end that everybody can see."""
    return len(line.decisions()) + len(line.audits("superseded"))


def test_each_review_is_decided_once_by_its_first_verdict_whatever_is_killed(kafka, tmp_path):
    line = Line(kafka, tmp_path)
    cases = [line.case(partition=number % PARTITIONS) for number in range(REVIEWS)]
    lanes = {case.event.id: (case.origin.partition, case.event.subject.encode()) for case in cases}
    put_all(
        line,
        "workflow-validated",
        [(*lanes[case.event.id], CODEC.encode(case), event_headers(case.event)) for case in cases],
    )
    with worker(line, "first") as first:
        items = line.eventually(lambda: found if len(found := line.records("human-review")) == REVIEWS else None)
        verdicts = []
        for kind in (VerdictKind.REJECT, VerdictKind.APPROVE):
            for item in items:
                content, digest = enclosed(item.value())
                review_id = CODEC.decode_review(item.value()).review_id
                said = ReviewVerdict(review_id, kind, None, "a.meier", "", 1, 1, content, digest)
                verdicts.append((item.partition(), item.key(), CODEC.encode(said), item.headers()))
        third = len(verdicts) // 3
        give_and_kill(line, first, verdicts[:third])
    with worker(line, "second") as second:
        line.eventually(lambda: judged(line) >= third)
        give_and_kill(line, second, verdicts[third : 2 * third])
    with worker(line, "third"):
        put_all(line, "review-verdicts", verdicts[2 * third :])
        line.eventually(lambda: judged(line) >= len(verdicts), within_s=90)

    decided = Counter(decision.decision_id for decision in line.decisions())
    assert len(decided) == REVIEWS
    assert set(decided.values()) == {1}
    assert {decision.reasons for decision in line.decisions()} == {("rejected",)}
    assert Counter(audit.detail["once"] for audit in line.audits("superseded")) == decided
    assert line.records("dead-letter") == []
