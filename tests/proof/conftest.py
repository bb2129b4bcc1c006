"""A broker of the harness's own, whose clients are led through a proxy."""

import uuid

import pytest

from tests.proof.brokers import broker_behind_proxy, create_topics
from tests.proof.workers import Crew


@pytest.fixture(scope="package")
def broker():
    with broker_behind_proxy() as broker:
        yield broker


@pytest.fixture
def proxy(broker):
    """The proxy between `proxied` clients and the broker; everything passes again after the test."""
    yield broker.proxy
    broker.proxy.let_pass()


@pytest.fixture
def proxied(proxy):
    """Bootstrap servers through the proxy."""
    return proxy.address


@pytest.fixture
def direct(broker):
    """Bootstrap servers past the proxy."""
    return broker.direct


@pytest.fixture
def environment():
    """A prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topics(direct, environment):
    """topics("a", "b", partitions=4) creates `<environment>.a` and `<environment>.b`, and returns these names.

    Further arguments are settings of the topics.
    """

    def create(*names: str, partitions: int = 4, **config: str) -> list[str]:
        physical = [f"{environment}.{name}" for name in names]
        create_topics(direct, physical, partitions, **config)
        return physical

    return create


@pytest.fixture
def crew(tmp_path):
    """Worker processes, ended with the test."""
    with Crew(tmp_path) as crew:
        yield crew
