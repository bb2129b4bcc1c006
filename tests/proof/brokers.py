"""A broker whose clients are led through a proxy, for as long as a block lasts."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import local
from pipeline.broker.guardian import Guardian
from pipeline.broker.processes import Process, free_ports
from tests.proof.tcp_proxy import Proxy


@dataclass(slots=True)
class ProxiedBroker:
    """A broker of our own. `proxied` leads through `proxy`; `direct` does not, for publishers and checkers."""

    proxy: Proxy
    direct: str
    _kafka: local.LocalKafka
    _port: int
    _guardian: Guardian

    @property
    def proxied(self) -> str:
        return self.proxy.address

    def kill(self) -> None:
        """SIGKILL: it is gone on return, with whatever it had not flushed left to the system's cache."""
        Process(self._kafka.pid, self._kafka.mark).kill()

    def start(self) -> None:
        """Starts it again on its data. Its port past the proxy may be another then: ask `direct` anew."""
        self._kafka = local.up(self._kafka.data_dir, self._port, advertised_port=self.proxy.port)
        self._guardian.watch(Process(self._kafka.pid, self._kafka.mark))
        self.direct = self._kafka.direct


@contextmanager
def broker_behind_proxy() -> Iterator[ProxiedBroker]:
    """Starts both, and ends both however the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="lockgate-proof-"))
    port = free_ports(1)[0]
    try:
        with Guardian() as guardian, Proxy(f"127.0.0.1:{port}") as proxy:
            kafka = local.up(folder, port, advertised_port=proxy.port)
            guardian.watch(Process(kafka.pid, kafka.mark))
            yield ProxiedBroker(proxy, kafka.direct, kafka, port, guardian)
    finally:
        local.down(folder)
        shutil.rmtree(folder, ignore_errors=True)


def create_topics(bootstrap: str, names: list[str], partitions: int, **config: str) -> None:
    """Returns once they exist. `config` are settings of the topics."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = [NewTopic(name, partitions, 1, config=config) for name in names]
    for created in admin.create_topics(asked, operation_timeout=30).values():
        created.result(30)
