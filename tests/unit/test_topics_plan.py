"""What a plan holds for a given cluster: made, changed, refused, left alone."""

from dataclasses import replace

import pytest
import yaml

from pipeline.errors import TopicPlanRefused
from pipeline.share import share
from pipeline.stream.topic_plan import Cluster, Existing, decide
from pipeline.topics import STAGE_INPUT, STAGES, load_topics

TOPICS = load_topics()


def cluster(brokers=3, **changed):
    """A cluster that has everything as declared, but for the topics named (`_` for `-`): None leaves one out."""
    copies = min(3, brokers)
    topics = {
        topic.name: Existing(topic.partitions, copies, topic.kafka_settings(copies), frozenset(topic.settings))
        for topic in TOPICS
    }
    for name, change in changed.items():
        topics[name.replace("_", "-")] = change
    return Cluster(brokers, {f"dev.{name}": topic for name, topic in topics.items() if topic is not None})


def existing(name, **changes):
    topic = TOPICS[name]
    return replace(Existing(topic.partitions, 3, topic.kafka_settings(3)), **changes)


def test_an_empty_cluster_gets_every_topic():
    plan = decide(Cluster(3, {}), TOPICS, "dev")
    assert {create.topic for create in plan.creates} == {f"dev.{topic.name}" for topic in TOPICS}
    assert {create.replication for create in plan.creates} == {3}
    assert not plan.empty
    assert not plan.stages_must_be_drained


def test_a_cluster_as_declared_needs_nothing():
    plan = decide(cluster(), TOPICS, "dev")
    assert plan.empty
    assert plan.lines() == []


def test_a_missing_topic_is_made_as_declared():
    plan = decide(cluster(decisions=None), TOPICS, "dev")
    (create,) = plan.creates
    assert (create.topic, create.partitions, create.replication) == ("dev.decisions", 8, 3)
    assert create.settings == TOPICS["decisions"].kafka_settings(3)
    assert str(create).startswith("+ dev.decisions: 8 partitions, replication 3, cleanup.policy=delete, ")


def test_a_setting_that_differs_is_changed():
    other = existing("decisions", settings=TOPICS["decisions"].kafka_settings(3) | {"retention.ms": "1"})
    plan = decide(cluster(decisions=other), TOPICS, "dev")
    assert plan.lines() == ["~ dev.decisions: retention.ms 1 -> 7776000000"]


@pytest.mark.parametrize(
    ("setting", "spelling"), [("min.cleanable.dirty.ratio", "0.10"), ("cleanup.policy", "compact")]
)
def test_the_same_setting_in_another_spelling_is_no_change(setting, spelling):
    settings = TOPICS["state-routing"].kafka_settings(3) | {setting: spelling}
    assert decide(cluster(state_routing=existing("state-routing", settings=settings)), TOPICS, "dev").empty


def test_fewer_partitions_are_refused():
    wide = cluster(decisions=existing("decisions", partitions=12), audit=existing("audit", partitions=9))
    with pytest.raises(TopicPlanRefused) as caught:
        decide(wide, TOPICS, "dev")
    assert "dev.decisions has 12 partitions and 8 are declared" in str(caught.value)
    assert "dev.audit has 9 partitions" in str(caught.value)


def test_more_partitions_of_a_stage_topic_need_drained_stages():
    plan = decide(cluster(workflow_inferred=existing("workflow-inferred", partitions=4)), TOPICS, "dev")
    assert plan.lines() == ["~ dev.workflow-inferred: 4 -> 8 partitions"]
    assert plan.stages_must_be_drained


def test_more_partitions_of_another_topic_need_no_drained_stages():
    plan = decide(cluster(decision_outcomes=existing("decision-outcomes", partitions=4)), TOPICS, "dev")
    assert [grow.topic for grow in plan.grows] == ["dev.decision-outcomes"]
    assert not plan.stages_must_be_drained


def test_inputs_grow_after_everything_that_their_stage_writes():
    narrow = Cluster(3, {name: replace(topic, partitions=1) for name, topic in cluster().topics.items()})
    order = [grow.topic for grow in decide(narrow, TOPICS, "dev").grows]
    inputs = [f"dev.{STAGE_INPUT[stage]}" for stage in STAGES]
    assert order[-len(inputs) :] == inputs[::-1]


def test_growing_a_compacted_topic_says_what_it_means_for_its_keys():
    grown = cluster(
        context_customers=existing("context-customers", partitions=4),
        state_routing=existing("state-routing", partitions=4),
    )
    notes = [str(note) for note in decide(grown, TOPICS, "dev").notes]
    assert any("dev.context-customers: publish every key again" in note for note in notes)
    assert any("dev.state-routing: keys that move to another partition are new" in note for note in notes)


def test_another_replication_is_drift_and_is_left_alone():
    plan = decide(cluster(audit=existing("audit", replication=2)), TOPICS, "dev")
    assert plan.empty
    assert plan.lines() == ["! dev.audit: has 2 replicas, not 3: reassign them with Kafka's tools"]


def test_a_setting_that_nobody_declared_is_drift_and_is_left_alone():
    settings = TOPICS["audit"].kafka_settings(3) | {"segment.ms": "5"}
    plan = decide(
        cluster(audit=existing("audit", settings=settings, own=frozenset({"segment.ms", "retention.ms"}))),
        TOPICS,
        "dev",
    )
    assert plan.empty
    assert plan.lines() == ["! dev.audit: has segment.ms=5, which topics.yaml does not declare"]


def test_a_topic_that_nobody_declared_is_reported_and_left_alone():
    plan = decide(cluster(my_own=Existing(1, 1, {})), TOPICS, "dev")
    assert plan.empty
    assert plan.lines() == ["! dev.my-own: is not in topics.yaml: left alone"]


def test_the_local_broker_gets_as_many_replicas_as_it_can_hold():
    plan = decide(Cluster(1, {}), TOPICS, "dev", local=True)
    assert {create.replication for create in plan.creates} == {1}
    assert {create.settings["min.insync.replicas"] for create in plan.creates} == {"1"}
    assert decide(cluster(brokers=1), TOPICS, "dev", local=True).lines() == []


def test_another_cluster_with_too_few_brokers_is_refused_with_the_way_out():
    with pytest.raises(TopicPlanRefused, match=r"wants 3 replicas and the cluster has 1 broker: .* --replication 1"):
        decide(Cluster(1, {}), TOPICS, "dev")


def test_an_override_of_the_replication_holds_for_all():
    plan = decide(Cluster(2, {}), TOPICS, "dev", replication=2)
    assert {create.replication for create in plan.creates} == {2}


def test_an_override_beyond_the_brokers_is_refused_even_locally():
    with pytest.raises(TopicPlanRefused, match="wants 3 replicas"):
        decide(Cluster(1, {}), TOPICS, "dev", replication=3, local=True)


def test_replication_may_be_left_to_the_cluster(tmp_path):
    content = yaml.safe_load(share("topics.yaml").read_text("utf-8"))
    content["defaults"]["replication"] = "broker"
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(content), "utf-8")
    plan = decide(Cluster(1, {}), load_topics(tmp_path / "t.yaml"), "dev")
    assert {create.replication for create in plan.creates} == {None}
    assert not any("min.insync.replicas" in create.settings for create in plan.creates)
    assert "the cluster's replication" in str(plan.creates[0])
