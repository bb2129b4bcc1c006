"""The systems side by side. Each is run as `python -m <module> <job as JSON>` until SIGTERM."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    module: str
    promise: str
    how: str
    """Settings and the way order per key is kept, for the reader of the table."""
    variant: str = ""
    shown: str = ""
    """The name in the results, where it differs."""


SYSTEMS = {
    "lockgate": Entry(
        "tests.bench.systems.lockgate",
        "one output per record, atomic with its offset",
        "Faust agents on the transactional channel; one lane per key, no barrier between batches",
    ),
    "lockgate-pipeline": Entry(
        "tests.bench.systems.lockgate_pipeline",
        "one exit per event, atomic with its offset, at every stage",
        "the worker as shipped: four stages in one process, Avro, scikit-learn",
        shown="lockgate",
    ),
    "confluent-loop": Entry(
        "tests.bench.systems.confluent_loop",
        "one output per record, atomic with its offset",
        "confluent-kafka, hand-written: 10,000 records or 20 ms per batch, keys concurrently, one transaction each",
    ),
    "faust": Entry(
        "tests.bench.systems.faust_app",
        "at most once when the agent raises; else at least once",
        "as shipped (web off, log level warning): one record after the other, event.forward()",
    ),
    "faust-tuned": Entry(
        "tests.bench.systems.faust_app",
        "at least once unless the agent raises",
        "take_events for 20 ms at most, keys concurrently, deliveries awaited; linger, large buffers, quiet loggers",
        variant="tuned",
    ),
    "faststream": Entry(
        "tests.bench.systems.faststream_app",
        "at least once (AckPolicy.NACK_ON_ERROR)",
        "as documented: one handler per record, @publisher, confirmed and committed one by one",
    ),
    "faststream-tuned": Entry(
        "tests.bench.systems.faststream_app",
        "at least once (AckPolicy.NACK_ON_ERROR)",
        "batch=True for 20 ms at most, keys concurrently, deliveries awaited together, one commit per batch",
        variant="tuned",
    ),
}
