"""The command line on a real broker, held against what a plain client reads and writes."""

import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import fastavro
import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer, TopicPartition

from agents.cli import main
from agents.cli.output import ExitCode
from pipeline.broker import local
from pipeline.broker.processes import Process, free_ports
from pipeline.codec import Codec
from pipeline.records import Decision, Position
from pipeline.share import share
from pipeline.stream.progress import Progress

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
EVENTS = [
    {
        "id": f"e-{number}",
        "source": "/shop",
        "type": "com.bank.message.received",
        "subject": f"c-{number % 7}",
        "data": {"text": f"message {number}", "channel": "chat"},
    }
    for number in range(40)
]


@pytest.fixture
def run(kafka, environment):
    """run("lag", "--json"): the command in this test's environment."""
    options = ["--bootstrap", kafka, "--environment", environment]
    return lambda *arguments, **more: CliRunner().invoke(main, [*options, *arguments], **more)


@pytest.fixture
def lockgate(run, tmp_path, monkeypatch):
    """The same in an empty folder, with all topics made."""
    monkeypatch.chdir(tmp_path)
    declared = share("topics.yaml").read_text()
    assert "partitions: 8" in declared
    Path("topics.yaml").write_text(declared.replace("partitions: 8", f"partitions: {PARTITIONS}"))
    made = run("topics", "apply", "--file", "topics.yaml", "--replication", "1")
    assert made.exit_code == ExitCode.OK, made.output
    return run


@contextmanager
def process(kafka, environment, *arguments):
    """The command as a process of its own; killed at the end, whatever happened."""
    command = [sys.executable, "-m", "agents.cli", "--bootstrap", kafka, "--environment", environment, *arguments]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def eventually(check, within_s=60):
    """What `check` returns once it is true."""
    deadline = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return found


def transactional(kafka):
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": uuid.uuid4().hex, "log_level": 0})
    producer.init_transactions()
    return producer


shared_producer = cache(transactional)


def write(kafka, topic, *records, partition=0):
    """One committed transaction; each record is (key, value, headers)."""
    producer = shared_producer(kafka)
    producer.begin_transaction()
    for key, value, headers in records:
        producer.produce(topic, key=key, value=value, headers=headers, partition=partition)
    producer.commit_transaction()


def abort(kafka, topic, value, partition=0):
    """One aborted transaction."""
    producer = shared_producer(kafka)
    producer.begin_transaction()
    producer.produce(topic, value=value, partition=partition)
    producer.flush()
    producer.abort_transaction()


