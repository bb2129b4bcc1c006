"""Topics on a real cluster: made once, changed as declared, never deleted, never widened under waiting records."""

import socket

import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from pipeline.errors import BrokerUnavailable, TopicPlanRefused
from pipeline.share import share
from pipeline.stream import topic_admin
from pipeline.stream.progress import Progress
from pipeline.stream.topic_admin import apply, plan
from pipeline.topics import HEADER_ROOM, load_topics


class Site:
    """One environment on the cluster, and the declaration for it."""

    def __init__(self, kafka, environment, folder):
        self.kafka, self.environment, self.folder = kafka, environment, folder
        self.config = {"bootstrap.servers": kafka}
        self.admin = AdminClient(self.config)
        self.content = yaml.safe_load(share("topics.yaml").read_text("utf-8"))
        self.content["defaults"]["partitions"] = 2

    def topics(self):
        path = self.folder / "topics.yaml"
        path.write_text(yaml.safe_dump(self.content, sort_keys=False), "utf-8")
        return load_topics(path)

    def plan(self, **options):
        return plan(self.config, self.topics(), self.environment, local=True, **options)

    def apply(self):
        decided = self.plan()
        apply(self.config, decided)
        return decided

    def name(self, logical):
        return f"{self.environment}.{logical}"

    def partitions(self):
        seen = self.admin.list_topics(timeout=10).topics
        return {name: len(topic.partitions) for name, topic in seen.items() if name.startswith(f"{self.environment}.")}

    def settings(self, logical):
        resource = ConfigResource(ResourceType.TOPIC, self.name(logical))
        return {n: e.value for n, e in self.admin.describe_configs([resource])[resource].result(10).items()}

    def produce(self, logical, count=1, partition=0, **more):
        """Ordinary records, or records of one transaction when `transaction` is given: "commit", "abort", "open"."""
        transaction = more.pop("transaction", None)
        producer = Producer(
            self.config
            | {"message.max.bytes": 8 * 1024**2}
            | ({"transactional.id": f"{self.environment}.test.{logical}"} if transaction else {})
        )
        failures = []
        if transaction:
            producer.init_transactions(10)
            producer.begin_transaction()
        for number in range(count):
            producer.produce(
                self.name(logical),
                **({"value": str(number).encode()} | more),
                partition=partition,
                on_delivery=lambda error, _: error and failures.append(error.name()),
            )
        assert producer.flush(10) == 0
        assert failures == []
        if transaction == "commit":
            producer.commit_transaction(10)
        elif transaction == "abort":
            producer.abort_transaction(10)
        return producer

    def commit(self, stage, logical, offset, partition=0, metadata=None):
        at = TopicPartition(self.name(logical), partition, offset)
        if metadata:
            at = TopicPartition(self.name(logical), partition, offset, metadata)
        consumer = Consumer(self.config | {"group.id": f"{self.environment}.{stage}", "enable.auto.commit": False})
        try:
            consumer.commit(offsets=[at], asynchronous=False)
        finally:
            consumer.close()


@pytest.fixture
def site(kafka, environment, tmp_path):
    return Site(kafka, environment, tmp_path)


@pytest.fixture
def applied(site):
    """An environment whose topics exist as declared, with two partitions each."""
    site.apply()
    return site


def grow(site):
    site.content["defaults"]["partitions"] = 3
    return site.plan()


def test_apply_makes_every_topic_as_declared_and_a_repeat_changes_nothing(site):
    first = site.apply()
    assert {create.topic for create in first.creates} == {site.name(topic.name) for topic in site.topics()}
    assert site.partitions() == {site.name(topic.name): topic.partitions for topic in site.topics()}
    for topic in site.topics():
        real = site.settings(topic.name)
        for setting, value in topic.kafka_settings(1).items():
            assert real[setting] == value, f"{topic.name}: {setting}"
    second = site.apply()
    assert second.empty
    assert second.lines() == []


def test_a_changed_retention_is_applied_and_settings_of_others_stay(applied):
    resource = ConfigResource(ResourceType.TOPIC, applied.name("audit"))
    resource.add_incremental_config(
        topic_admin.ConfigEntry("segment.ms", "7777777", incremental_operation=topic_admin.AlterConfigOpType.SET)
    )
    applied.admin.incremental_alter_configs([resource])[resource].result(10)
    applied.content["topics"]["audit"]["retention"] = "91d"
    releases = applied.content["topics"]["releases"]
    releases["settings"] = releases["settings"] | {"segment.ms": 900_000}
    decided = applied.apply()
    assert {(change.topic, change.setting) for change in decided.changes} == {
        (applied.name("audit"), "retention.ms"),
        (applied.name("releases"), "segment.ms"),
    }
    assert applied.settings("audit")["retention.ms"] == str(91 * 86_400_000)
    assert applied.settings("audit")["segment.ms"] == "7777777"
    again = applied.plan()
    assert again.empty
    assert [str(remark) for remark in again.drift] == [
        f"! {applied.name('audit')}: has segment.ms=7777777, which topics.yaml does not declare"
    ]


def test_a_topic_that_is_no_longer_declared_is_reported_and_kept(applied):
    del applied.content["topics"]["context-products"]
    decided = applied.apply()
    assert decided.empty
    assert [remark.topic for remark in decided.unknown] == [applied.name("context-products")]
    assert applied.name("context-products") in applied.partitions()


