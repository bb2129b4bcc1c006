"""Writes the load: a shuffled backlog, or a paced stream (as a process of its own: `python -m tests.bench.load`).

A record says which one it is: its key, its number within the key, and the wall clock just before `produce()`. In
the relays' scenarios the value says it, `{"n":"0000000042","at":"<ns>","pad":"xxx..."}`; a ticket says it in `ce_id`.
Keys lie evenly on the partitions.
"""

import csv
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Message, Producer

from pipeline import workflows
from pipeline.codec import Codec
from tests.bench.scenarios import Scenario, Shape

VALUE_BYTES = 500
QUIET = 3
"""librdkafka's log level for errors: a retry is no news, and what is lost is said by `flush`."""
WARM_UP = b"warm-up"
_FRAME = b'{"n":"%010d","at":"%020d","pad":"'
_PAD = b"x" * (VALUE_BYTES - len(_FRAME % (0, 0)) - 2) + b'"}'

Headers = list[tuple[str, bytes]]


class Mark(NamedTuple):
    key: bytes
    n: int
    at_ns: int


Make = Callable[[Mark], tuple[bytes, Headers | None]]


def maker(shape: Shape) -> Make:
    """What turns a mark into a record of this shape."""
    match shape:
        case Shape.VALUE:
            return lambda mark: (_value(mark), None)
        case Shape.EVENT:
            return lambda mark: (_value(mark), _headers(mark, b"bench.record"))
        case Shape.TICKET:
            return _tickets()


def mark_of(message: Message, shape: Shape) -> Mark | None:
    """The mark of a record that passed through a system; None for a warm-up record."""
    key = message.key()
    if key == WARM_UP:
        return None
    if shape is Shape.TICKET:
        _, n, at_ns = dict(message.headers())["ce_id"].split(b"_")
        return Mark(key, int(n), int(at_ns))
    value = message.value()
    return Mark(key, int(value[6:16]), int(value[24:44]))


def _value(mark: Mark) -> bytes:
    return _FRAME % (mark.n, mark.at_ns) + _PAD


def _headers(mark: Mark, kind: bytes) -> Headers:
    """CloudEvents in binary mode, with a W3C trace: 7 headers, about 300 bytes."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"%b_%d_%d" % mark),
        ("ce_type", kind),
        ("ce_source", b"urn:lockgate:bench"),
        ("ce_time", b"2026-01-01T00:00:00.000Z"),
        ("ce_subject", mark.key),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]


HEADER_NAMES = {name for name, _ in _headers(Mark(b"", 0, 0), b"")}


def _tickets() -> Make:
    """Customers' messages of the shipped workflow, in turn."""
    codec = Codec()
    training = Path(workflows.__file__).parent / "ticket_triage" / "training.csv"
    with training.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]

    def make(mark: Mark) -> tuple[bytes, Headers]:
        text = texts[(mark.n * 31 + sum(mark.key)) % len(texts)]
        ticket = {"text": text, "channel": "chat", "language": "en", "customer_id": mark.key.decode()}
        return codec.encode_event(ticket, "ticket"), _headers(mark, b"com.bank.message.received")

    return make


def sequence(scenario: Scenario, records: int) -> Iterator[tuple[int, int]]:
    """(key, number within the key) of every record, in an order that is random and the same in every run."""
    keys = [i % scenario.keys for i in range(records)]
    random.Random(7).shuffle(keys)
    seen = [0] * scenario.keys
    for key in keys:
        yield key, seen[key]
        seen[key] += 1


def preload(bootstrap: str, topic: str, scenario: Scenario) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": QUIET,
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 500_000,
            "queue.buffering.max.messages": 200_000,
        }
    )
    make = maker(scenario.shape)
    for which in sequence(scenario, scenario.records):
        while True:
            try:
                _produce(producer, topic, scenario, make, which)
                break
            except BufferError:
                producer.poll(0.1)
    if left := producer.flush(60):
        raise RuntimeError(f"{left} records could not be preloaded into {topic}")


def pace(bootstrap: str, topic: str, scenario: Scenario, per_s: float, seconds: float) -> None:
    """Produces at an even rate, each record sent at once. Returns when the broker has all of them."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "log_level": QUIET, "enable.idempotence": True, "linger.ms": 0}
    )
    producer.list_topics(topic, timeout=10)
    make = maker(scenario.shape)
    begin = time.perf_counter()
    for i, which in enumerate(sequence(scenario, int(per_s * seconds))):
        ahead = begin + i / per_s - time.perf_counter()
        if ahead > 0:
            producer.poll(0)
            time.sleep(ahead)
        _produce(producer, topic, scenario, make, which)
    if left := producer.flush(60):
        raise RuntimeError(f"{left} paced records could not be written to {topic}")


def warm_up(bootstrap: str, topic: str, scenario: Scenario) -> None:
    """One record per partition that every measurement skips."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": QUIET, "enable.idempotence": True})
    make = maker(scenario.shape)
    for partition in range(scenario.partitions):
        value, headers = make(Mark(WARM_UP, partition, 0))
        producer.produce(topic, value, WARM_UP, partition=partition, headers=headers)
    if producer.flush(30):
        raise RuntimeError(f"the broker did not take the warm-up records of {topic}")


def know_customers(bootstrap: str, environment: str, scenario: Scenario) -> None:
    """What enrichment asks for: every key's customer with a product, so that no event ends for want of context."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": QUIET, "enable.idempotence": True})
    product = {"product_id": "prod-1", "name": "Everyday account", "kind": "current_account"}
    producer.produce(f"{environment}.context-products", json.dumps(product).encode(), b"prod-1")
    for key in [WARM_UP, *(_key(number) for number in range(scenario.keys))]:
        customer = {"customer_id": key.decode(), "segment": "retail", "language": "en", "product_id": "prod-1"}
        producer.produce(f"{environment}.context-customers", json.dumps(customer).encode(), key)
    if producer.flush(60):
        raise RuntimeError(f"the broker did not take the customers of {environment}")


def _key(number: int) -> bytes:
    return b"k-%06d" % number


def _produce(producer: Producer, topic: str, scenario: Scenario, make: Make, which: tuple[int, int]) -> None:
    key, n = which
    mark = Mark(_key(key), n, time.time_ns())
    value, headers = make(mark)
    producer.produce(topic, value, mark.key, partition=key % scenario.partitions, headers=headers)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    scenario = job["scenario"] | {"shape": Shape(job["scenario"]["shape"])}
    pace(job["bootstrap"], job["topic"], Scenario(**scenario), job["per_s"], job["seconds"])