def read_back(kafka, topic):
    """Every committed record of a topic, by a client that shares no code with ours."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "x", "enable.partition.eof": True, "isolation.level": "read_committed"}
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    records, ends = [], 0
    while ends < PARTITIONS:
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            ends += 1
        else:
            records.append(message)
    consumer.close()
    return records


def java_partition(key, count):
    """Where Java's default partitioner puts a key: murmur2 as Kafka writes it."""
    mask = 0xFFFFFFFF
    m, h = 0x5BD1E995, (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % count


# -- topics -------------------------------------------------------------------------------------------------


def test_topics_are_planned_made_and_then_left_alone(run, environment):
    """plan shows what apply makes; a second apply has nothing to do."""
    planned = run("topics", "plan", "--replication", "1")
    assert planned.exit_code == ExitCode.OK
    assert f"+ {environment}.decisions: 8 partitions" in planned.stdout
    assert planned.stdout.endswith("to make, 0 to change\n")

    made = json.loads(run("topics", "apply", "--replication", "1", "--json").stdout)
    assert f"{environment}.decisions" in [create["topic"] for create in made["creates"]]
    assert run("topics", "apply", "--replication", "1").stdout == f"{environment}: the topics are as declared\n"


def test_a_plan_that_a_rule_forbids_has_an_exit_code_of_its_own(lockgate, tmp_path):
    """Kafka cannot take partitions away, so fewer are refused."""
    fewer = (tmp_path / "topics.yaml").read_text().replace(f"partitions: {PARTITIONS}", "partitions: 1")
    Path("fewer.yaml").write_text(fewer)
    result = lockgate("topics", "plan", "--file", "fewer.yaml", "--replication", "1")
    assert result.exit_code == ExitCode.REFUSED
    assert "Kafka cannot take partitions away" in result.stderr


@pytest.mark.parametrize("command", [["publish", "e.jsonl"], ["decisions"], ["dlq", "list"], ["lag"]], ids=" ".join)
def test_without_topics_a_command_says_how_to_make_them(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("e.jsonl").write_text(json.dumps(EVENTS[0]))
    result = run(*command)
    assert result.exit_code == ExitCode.USAGE
    assert "lockgate topics apply" in result.stderr


# -- publish ------------------------------------------------------------------------------------------------


def test_what_is_published_is_read_back_by_a_plain_client(lockgate, kafka, environment):
    """Envelope in headers, subject as key, Java's partition, Avro behind the id of the schema, order kept."""
    Path("events.jsonl").write_text("\n".join(json.dumps(event) for event in EVENTS))
    result = lockgate("publish", "events.jsonl", "--json")
    assert result.exit_code == ExitCode.OK, result.stderr
    said = json.loads(result.stdout)
    assert (said["published"], said["rejected"], said["topic"]) == (40, 0, f"{environment}.workflow-events")
    assert said["rate"] > 0
    assert said["seconds"] > 0

    schema = fastavro.parse_schema(json.loads((share("schemas") / "ticket.avsc").read_text()))
    found = []
    for message in read_back(kafka, f"{environment}.workflow-events"):
        headers = {name: content.decode() for name, content in message.headers()}
        value = message.value()
        magic, number = struct.unpack(">bI", value[:5])
        assert (magic, number) == (0, 1551925215)
        data = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)
        assert message.partition() == java_partition(message.key(), PARTITIONS)
        assert headers["ce_subject"] == message.key().decode()
        assert headers["ce_specversion"] == "1.0"
        found.append((headers["ce_subject"], headers["ce_id"], headers["ce_source"], headers["ce_type"], data["text"]))
    wanted = [(e["subject"], e["id"], e["source"], e["type"], e["data"]["text"]) for e in EVENTS]
    for subject in {event["subject"] for event in EVENTS}:
        assert [f for f in found if f[0] == subject] == [w for w in wanted if w[0] == subject]
    assert len(found) == len(wanted)


def test_equal_rows_stay_distinct_and_a_second_time_gives_the_same_ids(lockgate, kafka, environment):
    """id=@hash: the same file twice is the same events twice."""
    with Path("rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "who"], ["hello", "a"], ["hello", "a"], ["one,\ntwo", "b"]])
    publish = ["publish", "rows.csv", "--source", "/s", "--type", "t", "--encoding", "json"]
    maps = ["--map", "id=@hash", "--map", "text=text", "--map", "subject=who", "--map", "channel==mail"]
    assert lockgate(*publish, *maps).exit_code == ExitCode.OK
    assert lockgate(*publish, *maps).exit_code == ExitCode.OK
    records = read_back(kafka, f"{environment}.workflow-events")
    ids = sorted(dict(message.headers())["ce_id"] for message in records)
    assert len(ids) == 6
    assert len(set(ids)) == 3
    assert ids[::2] == ids[1::2]
    assert sorted(json.loads(message.value())["text"] for message in records)[::2] == ["hello", "hello", "one,\ntwo"]


def test_one_bad_line_and_nothing_is_published(lockgate, kafka, environment):
    Path("events.jsonl").write_text(f"{json.dumps(EVENTS[0])}\nnonsense\n")
    result = lockgate("publish", "events.jsonl", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert json.loads(result.stdout) == {"published": 0, "rejected": 1}
    assert "line 2: column 1: not JSON" in result.stderr or "line 2, column 1: not JSON" in result.stderr
    assert read_back(kafka, f"{environment}.workflow-events") == []


def test_bad_lines_can_be_set_aside(lockgate, kafka, environment):
    good = [json.dumps(event) for event in EVENTS[:3]]
    Path("events.jsonl").write_text("\n".join([good[0], "nonsense", good[1], '{"id": "x"}', good[2]]))
    result = lockgate("publish", "events.jsonl", "--skip-bad", "bad.jsonl", "--json")
    assert result.exit_code == ExitCode.OK
    assert (json.loads(result.stdout)["published"], json.loads(result.stdout)["rejected"]) == (3, 2)
    assert Path("bad.jsonl").read_text() == 'nonsense\n{"id": "x"}\n'
    assert len(read_back(kafka, f"{environment}.workflow-events")) == 3


def test_an_event_as_large_as_the_topic_takes_is_published_and_a_larger_one_is_told(lockgate, kafka, environment):
    """The limit that the check knows is the broker's: nothing that passes it is refused later."""

    def event(size):
        # Bytes that lz4 cannot make smaller, so that the broker sees the size that was checked.
        text = os.urandom(size // 2).hex()[:size]
        return json.dumps(EVENTS[0] | {"data": {"text": text, "channel": "c"}})

    Path("fits.jsonl").write_text(event(2**20 - 1024))
    Path("large.jsonl").write_text(event(2**20))
    assert lockgate("publish", "fits.jsonl").exit_code == ExitCode.OK
    result = lockgate("publish", "large.jsonl")
    assert result.exit_code == ExitCode.FAILED
    assert "where workflow-events takes 1,048,576" in result.stderr
    assert len(read_back(kafka, f"{environment}.workflow-events")) == 1


# -- decisions ----------------------------------------------------------------------------------------------


def decision(number):
    return Decision(
        decision_id=f"d-{number}",
        revision=1,
        supersedes=None,
        source="/shop",
        event_id=f"e-{number}",
        subject="c-1",
        workflow="ticket_triage",
        release="r",
        action="send_status",
        answer={"intent": "x\x1b[31m"},
        confidence=0.75,
        reasons=("confidence_reached",),
        decided_by="auto",
        origin=Position("workflow-events", 0, number, 1),
    )


@pytest.fixture
def decided(lockgate, kafka, environment):
    """decided(3, 4): writes these decisions, each in a transaction of its own, with aborted ones between them."""
    codec = Codec()
    topic = f"{environment}.decisions"

    def write_decisions(*numbers):
        for number in numbers:
            abort(kafka, topic, codec.encode(decision(1000 + number)), number % PARTITIONS)
            write(kafka, topic, (b"c-1", codec.encode(decision(number)), []), partition=number % PARTITIONS)

    return write_decisions


def test_only_committed_decisions_are_printed(lockgate, decided):
    """One JSON object a line, whole."""
    decided(0, 1, 2)
    result = lockgate("decisions", "--json")
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(line["decision_id"] for line in printed) == ["d-0", "d-1", "d-2"]
    first = next(line for line in printed if line["decision_id"] == "d-0")
    assert first["answer"] == {"intent": "x\x1b[31m"}
    assert first["origin"]["topic"] == "workflow-events"
    assert (first["partition"], first["confidence"]) == (0, 0.75)


def test_people_get_a_line_a_decision_that_cannot_steer_their_terminal(lockgate, decided):
    decided(0)
    header, line = lockgate("decisions").stdout.splitlines()
    assert header.startswith("TIME")
    assert "send_status" in line
    assert "\x1b" not in line


def test_the_newest_decisions_are_found_behind_aborted_ones(lockgate, decided, kafka, environment):
    decided(*range(12))
    for _ in range(25):
        abort(kafka, f"{environment}.decisions", b"never", 0)
    result = lockgate("decisions", "--limit", "3", "--json")
    assert [json.loads(line)["decision_id"] for line in result.stdout.splitlines()] == ["d-9", "d-10", "d-11"]


def test_what_is_no_decision_is_named_and_the_others_are_printed(lockgate, decided, kafka, environment):
    decided(0)
    write(kafka, f"{environment}.decisions", (None, b"garbage", []))
    result = lockgate("decisions", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert len(result.stdout.splitlines()) == 1
    assert "is no decision" in result.stderr


def test_following_prints_what_comes_and_ends_on_ctrl_c(decided, kafka, environment):
    decided(0, 1)
    with process(kafka, environment, "decisions", "--follow", "--limit", "1", "--json") as follower:
        assert json.loads(follower.stdout.readline())["decision_id"] == "d-1"
        decided(2, 3)
        came = [json.loads(follower.stdout.readline())["decision_id"] for _ in range(2)]
        assert sorted(came) == ["d-2", "d-3"]
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == ExitCode.OK
        assert follower.stderr.read() == ""


def test_a_pipe_that_closes_early_is_no_noise(decided, kafka, environment):
    decided(0)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "agents.cli", "--bootstrap", kafka, "--environment", environment, "decisions"]
    ended = subprocess.run([*command, "--json"], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert ended.stderr == b""


# -- dead letters -------------------------------------------------------------------------------------------

VALUE = bytes(range(256)) * 40
KEY = b"\xff\x00key"


def letter(offset, cause=b"not JSON", value=VALUE, key=KEY):
    headers = [
        ("ce_id", b"e-7"),
        ("odd", b"\xfe\xff"),
        ("lockgate_source_topic", b"workflow-events"),
        ("lockgate_source_partition", b"0"),
        ("lockgate_source_offset", b"%d" % offset),
        ("lockgate_stage", b"enrichment"),
        ("lockgate_class", b"poison"),
        ("lockgate_cause", cause),
    ]
    return key, value, headers


@pytest.fixture
def died(lockgate, kafka, environment):
    """died(letter(...), ...): writes dead letters."""
    return lambda *letters, partition=0: write(kafka, f"{environment}.dead-letter", *letters, partition=partition)


def test_dead_letters_are_counted_by_cause_and_the_newest_are_named(lockgate, died):
    died(letter(1), letter(2), letter(3, cause=b"no key"))
    died(letter(4), partition=1)
    listed = json.loads(lockgate("dlq", "list", "--limit", "2", "--json").stdout)
    assert listed["count"] == 4
    assert [(group["stage"], group["class"], group["cause"], group["count"]) for group in listed["groups"]] == [
        ("enrichment", "poison", "not JSON", 3),
        ("enrichment", "poison", "no key", 1),
    ]
    assert [found["place"] for found in listed["letters"]] == ["1:0", "0:2"]
    assert listed["letters"][0]["source"] == "workflow-events:0:4"

    text = lockgate("dlq", "list", "--limit", "2").stdout
    assert "2 older ones: --all lists them" in text
    assert len(json.loads(lockgate("dlq", "list", "--all", "--json").stdout)["letters"]) == 4


def test_no_dead_letters_is_good_news(lockgate):
    result = lockgate("dlq", "list")
    assert (result.exit_code, result.output) == (ExitCode.OK, "no dead letters\n")


def test_a_dead_letter_is_given_back_byte_for_byte(lockgate, died):
    died(letter(1), letter(2, value=VALUE + b"second"))
    result = lockgate("dlq", "show", "0:1", "--raw", "letter.bin")
    assert result.exit_code == ExitCode.OK
    assert Path("letter.bin").read_bytes() == VALUE + b"second"
    assert Path("letter.bin.key").read_bytes() == KEY


def test_people_see_headers_and_bytes_of_a_dead_letter(lockgate, died):
    died(letter(1, value=b'{"text": "caf\xc3\xa9"}'))
    text = lockgate("dlq", "show", "0:0").stdout
    died_part, own_part = text.split("its own headers")
    assert "lockgate_cause" in died_part
    assert "fe ff (bytes)" in own_part
    assert "00000000  ff 00 6b 65 79" in own_part
    assert '{"text": "café"}' in own_part


def test_programs_get_the_bytes_of_a_dead_letter_as_base64(lockgate, died):
    import base64

    died(letter(1))
    shown = json.loads(lockgate("dlq", "show", "0:0", "--json").stdout)
    assert base64.b64decode(shown["value"]["base64"]) == VALUE
    assert base64.b64decode(shown["key"]["base64"]) == KEY
    assert shown["value"]["text"] is None
    assert [header["name"] for header in shown["headers"]] == ["ce_id", "odd"]


def test_a_letter_without_key_or_value_leaves_no_file_that_claims_one(lockgate, died):
    died(letter(1, value=None, key=None))
    Path("letter.bin.key").write_bytes(b"of an earlier letter")
    result = lockgate("dlq", "show", "0:0", "--raw", "letter.bin")
    assert result.exit_code == ExitCode.OK
    assert not Path("letter.bin").exists()
    assert not Path("letter.bin.key").exists()
    assert "value: none" in result.stdout


@pytest.fixture
def aborted_letter(lockgate, kafka, environment):
    """Writes a letter whose transaction is aborted."""
    return lambda: abort(kafka, f"{environment}.dead-letter", b"never")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("0:1", "a transaction's end"),
        ("0:99", "keeps offsets 0 to 5"),
        ("7:0", "has no partition 7"),
        ("1:0", "is empty"),
        ("0:2", "the next one is 0:4"),
    ],
)
def test_a_place_without_a_letter_is_not_found(lockgate, died, aborted_letter, place, says):
    """Offsets 0 and 4 hold letters, 2 an aborted one, and the others the ends of their transactions."""
    died(letter(1))
    aborted_letter()
    died(letter(2))
    result = lockgate("dlq", "show", place)
    assert result.exit_code == ExitCode.NOT_FOUND
    assert says in result.stderr


# -- lag ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lag(lockgate):
    """lag("routing"): that stage's part of `lockgate lag --json`."""

    def measure(stage, *options):
        result = lockgate("lag", "--json", *options)
        assert result.exit_code == ExitCode.OK, result.stderr
        return next(part for part in json.loads(result.stdout)["stages"] if part["stage"] == stage)

    return measure


def commit(kafka, environment, topic, offset, runs=()):
    """Commits for the group of routing, for partition 0, as the stage would: offset and metadata."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{environment}.routing", "enable.auto.commit": False})
    metadata = Progress(offset, tuple(runs)).encode()
    at = TopicPartition(f"{environment}.{topic}", 0, offset, metadata)
    consumer.commit(offsets=[at], asynchronous=False)
    consumer.close()


def records(count):
    return [(b"k", b"v%d" % number, []) for number in range(count)]


def test_an_untouched_pipeline_is_idle_and_has_no_workers(lockgate):
    result = json.loads(lockgate("lag", "--json").stdout)
    for stage in result["stages"]:
        assert (stage["not_done"], stage["retrying"], stage["oldest_age_s"], stage["exact"], stage["workers"]) == (
            0, 0, 0.0, True, 0,
        )  # fmt: skip
        assert len(stage["partitions"]) == PARTITIONS
    assert "no worker" in lockgate("lag").stdout


def test_what_nobody_has_read_is_lag_with_the_age_of_the_oldest(lag, kafka, environment):
    write(kafka, f"{environment}.workflow-validated", *records(2))
    time.sleep(1.0)
    write(kafka, f"{environment}.workflow-validated", *records(1), partition=1)
    stage = lag("routing")
    assert (stage["not_done"], stage["exact"]) == (3, True)
    ages = [part["oldest_age_s"] for part in stage["partitions"]]
    assert stage["oldest_age_s"] == max(ages)
    assert ages[0] >= ages[1] + 0.9
    assert lag("enrichment")["not_done"] == 0


def test_ends_of_transactions_are_not_lag(lag, kafka, environment):
    """Every record is done, and the end of the partition still lies beyond the commit."""
    topic = f"{environment}.workflow-validated"
    for _ in range(5):
        write(kafka, topic, *records(1))
        abort(kafka, topic, b"never")
    commit(kafka, environment, "workflow-validated", 17)  # 5 x (record, marker, aborted, marker), 20 in all
    stage = lag("routing")
    assert (stage["not_done"], stage["oldest_age_s"]) == (0, 0.0)


def test_work_done_beyond_a_hole_is_not_lag(lag, kafka, environment):
    write(kafka, f"{environment}.workflow-validated", *records(100))
    commit(kafka, environment, "workflow-validated", 10, runs=[(11, 50), (60, 100)])
    assert lag("routing")["not_done"] == 1 + 10


def test_a_long_run_of_done_records_is_not_read_and_the_count_is_exact(lag, kafka, environment):
    write(kafka, f"{environment}.workflow-validated", *records(9_000))
    commit(kafka, environment, "workflow-validated", 5, runs=[(6, 8_995)])
    stage = lag("routing", "--exact-up-to", "100")
    assert (stage["not_done"], stage["exact"]) == (1 + 5, True)


def test_what_an_open_transaction_wrote_is_not_there_yet(lag, kafka, environment):
    topic = f"{environment}.workflow-validated"
    write(kafka, topic, *records(2))
    producer = transactional(kafka)
    producer.begin_transaction()
    producer.produce(topic, value=b"maybe", partition=0)
    producer.flush()
    assert lag("routing")["not_done"] == 2
    producer.commit_transaction()
    assert lag("routing")["not_done"] == 3


def test_beyond_the_limit_lag_is_an_upper_bound_and_says_so(lag, lockgate, kafka, environment):
    write(kafka, f"{environment}.workflow-validated", *records(500))
    stage = lag("routing", "--exact-up-to", "100")
    assert 500 <= stage["not_done"] <= 501  # with the end of the transaction
    assert stage["exact"] is False
    assert "<=50" in lockgate("lag", "--exact-up-to", "100").stdout
    assert (lag("routing")["not_done"], lag("routing")["exact"]) == (500, True)


def test_records_that_wait_for_another_attempt_are_lag_as_old_as_they_are(lag, kafka, environment):
    born = round((time.time() - 3_600) * 1000)
    waiting = (b"k", b"v", [("lockgate_source_timestamp", b"%d" % born)])
    write(kafka, f"{environment}.retry-routing", waiting, *records(1))
    commit(kafka, environment, "retry-routing", 0, runs=[(1, 2)])
    stage = lag("routing")
    assert (stage["not_done"], stage["retrying"]) == (1, 1)
    assert 3_600 <= stage["oldest_age_s"] < 3_700


def test_a_commit_beyond_the_end_is_told_and_not_taken_for_idle(lag, kafka, environment):
    """As after a topic was deleted and made again."""
    write(kafka, f"{environment}.workflow-validated", *records(3))
    commit(kafka, environment, "workflow-validated", 1_000)
    part = lag("routing")["partitions"][0]
    assert part["not_done"] == 3
    assert "lies beyond the end" in part["note"]


def test_commits_of_another_tool_are_an_error_that_says_so(lockgate, kafka, environment):
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{environment}.routing"})
    consumer.commit(offsets=[TopicPartition(f"{environment}.workflow-validated", 0, 0, "theirs")], asynchronous=False)
    consumer.close()
    result = lockgate("lag")
    assert result.exit_code == ExitCode.FAILED
    assert "metadata that this version of Lockgate did not write" in result.stderr


# -- worker -------------------------------------------------------------------------------------------------


def children_of(pid):
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True).stdout
    return [int(line) for line in listed.split()]


def alive(pid):
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextmanager
def two_workers(kafka, environment, lag):
    """`worker --processes 2` once both have joined: the process and its children, which are dead afterwards."""
    stage = ["worker", "--stage", "routing", "--processes", "2", "--json"]
    with process(kafka, environment, *stage) as parent:
        try:
            eventually(lambda: lag("routing")["workers"] == 2)
            children = children_of(parent.pid)
            assert len(children) == 2
            yield parent, children
        finally:
            parent.kill()
            eventually(lambda: not any(alive(child) for child in children), 30)


@pytest.fixture
def own_slots(tmp_path, monkeypatch):
    """Workers of this test share no slots with others on this machine."""
    monkeypatch.setenv("LOCKGATE_DATA_DIR", str(tmp_path / "data"))


def test_processes_share_the_partitions_and_end_together_within_ten_seconds(lag, kafka, environment, own_slots):
    with two_workers(kafka, environment, lag) as (parent, children):
        eventually(lambda: all(part["owner"] for part in lag("routing")["partitions"]))
        began = time.monotonic()
        parent.terminate()
        assert parent.wait(15) == ExitCode.OK
        assert time.monotonic() - began < 10
        assert not any(alive(child) for child in children)


def test_a_process_that_dies_is_named_and_the_others_are_stopped(lag, kafka, environment, own_slots):
    with two_workers(kafka, environment, lag) as (parent, children):
        os.kill(children[1], signal.SIGKILL)
        assert parent.wait(15) == ExitCode.FAILED
        assert f"(pid {children[1]}) failed: killed by SIGKILL" in parent.stderr.read()
        assert not any(alive(child) for child in children)


def test_no_process_outlives_the_one_that_started_it(lag, kafka, environment, own_slots):
    with two_workers(kafka, environment, lag) as (parent, children):
        parent.kill()
        eventually(lambda: not any(alive(child) for child in children), 15)


# -- the local broker ---------------------------------------------------------------------------------------


def test_commands_find_the_broker_that_up_started(tmp_path, monkeypatch, guardian):
    """up, a command that is told no address, down."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.chdir(tmp_path)
    port = free_ports(1)[0]
    try:
        up = CliRunner().invoke(main, ["up", "--port", str(port)])
        assert up.exit_code == ExitCode.OK, up.stderr
        assert up.stdout == f"127.0.0.1:{port}\n"
        running = local.running(tmp_path / ".lockgate" / "kafka")
        guardian.watch(Process(running.pid, running.mark))
        again = json.loads(CliRunner().invoke(main, ["up", "--json"]).stdout)
        assert (again["bootstrap"], again["pid"]) == (f"127.0.0.1:{port}", running.pid)

        plan = CliRunner().invoke(main, ["topics", "plan"])
        assert plan.exit_code == ExitCode.OK, plan.stderr
        assert "+ dev.decisions" in plan.stdout
        assert json.loads(CliRunner().invoke(main, ["down", "--json"]).stdout) == {"stopped": True}
        assert CliRunner().invoke(main, ["topics", "plan"]).exit_code == ExitCode.BROKER
    finally:
        local.down(tmp_path / ".lockgate" / "kafka")
