"""Context from compacted topics on the real broker: known before work starts, followed from then on, never guessed."""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from agents.cli import main
from agents.cli.output import ExitCode
from pipeline.codec import Codec
from pipeline.context import view as view_module
from pipeline.context.entries import ViewLimits
from pipeline.context.view import TopicView
from pipeline.errors import BrokerUnavailable, ConfigError, FailureClass, StageStopped, StepError
from pipeline.share import share
from pipeline.steps.enrich import Found, Missing, Unreadable
from tests.broker.one_stage import eventually, read_all

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000


@pytest.fixture
def topic(environment, create_topics):
    name = f"{environment}.context-things"
    create_topics(name, partitions=4, **{"cleanup.policy": "compact"})
    return name


def now_ms():
    return round(time.time() * 1000)


def write(kafka, topic, *records):
    """Each record is (key, value[, timestamp_ms]); a value that is no bytes is written as JSON, None deletes."""
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    for key, value, *timestamp in records:
        plain = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic, plain, key, timestamp=timestamp[0] if timestamp else 0)
    assert producer.flush(30) == 0


@asynccontextmanager
async def viewing(kafka, topic, **limits):
    view = TopicView({"bootstrap.servers": kafka}, topic, "context-things", ViewLimits(**limits))
    try:
        await view.start()
        yield view
    finally:
        await view.close()


async def follows(view, key, wanted):
    """Waits until `wanted` is true of what lies under the key."""

    for _ in range(1_000):
        if wanted(await view.lookup(key)):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"in 20 s it did not become what was wanted of {key}")


def test_all_that_was_written_before_the_start_is_known_when_it_returns(kafka, topic):
    write(kafka, topic, *((f"k{n}", {"n": n}) for n in range(5_000)))
    write(kafka, topic, *((f"k{n}", {"n": -n}) for n in range(0, 5_000, 2)), ("k1", None))

    async def scenario():
        async with viewing(kafka, topic) as view:
            found = {n: await view.lookup(f"k{n}") for n in range(5_000)}
            assert {n for n, it in found.items() if not isinstance(it, Found)} == {1}
            assert all(it.value == {"n": n if n % 2 else -n} for n, it in found.items() if n != 1)
            assert view.entries.count == 4_999

    asyncio.run(scenario())


def test_an_empty_topic_is_caught_up_at_once_and_closes_quickly(kafka, topic):
    async def scenario():
        async with viewing(kafka, topic) as view:
            assert isinstance(await view.lookup("k"), Missing)
            began = time.monotonic()
            await view.close()
            assert time.monotonic() - began < 2
        await view.close()

    asyncio.run(scenario())


def test_it_follows_updates_and_deletions(kafka, topic):
    async def scenario():
        async with viewing(kafka, topic) as view:
            write(kafka, topic, ("k", {"n": 1}))
            await follows(view, "k", lambda found: isinstance(found, Found) and found.value == {"n": 1})
            write(kafka, topic, ("k", {"n": 2}))
            await follows(view, "k", lambda found: isinstance(found, Found) and found.value == {"n": 2})
            write(kafka, topic, ("k", b"nonsense"))
            await follows(view, "k", lambda found: isinstance(found, Unreadable))
            assert view.entries.unreadable == 1
            write(kafka, topic, ("k", None))
            await follows(view, "k", lambda found: isinstance(found, Missing))

    asyncio.run(scenario())


def test_a_record_has_the_timestamp_of_its_owner_and_its_place(kafka, topic):
    at_ms = now_ms() - 400 * DAY_MS
    write(kafka, topic, ("k", {"n": 1}, at_ms))

    async def scenario():
        async with viewing(kafka, topic) as view:
            found = await view.lookup("k")
            assert found.timestamp_ms == at_ms
            assert found.place.startswith("context-things[")
            assert found.place.endswith("]@0")

    asyncio.run(scenario())


