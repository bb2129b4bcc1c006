"""A downstream system in small: carries decisions out, each once, and reports what became of them.

    python -m agents.examples.outcome_consumer --memory done.sqlite

Four rules make it safe, whatever happens to it or before it:

1. Read with `isolation.level=read_committed`. Anything else shows decisions of aborted transactions. It is the
   default of librdkafka, but not of the Java client.
2. A decision is carried out once: its decision_id is remembered in the same database transaction as the work.
3. A decision that is older than one already carried out for its key is stale, and refused: `origin.offset` is the
   order of the events, `revision` the order of corrections.
4. What is to be reported is written down with the work and published afterwards, so that a crash loses no report.
   Offsets are committed last. So every report is published at least once, and readers drop repeats.
"""

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, Producer

from pipeline.broker.find import present_broker
from pipeline.codec import Codec
from pipeline.config import Settings, client_config, load_settings
from pipeline.errors import LockgateError
from pipeline.records import NO_ACTION, Decision, DecisionOutcome, OutcomeKind
from pipeline.topics import load_topics

NAME = "outcome-example"


def main() -> None:
    """Runs until Ctrl-C, or with --idle until nothing came for so long."""
    parser = argparse.ArgumentParser(description="Carry decisions out, each once, and report what became of them.")
    parser.add_argument("--environment", help="default: as lockgate has it")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="default: as lockgate has it")
    parser.add_argument("--memory", type=Path, required=True, help="a database file; it is made when it is not there")
    parser.add_argument("--idle", type=float, metavar="SECONDS", help="end when nothing came for so long")
    options = parser.parse_args()
    try:
        settings = load_settings()
        given = {"environment": options.environment, "bootstrap_servers": options.bootstrap}
        settings = settings.model_copy(update={name: text for name, text in given.items() if text is not None})
        settings = settings.model_copy(update={"bootstrap_servers": present_broker(settings).bootstrap})
        with closing(Memory(options.memory)) as memory:
            run(settings, memory, options.idle)
    except LockgateError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        return


def run(settings: Settings, memory: "Memory", idle_s: float | None = None) -> None:
    """Takes decisions in, batch by batch: work, then reports, then offsets."""
    codec = Codec()
    topics = load_topics()
    group = f"{settings.environment}.{NAME}"
    reading = {"group.id": group, "isolation.level": "read_committed", "enable.auto.commit": False}
    consumer = Consumer(client_config(settings, **reading, **{"auto.offset.reset": "earliest"}))
    producer = Producer(client_config(settings, **{"acks": "all", "enable.idempotence": True}))
    reports = topics.physical(settings.environment, "decision-outcomes")
    consumer.subscribe([topics.physical(settings.environment, "decisions")])
    try:
        heard = time.monotonic()
        while idle_s is None or time.monotonic() - heard < idle_s:
            messages = consumer.consume(100, 0.2)
            for message in messages:
                if (error := message.error()) is not None:
                    if error.fatal():
                        raise KafkaException(error)
                    print(f"Kafka: {error.str()}", file=sys.stderr)  # noqa: T201 - the rest passes by itself
                    continue
                print(memory.take(codec.decode_decision(message.value()), lane_of(message)), flush=True)  # noqa: T201 - what it is for
            for report in memory.unreported():
                producer.produce(reports, codec.encode(report), report.decision_id)
            if producer.flush(30):
                raise LockgateError("not every report was acknowledged: start again, none is lost")
            memory.reported()
            if messages:
                consumer.commit(asynchronous=False)
                heard = time.monotonic()
    finally:
        consumer.close()


def lane_of(message: Message) -> str | None:
    """What keeps its order: the events of one key. None for a record without a key."""
    return None if message.key() is None else f"{message.partition()}:{message.key().hex()}"


class Memory:
    """What was carried out, and what is still to be reported, in a database of one's own."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file)
        self._database.executescript("""
            CREATE TABLE IF NOT EXISTS done (decision_id TEXT PRIMARY KEY);
            CREATE TABLE IF NOT EXISTS newest (lane TEXT PRIMARY KEY, "offset" INTEGER, revision INTEGER);
            CREATE TABLE IF NOT EXISTS reports (
                decision_id TEXT, revision INTEGER, outcome TEXT, cost REAL, at_ms INTEGER, reported INTEGER DEFAULT 0
            );
        """)

    def take(self, decision: Decision, lane: str | None) -> str:
        """Carries a decision out, unless it was before or is stale; all or nothing. Returns a line that says so."""
        about = f"{decision.action} for {decision.subject}, decision {decision.decision_id}"
        with self._database:
            if not self._is_new(decision.decision_id):
                return f"repeat: {about}"
            if lane is not None and not self._is_newest(lane, decision):
                self._note(decision.decision_id, decision.revision, OutcomeKind.REJECTED, None)
                return f"stale: {about}"
            if decision.supersedes is not None and self._was_executed(decision.supersedes):
                self._note(decision.supersedes, decision.revision - 1, OutcomeKind.REVERSED, None)
            self._note(decision.decision_id, decision.revision, OutcomeKind.EXECUTED, carry_out(decision))
            return f"executed: {about}"

    def unreported(self) -> Iterator[DecisionOutcome]:
        """What downstream owes to decision-outcomes."""
        rows = self._database.execute(
            "SELECT decision_id, revision, outcome, cost, at_ms FROM reports WHERE reported = 0 ORDER BY rowid"
        )
        for decision_id, revision, outcome, cost, at_ms in rows.fetchall():
            yield DecisionOutcome(decision_id, revision, OutcomeKind(outcome), cost, at_ms, NAME)

    def reported(self) -> None:
        """All that `unreported` gave is published."""
        with self._database:
            self._database.execute("UPDATE reports SET reported = 1 WHERE reported = 0")

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()

    def _is_new(self, decision_id: str) -> bool:
        return self._database.execute("INSERT OR IGNORE INTO done VALUES (?)", (decision_id,)).rowcount == 1

    def _is_newest(self, lane: str, decision: Decision) -> bool:
        mine = (decision.origin.offset, decision.revision)
        newest = self._database.execute('SELECT "offset", revision FROM newest WHERE lane = ?', (lane,)).fetchone()
        if newest is not None and mine < newest:
            return False
        self._database.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?)", (lane, *mine))
        return True

    def _was_executed(self, decision_id: str) -> bool:
        executed = (decision_id, OutcomeKind.EXECUTED.value)
        found = self._database.execute("SELECT 1 FROM reports WHERE decision_id = ? AND outcome = ?", executed)
        return found.fetchone() is not None

    def _note(self, decision_id: str, revision: int, outcome: OutcomeKind, cost: float | None) -> None:
        self._database.execute(
            "INSERT INTO reports (decision_id, revision, outcome, cost, at_ms) VALUES (?, ?, ?, ?, ?)",
            (decision_id, revision, outcome.value, cost, round(time.time() * 1000)),
        )


def carry_out(decision: Decision) -> float:
    """Where a real system does its work, in the same database, and learns what it cost."""
    return 0.0 if decision.action == NO_ACTION else 1.0


if __name__ == "__main__":
    main()
