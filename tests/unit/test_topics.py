"""topics.yaml: what it must say, and what is refused before any topic is made."""

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.share import share
from pipeline.topics import HEADER_ROOM, REQUIRED, STAGE_INPUT, STAGES, load_topics

SHIPPED = load_topics()
DAY_MS = 86_400_000


@pytest.fixture
def declared(tmp_path):
    """declared(change): the shipped declaration after a change to its content."""

    def load(change):
        content = yaml.safe_load(share("topics.yaml").read_text("utf-8"))
        change(content)
        path = tmp_path / "topics.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return load_topics(path)

    return load


def change_topic(name, **values):
    return lambda content: content["topics"][name].update(values)


def test_the_shipped_declaration_has_every_topic_that_the_stages_need():
    assert {topic.name for topic in SHIPPED} >= set(REQUIRED)
    assert len(SHIPPED.by_name) == len(list(SHIPPED)) == 24


def test_a_stage_in_a_name_stands_for_all_four():
    retries = [topic for topic in SHIPPED if topic.name.startswith("retry-")]
    assert [topic.name for topic in retries] == [f"retry-{stage}" for stage in STAGES]
    assert [topic.producers for topic in retries] == [(stage,) for stage in STAGES]
    assert "inference tries again later" in SHIPPED["retry-inference"].description


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_reads_its_input_alone(stage):
    assert SHIPPED[STAGE_INPUT[stage]].consumers == (stage,)


def test_whatever_a_stage_writes_or_reads_by_partition_has_the_shared_count(declared):
    topics = declared(lambda content: content["defaults"].update(partitions=12))
    assert topics.partitions == 12
    assert {topic.partitions for topic in topics if topic.copartitioned} == {12}
    assert {topic.name for topic in topics if topic.copartitioned} == set(REQUIRED)


def test_names_in_kafka_carry_the_environment():
    assert SHIPPED.physical("prod", "retry-routing") == "prod.retry-routing"
    assert SHIPPED.logical("prod", "prod.retry-routing") == "retry-routing"


@pytest.mark.parametrize(
    "physical", ["dev.decisions", "prod.unheard-of", "prod", "prod.decisions.x", "prodx.decisions"]
)
def test_a_topic_of_another_environment_has_no_logical_name(physical):
    assert SHIPPED.logical("prod", physical) is None


def test_an_unknown_topic_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no topic 'decision' in topics\.yaml; did you mean 'decisions'"):
        SHIPPED.physical("dev", "decision")


def test_a_record_of_any_stage_fits_its_retry_topic_and_the_dead_letters():
    for stage, source in STAGE_INPUT.items():
        needed = SHIPPED[source].max_message + HEADER_ROOM
        assert SHIPPED[f"retry-{stage}"].max_message >= needed
        assert SHIPPED["dead-letter"].max_message >= needed
    assert SHIPPED.max_message == SHIPPED["dead-letter"].max_message


def test_what_waits_is_kept_by_the_clock_of_the_broker_and_by_nothing_else():
    for name in ("workflow-events", "retry-inference", "dead-letter", "human-review", "blocked"):
        settings = SHIPPED[name].kafka_settings(3)
        assert settings["message.timestamp.type"] == "LogAppendTime"
        assert settings["retention.bytes"] == "-1"
        assert int(settings["retention.ms"]) >= 7 * DAY_MS


def test_state_is_compacted_early_and_kept_for_ever():
    settings = SHIPPED["state-routing"].kafka_settings(3)
    assert settings["cleanup.policy"] == "compact"
    assert settings["retention.ms"] == "-1"
    assert int(settings["segment.bytes"]) <= 64 * 1024**2
    assert float(settings["min.cleanable.dirty.ratio"]) < 0.5


@pytest.mark.parametrize(("replicas", "insync"), [(1, "1"), (2, "2"), (3, "2"), (None, None)])
def test_in_sync_replicas_never_exceed_the_replicas(replicas, insync):
    assert SHIPPED["decisions"].kafka_settings(replicas).get("min.insync.replicas") == insync