def transaction(kafka, topic, key, value):
    """A producer with one record in an open transaction."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": f"{topic}.owner"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, json.dumps(value).encode(), key)
    producer.flush(10)
    return producer


def test_what_a_transaction_wrote_before_the_start_is_waited_for(kafka, topic):
    write(kafka, topic, ("k", {"n": 1}))
    producer = transaction(kafka, topic, "k", {"n": 2})

    async def scenario():
        view = TopicView({"bootstrap.servers": kafka}, topic, "context-things")
        start = asyncio.create_task(view.start())
        try:
            await asyncio.sleep(2)
            assert not start.done()
            with pytest.raises(StepError, match="context_unavailable: context-things") as refusal:
                await view.lookup("k")
            assert refusal.value.failure is FailureClass.TRANSIENT
            producer.commit_transaction(10)
            await asyncio.wait_for(start, 20)
            assert (await view.lookup("k")).value == {"n": 2}
        finally:
            await view.close()

    asyncio.run(scenario())


def test_what_a_transaction_took_back_was_never_there(kafka, topic):
    write(kafka, topic, ("k", {"n": 1}))
    transaction(kafka, topic, "k", {"n": 2}).abort_transaction(10)

    async def scenario():
        async with viewing(kafka, topic) as view:
            assert (await view.lookup("k")).value == {"n": 1}

    asyncio.run(scenario())


def test_a_transaction_that_stays_open_ends_the_wait_with_the_partition_named(kafka, topic):
    producer = transaction(kafka, topic, "k", {"n": 2})

    async def scenario():
        async with viewing(kafka, topic, patience_s=1.0):
            pass

    with pytest.raises(StageStopped, match=rf"{topic}\[\d\] ends at 1, .* before 0 could be read: .*transaction"):
        asyncio.run(scenario())
    producer.abort_transaction(10)


def test_a_start_that_is_closed_is_cancelled(kafka, topic):
    producer = transaction(kafka, topic, "k", {"n": 2})

    async def scenario():
        view = TopicView({"bootstrap.servers": kafka}, topic, "context-things")
        start = asyncio.create_task(view.start())
        await asyncio.sleep(0.5)
        await view.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(start, 5)

    asyncio.run(scenario())
    producer.abort_transaction(10)


def test_a_topic_that_is_not_there_says_what_to_do(kafka, environment):
    async def scenario():
        async with viewing(kafka, f"{environment}.context-none"):
            pass

    with pytest.raises(ConfigError, match=r"no topic .*context-none .*lockgate topics apply"):
        asyncio.run(scenario())


def test_a_silent_broker_is_named():
    async def scenario():
        async with viewing("127.0.0.1:1", "t.context-things"):
            pass

    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 does not answer"):
        asyncio.run(scenario())


def test_a_topic_that_keeps_the_time_of_arrival_is_refused(kafka, environment, create_topics):
    name = f"{environment}.context-things"
    create_topics(name, partitions=1, **{"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"})
    write(kafka, name, ("k", {"n": 1}, now_ms() - 400 * DAY_MS))

    async def scenario():
        async with viewing(kafka, name):
            pass

    with pytest.raises(ConfigError, match=r"old context would look fresh: set message\.timestamp\.type=CreateTime"):
        asyncio.run(scenario())


def test_a_topic_beyond_the_limit_is_not_started_with(kafka, topic):
    write(kafka, topic, *((f"k{n}", {}) for n in range(11)))

    async def scenario():
        async with viewing(kafka, topic, max_entries=10):
            pass

    with pytest.raises(StageStopped, match="context_max_entries = 10"):
        asyncio.run(scenario())


def test_a_topic_that_grows_beyond_the_limit_fails_the_view_and_nothing_is_called_missing(kafka, topic):
    write(kafka, topic, *((f"k{n}", {}) for n in range(10)))

    async def scenario():
        async with viewing(kafka, topic, max_entries=10) as view:
            write(kafka, topic, ("one", {}), ("too many", {}))
            await eventually(view.failed.done)
            with pytest.raises(StageStopped, match="context_max_entries = 10"):
                await view.failed
            with pytest.raises(StepError, match="context_unavailable"):
                await view.lookup("too many")

    asyncio.run(scenario())


def test_partitions_that_a_topic_gets_later_are_read(kafka, topic, monkeypatch):
    monkeypatch.setattr(view_module, "_PARTITIONS_S", 0.2)

    async def scenario():
        async with viewing(kafka, topic) as view:
            admin = AdminClient({"bootstrap.servers": kafka})
            grown = admin.create_partitions([NewPartitions(topic, 5)])
            grown[topic].result(20)
            producer = Producer({"bootstrap.servers": kafka})
            await eventually(lambda: len(producer.list_topics(topic, 5).topics[topic].partitions) == 5)
            producer.produce(topic, b"{}", b"new", 4)
            assert producer.flush(20) == 0
            await follows(view, "new", lambda found: isinstance(found, Found))
            write(kafka, topic, *((f"k{n}", {"n": n}) for n in range(20)))
            for n in range(20):
                await follows(view, f"k{n}", lambda found: isinstance(found, Found))

    asyncio.run(scenario())


# -- in a worker --------------------------------------------------------------------------------------------

STAGES = ["--stage", "enrichment"]


@pytest.fixture
def lockgate(kafka, environment, tmp_path, monkeypatch):
    """lockgate("topics", "apply"): the command in this test's environment, with all topics made."""
    monkeypatch.setenv("LOCKGATE_DATA_DIR", str(tmp_path / "data"))
    declared = tmp_path / "topics.yaml"
    declared.write_text(share("topics.yaml").read_text("utf-8").replace("partitions: 8", "partitions: 2"), "utf-8")

    def run(*arguments):
        return CliRunner().invoke(main, ["--bootstrap", kafka, "--environment", environment, *arguments])

    made = run("topics", "apply", "--file", str(declared), "--replication", "1")
    assert made.exit_code == ExitCode.OK, made.output
    return run