def test_other_environments_are_not_looked_at(applied):
    applied.environment = f"{applied.environment}x"
    assert len(applied.plan().creates) == len(applied.topics().by_name)


def test_fewer_partitions_are_refused_and_nothing_is_changed(applied):
    before = applied.partitions()
    applied.content["defaults"]["partitions"] = 1
    with pytest.raises(TopicPlanRefused, match="has 2 partitions and 1 are declared"):
        applied.apply()
    assert applied.partitions() == before


def test_more_partitions_are_added_when_nothing_ever_happened(applied):
    applied.content["defaults"]["partitions"] = 3
    assert applied.apply().stages_must_be_drained
    assert {
        count for name, count in applied.partitions().items() if not name.endswith((".releases", ".release-log"))
    } == {3}
    assert applied.plan().empty


def test_more_partitions_are_refused_while_a_record_was_never_read(applied):
    applied.produce("workflow-events", partition=1)
    with pytest.raises(TopicPlanRefused) as caught:
        grow(applied)
    assert f"enrichment: {applied.name('workflow-events')}[1]: offset 0 is not done" in str(caught.value)


def test_more_partitions_are_refused_while_a_record_waits_for_its_retry(applied):
    applied.produce("retry-validation")
    with pytest.raises(TopicPlanRefused, match=r"validation: .*retry-validation\[0\]: offset 0 is not done"):
        grow(applied)


def test_more_partitions_are_refused_while_a_record_behind_done_ones_is_not_done(applied):
    applied.produce("workflow-enriched", count=4)
    progress = Progress(1)
    progress.mark(2, 4)
    applied.commit("inference", "workflow-enriched", progress.base, metadata=progress.encode())
    with pytest.raises(TopicPlanRefused, match=r"workflow-enriched\[0\]: offset 1 is not done"):
        grow(applied)


def test_more_partitions_are_refused_while_a_transaction_is_open(applied):
    producer = applied.produce("workflow-inferred", transaction="open")
    try:
        with pytest.raises(TopicPlanRefused, match=r"workflow-inferred\[0\]: a transaction is still open"):
            grow(applied)
    finally:
        producer.abort_transaction(10)


def test_markers_of_transactions_and_aborted_records_are_no_work(applied):
    """Their offsets lie beyond every commit, for ever: offsets alone would never call the stage drained."""
    applied.produce("workflow-inferred", count=3, transaction="commit")
    applied.commit("validation", "workflow-inferred", 3)
    applied.produce("workflow-enriched", count=3, transaction="abort")
    apply(applied.config, grow(applied))
    assert applied.partitions()[applied.name("workflow-inferred")] == 3


def test_a_record_that_arrives_between_plan_and_apply_still_stops_the_growth(applied):
    decided = grow(applied)
    applied.produce("workflow-validated")
    with pytest.raises(TopicPlanRefused, match="workflow-validated"):
        apply(applied.config, decided)
    assert applied.partitions()[applied.name("workflow-validated")] == 2


def test_a_growth_that_stopped_half_way_is_finished_by_the_next_plan(applied):
    decided = grow(applied)
    some = decided.grows[:5]
    apply(applied.config, topic_admin.Plan(applied.environment, grows=some, stages_must_be_drained=True))
    rest = applied.apply()
    assert [part.topic for part in rest.grows] == [part.topic for part in decided.grows[5:]]
    assert applied.plan().empty


def test_a_plan_that_another_apply_was_faster_with_is_no_error(site):
    decided = site.plan()
    apply(site.config, decided)
    apply(site.config, decided)
    assert site.plan().empty


def test_the_largest_record_of_the_entrance_fits_the_dead_letters_with_our_headers(applied):
    largest = b"x" * (applied.topics()["workflow-events"].max_message - 1024)
    headers = [("lockgate_cause", b"y" * (HEADER_ROOM - 1024))]
    applied.produce("workflow-events", value=largest)
    for exit_ in ("dead-letter", "retry-enrichment"):
        applied.produce(exit_, value=largest, headers=headers)


def test_a_record_that_is_too_large_for_the_entrance_is_refused_there(applied):
    with pytest.raises(AssertionError) as caught:
        applied.produce("workflow-events", value=b"x" * (applied.topics()["workflow-events"].max_message + 1024))
    assert "MSG_SIZE_TOO_LARGE" in str(caught.value)


def test_too_few_brokers_are_refused_where_the_broker_is_not_ours(site):
    brokers = len(site.admin.list_topics(timeout=10).brokers)
    if brokers >= 3:
        pytest.skip("this cluster has brokers enough")
    with pytest.raises(TopicPlanRefused, match=f"wants 3 replicas and the cluster has {brokers} broker"):
        plan(site.config, site.topics(), site.environment)
    assert site.partitions() == {}


def test_what_the_cluster_refuses_is_told_in_its_words(site):
    decided = site.plan()
    bad = topic_admin.Create(site.name("audit"), 1, 1, {"retention.ms": "soon"})
    with pytest.raises(TopicPlanRefused, match=r"creating .*audit: the cluster refused: .*retention\.ms"):
        apply(site.config, topic_admin.Plan(decided.environment, creates=(bad,)))


def test_a_broker_that_does_not_answer_is_named(site, monkeypatch):
    monkeypatch.setattr(topic_admin, "REQUEST_TIMEOUT_S", 1.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match=f"{address} does not list its topics"):
            plan({"bootstrap.servers": address}, site.topics(), site.environment)
