"""Several brokers on one machine that can be killed, paused and brought back one by one: the failure lab's Kafka.

Three of them keep every record three times and accept a write once two have it, as a production cluster would.
All of them end with the cluster's `with` block, and also when the program that opened it is killed.
"""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.broker.asking import Asker
from pipeline.broker.guardian import Guardian
from pipeline.broker.jars import runtime
from pipeline.broker.node import READY_TIMEOUT_S, Node, new_cluster_id, start, wait_ready
from pipeline.broker.processes import Process, free_ports
from pipeline.errors import BrokerUnavailable

STOP_GRACE_S = 20.0


class Cluster:
    """Brokers counted from 0, in a folder that may hold the data of an earlier cluster of the same size.

    `ports` (what the brokers listen on for clients) are known before the start, so that proxies can be pointed at
    them; with `advertised_ports` clients are sent to those instead. `bootstrap` leads where clients are sent,
    `direct` past any proxy. `settings` are Kafka broker settings on top of the quick ones, the same for all.
    """

    def __init__(
        self,
        folder: Path,
        brokers: int = 3,
        *,
        advertised_ports: Sequence[int] | None = None,
        settings: Mapping[str, str] | None = None,
        cache_dir: Path | None = None,
        heap_mb: int = 384,
    ) -> None:
        if brokers < 1 or (advertised_ports is not None and len(advertised_ports) != brokers):
            raise ValueError("a cluster needs at least one broker, and as many advertised ports as brokers")
        ports = free_ports(3 * brokers)
        self.ports = ports[:brokers]
        internal, controllers = ports[brokers : 2 * brokers], ports[2 * brokers :]
        advertised = list(advertised_ports or self.ports)
        self.bootstrap = _addresses(advertised)
        self.direct = _addresses(internal)
        voters = ",".join(f"{i + 1}@127.0.0.1:{port}" for i, port in enumerate(controllers))
        cluster_id = new_cluster_id()
        self._nodes = [
            Node(
                folder=folder.expanduser().resolve() / f"broker-{i}",
                cluster_id=cluster_id,
                port=self.ports[i],
                internal_port=internal[i],
                controller_port=controllers[i],
                node_id=i + 1,
                voters=voters,
                brokers=brokers,
                advertised_port=advertised[i],
                settings=dict(settings or {}),
                heap_mb=heap_mb,
            )
            for i in range(brokers)
        ]
        self._cache_dir = cache_dir
        self._processes: dict[int, Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Starts all brokers and returns once each lists them all."""
        self._needs = runtime(self._cache_dir)
        with ExitStack() as stack:
            self._guardian = stack.enter_context(Guardian())
            for index in range(len(self._nodes)):
                self._spawn(index)
            for index in range(len(self._nodes)):
                wait_ready(self._nodes[index], self._processes[index], see_all=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def alive(self, index: int) -> bool:
        """Whether the broker's process exists, paused or not."""
        return self._processes[index].alive()

    def pid(self, index: int) -> int:
        """The pid of the broker's last process."""
        return self._processes[index].pid

    def mark(self, index: int) -> str:
        """The argument by which the broker's process is known (see `processes`)."""
        return self._nodes[index].mark

    def kill(self, index: int) -> None:
        """SIGKILL: nothing is handed over, nothing is flushed. It is gone on return."""
        self._processes[index].kill()

    def stop(self, index: int, grace_s: float = STOP_GRACE_S) -> None:
        """An orderly stop: leadership is handed over first. It is gone on return."""
        self._processes[index].stop(grace_s)

    def pause(self, index: int) -> None:
        """SIGSTOP: connections stay open, new ones are accepted by the kernel, and nothing answers.

        Clients notice by their own clocks only: librdkafka waits 60 s for an answer (socket.timeout.ms) and 30 s for a
        connection to be set up (socket.connection.setup.timeout.ms) unless told otherwise.
        """
        self._processes[index].send(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """SIGCONT after `pause`. The others may have given it up meanwhile; see `wait_in_sync`."""
        self._processes[index].send(signal.SIGCONT)

    def start(self, index: int, *, wait: bool = True) -> None:
        """Starts a broker that was killed or stopped, on its old data and ports; nothing when it is alive.

        Returns once it is a live member again, or at once without `wait`.
        """
        if not self.alive(index):
            self._spawn(index)
        if wait:
            wait_ready(self._nodes[index], self._processes[index])

    def restart(self, index: int) -> None:
        """`stop`, then `start`."""
        self.stop(index)
        self.start(index)

    def wait_in_sync(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Returns once all brokers live and every replica of every partition is in sync: safe for the next fault."""
        asker = Asker(self.direct)
        until = time.monotonic() + timeout_s
        missing = "the cluster"
        while time.monotonic() < until:
            found = asker.out_of_sync(1.0, brokers=len(self._nodes))
            if found is None:
                return
            missing = found
            time.sleep(0.1)
        raise BrokerUnavailable(f"{missing} is not in sync after {timeout_s:.0f} s")

    def _spawn(self, index: int) -> None:
        self._processes[index] = start(self._nodes[index], self._needs)
        self._guardian.watch(self._processes[index])


def _addresses(ports: Sequence[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)