class Worker:
    """`lockgate worker --stage enrichment` as a process of its own."""

    def __init__(self, kafka, environment, **settings):
        command = [sys.executable, "-m", "agents.cli", "--bootstrap", kafka, "--environment", environment]
        self.process = subprocess.Popen(
            [*command, "worker", *STAGES],
            cwd=Path(os.environ["LOCKGATE_DATA_DIR"]).parent,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | settings,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def says(self, text):
        """Waits until it writes a line with the text in it."""
        assert any(text in line for line in self.process.stderr), f"it ended and never said {text}"

    def ended(self, within_s=30):
        """Its exit code and what it said."""
        _, said = self.process.communicate(timeout=within_s)
        return self.process.returncode, said


def customer(customer_id="c-1", **changes):
    return {"customer_id": customer_id, "segment": "retail", "language": "en", "product_id": "p-1", **changes}


def messages(kafka, topic, *customer_ids, **more):
    """One message of each customer; `more` gives the customer id where it is not the subject."""
    producer = Producer({"bootstrap.servers": kafka})
    for subject in (*customer_ids, *more):
        event = {"text": "my card was stolen", "channel": "chat", "customer_id": more.get(subject, subject)}
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"about-{subject}",
            "ce_source": "/bank",
            "ce_type": "com.bank.message.received",
            "ce_subject": subject,
            "content-type": "application/json",
        }
        producer.produce(topic, json.dumps(event).encode(), subject, headers=headers)
    assert producer.flush(30) == 0


def outcomes(kafka, environment, count, within_s=60):
    """What became of each message, by its subject: a case that went on, or the review item."""
    codec = Codec()
    deadline = time.monotonic() + within_s
    while True:
        cases, reviews = [], []
        with suppress(KafkaException):  # a partition whose leader is not known yet, soon after it was made
            cases = [codec.decode_case(it.value()) for it in read_all(kafka, f"{environment}.workflow-enriched")]
            reviews = [codec.decode_review(it.value()) for it in read_all(kafka, f"{environment}.human-review")]
        if len(cases) + len(reviews) == count:
            return {case.event.subject: case for case in cases} | {item.case.event.subject: item for item in reviews}
        assert time.monotonic() < deadline, f"{len(cases)} cases and {len(reviews)} reviews, not {count}"
        time.sleep(0.3)


def test_a_worker_sends_what_it_does_not_know_enough_about_to_people(kafka, environment, lockgate):
    stale_ms = now_ms() - 31 * DAY_MS
    write(
        kafka,
        f"{environment}.context-customers",
        ("known", customer("known"), now_ms() - DAY_MS),
        ("stale", customer("stale"), stale_ms),
        ("deleted", customer("deleted")),
        ("deleted", None),
        ("broken", b"\xff nonsense"),
        ("somebody", customer("somebody else")),
        ("anothers", customer("anothers")),
        ("odd", customer("odd", product_id="p-2")),
    )
    write(
        kafka, f"{environment}.context-products", ("p-1", {"product_id": "p-1", "name": "Current", "kind": "account"})
    )
    subjects = ["known", "stale", "deleted", "broken", "somebody", "odd", "never"]
    messages(kafka, f"{environment}.workflow-events", *subjects, me="anothers", nobody=None)
    with Worker(kafka, environment):
        became = outcomes(kafka, environment, len(subjects) + 2)
    reasons = {subject: item.reasons for subject, item in became.items() if hasattr(item, "reasons")}
    assert reasons == {
        "stale": ("context_stale:customer",),
        "deleted": ("context_missing:customer",),
        "never": ("context_missing:customer",),
        "nobody": ("context_missing:customer",),
        "broken": ("context_unreadable:customer",),
        "somebody": ("context_mismatch:customer",),
        "me": ("context_mismatch:customer",),
    }
    known = {field.name: field for field in became["known"].context}
    assert known["customer"].value == customer("known")
    assert DAY_MS <= known["customer"].age_ms < DAY_MS + 300_000
    assert known["product"].value["name"] == "Current"
    odd = {field.name: field.value for field in became["odd"].context}
    assert (odd["product"], odd["context_notes"]) == (None, ["context_missing:product"])
    shown = {field.name: field for field in became["stale"].case.context}
    assert 31 * DAY_MS <= shown["customer"].age_ms < 31 * DAY_MS + 300_000


