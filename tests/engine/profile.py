"""How much hypothesis tries here. In CI the same examples every time; elsewhere new ones in every run."""

import os

from hypothesis import HealthCheck, settings

quick = settings(
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
machine = settings(quick, max_examples=150, stateful_step_count=50)
