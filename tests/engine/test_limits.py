"""A limit that bounds nothing is refused before anything starts."""

import pytest

from pipeline.errors import ConfigError
from pipeline.stream.limits import RetryLimits, StageLimits

NAN, ENDLESS = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jitter", 1.0),
        ("jitter", -0.1),
        ("jitter", NAN),
        ("base_s", 0),
        ("base_s", 31.0),
        ("base_s", NAN),
        ("cap_s", ENDLESS),
        ("attempts", 0),
        ("attempts", ENDLESS),
        ("lane_attempts", 0),
        ("lane_keys", -1),
        ("ceiling_s", 0),
        ("ceiling_s", ENDLESS),
        ("ceiling_s", NAN),
    ],
)
def test_a_retry_limit_that_bounds_nothing_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        RetryLimits(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("partition_records", "total_records", "retry_records") for value in (0, -1, 1.5)],
        *[(name, 0) for name in ("batch_records", "round_records", "partition_bytes", "total_bytes", "identities")],
        *[(name, value) for name in ("deadline_s", "session_timeout_s") for value in (0, -1, NAN, ENDLESS)],
        ("identity_horizon_s", 0),
        ("round_s", -0.1),
        ("revoke_grace_s", -1),
        ("stop_grace_s", NAN),
        ("transaction_timeout_s", ENDLESS),
    ],
)
def test_a_stage_limit_that_bounds_nothing_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        StageLimits(**{name: value})


def test_a_transaction_must_outlive_a_round_and_the_grace_of_a_revoke():
    with pytest.raises(ConfigError, match="must outlive a revoke"):
        StageLimits(transaction_timeout_s=3.1, round_s=0.1, revoke_grace_s=3.0)
    StageLimits(transaction_timeout_s=3.2, round_s=0.1, revoke_grace_s=3.0)


def test_the_limits_as_shipped_are_accepted():
    assert StageLimits().retry.attempts > StageLimits().retry.lane_attempts