def test_a_worker_works_on_nothing_before_all_context_is_known(kafka, environment, lockgate):
    """The messages lie there before the worker starts; the customer each is about is the last one in its partition."""
    many = [f"c{n}" for n in range(20_000)]
    messages(kafka, f"{environment}.workflow-events", *many[-500:])
    write(kafka, f"{environment}.context-customers", *((name, customer(name)) for name in many))
    with Worker(kafka, environment):
        became = outcomes(kafka, environment, 500)
    assert [item for item in became.values() if hasattr(item, "reasons")] == []


def test_a_worker_ends_when_context_outgrows_its_memory(kafka, environment, lockgate):
    topic = f"{environment}.context-customers"
    write(kafka, topic, ("c1", customer()))
    messages(kafka, f"{environment}.workflow-events", "c1")
    with Worker(kafka, environment, LOCKGATE_CONTEXT_MAX_ENTRIES="2") as worker:
        outcomes(kafka, environment, 1)
        write(kafka, topic, ("c2", customer()), ("c3", customer()))
        code, said = worker.ended()
    assert code == ExitCode.FAILED
    assert "context-customers holds more than context_max_entries = 2 allows" in said


def test_a_worker_without_the_context_topics_says_what_to_do(kafka, environment, create_topics, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKGATE_DATA_DIR", str(tmp_path / "data"))
    with Worker(kafka, environment) as worker:
        code, said = worker.ended()
    assert code == ExitCode.USAGE
    assert f"no topic {environment}.context-" in said
    assert "lockgate topics apply" in said
    assert "Traceback" not in said


def test_a_worker_can_be_stopped_while_it_waits_for_context(kafka, environment, lockgate):
    producer = transaction(kafka, f"{environment}.context-customers", "c", customer())
    with Worker(kafka, environment) as worker:
        worker.says("reading what is known of context-customers, context-products")
        worker.process.terminate()
        code, said = worker.ended(10)
    producer.abort_transaction(10)
    assert code == ExitCode.OK, said


def test_the_topics_as_applied_keep_the_time_of_the_owner(kafka, environment, lockgate):
    write(kafka, f"{environment}.context-customers", ("c", customer(), now_ms() - 400 * DAY_MS))

    async def scenario():
        async with viewing(kafka, f"{environment}.context-customers") as view:  # it refuses any other time
            assert now_ms() - (await view.lookup("c")).timestamp_ms >= 400 * DAY_MS

    asyncio.run(scenario())


def test_one_bad_line_and_no_context_is_loaded(kafka, environment, lockgate, tmp_path):
    file = tmp_path / "customers.jsonl"
    file.write_text('{"key": "c-1", "value": {}}\n{"key": "c-2", "value": 7}\n', "utf-8")
    refused = lockgate("context", "load", "customers", str(file))
    assert refused.exit_code == ExitCode.USAGE
    assert f"{file}:2: value: must be an object" in refused.stderr

    async def nothing_is_there():
        async with viewing(kafka, f"{environment}.context-customers") as view:
            assert view.entries.count == 0

    asyncio.run(nothing_is_there())
    file.write_text("\n", "utf-8")
    assert lockgate("context", "load", "customers", str(file)).exit_code == ExitCode.NOT_FOUND


def test_context_that_is_loaded_from_a_file_is_known_with_its_age(kafka, environment, lockgate, tmp_path):
    file = tmp_path / "customers.jsonl"
    lines = [
        {"key": "c-1", "age_days": 40, "value": customer()},
        {"key": "c-2", "value": {}},
        {"key": "c-2", "value": None},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    loaded = lockgate("context", "load", "customers", str(file), "--json")
    assert json.loads(loaded.stdout) == {"topic": f"{environment}.context-customers", "loaded": 2, "deleted": 1}

    async def scenario():
        async with viewing(kafka, f"{environment}.context-customers") as view:
            found = await view.lookup("c-1")
            assert found.value == customer()
            assert 40 * DAY_MS <= now_ms() - found.timestamp_ms < 40 * DAY_MS + 120_000
            assert isinstance(await view.lookup("c-2"), Missing)

    asyncio.run(scenario())