@pytest.mark.parametrize(
    ("text", "ms"),
    [("forever", -1), ("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("12h", DAY_MS // 2), ("7d", 7 * DAY_MS)],
)
def test_durations_are_written_as_people_say_them(declared, text, ms):
    assert declared(change_topic("decisions", retention=text))["decisions"].retention_ms == ms


@pytest.mark.parametrize(("text", "size"), [("2048 B", 2048), ("64KiB", 65_536), ("1 MiB", 1_048_576)])
def test_sizes_are_written_as_people_say_them(declared, text, size):
    assert declared(change_topic("decisions", max_message=text))["decisions"].max_message == size


def test_a_topic_of_ones_own_may_be_added(declared):
    topics = declared(
        lambda content: content["topics"].update(
            {
                "context-accounts": {
                    "description": "Accounts as enrichment knows them.",
                    "producers": ["context-owner"],
                    "consumers": ["enrichment"],
                    "schema": "json",
                    "key": "account_id",
                    "partitions": 3,
                    "cleanup": "compact",
                    "replication": "broker",
                }
            }
        )
    )
    assert topics["context-accounts"].partitions == 3
    assert topics["context-accounts"].replication == "broker"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (change_topic("decisions", retension="7d"), "topics.decisions.retension: Extra inputs"),
        (change_topic("decisions", retention="7 days"), "'7 days' is no duration: write 30m, 12h, 7d or forever"),
        (change_topic("decisions", retention="0d"), "is no duration"),
        (change_topic("decisions", retention=7), "is no duration"),
        (change_topic("decisions", max_message=1048576), "is no size: write 64 KiB or 1 MiB"),
        (change_topic("decisions", max_message="12 B"), "greater than or equal to 1024"),
        (
            change_topic("decisions", producers=["rooting"]),
            "decisions: unknown party 'rooting'; did you mean 'routing'",
        ),
        (change_topic("decisions", consumers=[]), "consumers: Tuple should have at least 1 item"),
        (change_topic("decisions", schema="decisions"), "unknown schema 'decisions'; did you mean 'decision'"),
        (change_topic("decisions", cleanup="none"), "topics.decisions.cleanup: Input should be"),
        (change_topic("decisions", description="x"), "topics.decisions.description: String should have at least"),
        (change_topic("decisions", settings={"retention.ms": 1}), "topics.decisions.settings"),
        (
            change_topic("decisions", partitions=3),
            "decisions: 3 partitions, but stages read and write by partition number",
        ),
        (change_topic("workflow-events", partitions=3), "workflow-events: 3 partitions, but stages read"),
        (change_topic("review-verdicts", partitions=3), "review-verdicts: 3 partitions, but stages read"),
        (change_topic("decisions", replication=0), "topics.decisions.replication"),
        (change_topic("decisions", replication="default"), "topics.decisions.replication"),
        (change_topic("state-<stage>", cleanup="delete"), "state-inference: must be compacted"),
        (change_topic("dead-letter", max_message="1 MiB"), "dead-letter: max_message must be"),
        (change_topic("review-verdicts", max_message="6 MiB"), "dead-letter: max_message must be 6356992 B or more"),
        (change_topic("retry-<stage>", max_message="2 MiB"), "retry-inference: max_message must be 2162688 B or more"),
        (lambda c: c["topics"].pop("blocked"), "blocked is missing: the stages need it"),
        (lambda c: c["topics"].update(Bad_Name=c["topics"]["audit"]), "'Bad_Name' is no topic name"),
        (lambda c: c["topics"].update({"retry-routing": c["topics"]["audit"]}), "retry-routing is declared twice"),
        (lambda c: c.pop("defaults"), "defaults: Field required"),
        (lambda c: c["defaults"].update(partitions=0), "defaults.partitions"),
        (lambda c: c["defaults"].update(partition=8), "defaults.partition: Extra inputs"),
    ],
)
def test_a_bad_declaration_is_refused_with_topic_and_fault(declared, change, fault):
    with pytest.raises(ConfigError) as caught:
        declared(change)
    assert fault in str(caught.value)
    assert "topics.yaml" in str(caught.value)


def test_all_faults_are_told_at_once(declared):
    def two(content):
        change_topic("decisions", schema="x")(content)
        change_topic("audit", producers=["y"])(content)

    with pytest.raises(ConfigError, match=r"decisions: unknown schema.*audit: unknown party"):
        declared(two)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        load_topics(tmp_path / "none.yaml")


def test_context_is_as_old_as_its_owner_says_whatever_the_broker_has_for_a_default():
    context = [topic for topic in load_topics() if topic.name.startswith("context-")]
    assert {topic.kafka_settings(1)["message.timestamp.type"] for topic in context} == {"CreateTime"}
