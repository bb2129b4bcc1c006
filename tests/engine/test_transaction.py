"""What an error of the client means for the records of a round, before any commit began."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.stream.transaction import BadOutput, Forbidden, Refused, StaleMember, Unknown, _named

KINDS = {
    StaleMember: ["ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "REBALANCE_IN_PROGRESS"],
    Forbidden: [
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    ],
    BadOutput: [
        "MSG_SIZE_TOO_LARGE",
        "INVALID_MSG_SIZE",
        "INVALID_MSG",
        "INVALID_RECORD",
        "TOPIC_EXCEPTION",
        "UNKNOWN_TOPIC_OR_PART",
        "_UNKNOWN_TOPIC",
        "_UNKNOWN_PARTITION",
        "_INVALID_ARG",
    ],
    Refused: [
        "_TRANSPORT",
        "_ALL_BROKERS_DOWN",
        "_TIMED_OUT",
        "_MSG_TIMED_OUT",
        "_QUEUE_FULL",
        "_STATE",
        "REQUEST_TIMED_OUT",
        "NOT_ENOUGH_REPLICAS",
        "NOT_LEADER_FOR_PARTITION",
        "COORDINATOR_NOT_AVAILABLE",
        "CONCURRENT_TRANSACTIONS",
    ],
}
TABLE = [pytest.param(kind, code, id=code) for kind, codes in KINDS.items() for code in codes]


def named(code, *, fatal=False, index=None):
    return _named(KafkaException(KafkaError(getattr(KafkaError, code), "why", fatal=fatal)), index)


@pytest.mark.parametrize(("kind", "code"), TABLE)
def test_each_error_has_its_kind(kind, code):
    result = named(code)
    assert type(result) is kind
    assert result.cause.endswith(": why")


@pytest.mark.parametrize(("kind", "code"), TABLE)
def test_a_fatal_error_leaves_the_outcome_unknown_whatever_its_code(kind, code):
    assert type(named(code, fatal=True)) is Unknown


@pytest.mark.parametrize("code", ["_FENCED", "_FATAL", "INVALID_PRODUCER_EPOCH"])
def test_a_fenced_producer_is_fatal_as_the_client_reports_it(code):
    assert type(named(code, fatal=True)) is Unknown


def test_a_bad_output_is_named_where_the_client_can_name_it():
    assert named("MSG_SIZE_TOO_LARGE", index=3).index == 3
    assert named("MSG_SIZE_TOO_LARGE").index is None
