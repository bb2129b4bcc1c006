"""Processes that outlive the one that started them, and that are never mistaken for another.

A pid alone proves nothing: the kernel gives it to the next program. So each process carries a mark, one
argument of its command line that no other program has, and no signal is sent before the mark was seen there.
"""

import os
import random
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BrokerUnavailable

_POLL_S = 0.02
_KILL_WAIT_S = 10.0
_EXEC_WAIT_S = 10.0
# Below the range from which the kernel takes the ports of outgoing connections: a broker that comes back
# must find its port free.
_PORTS = range(15_000, 32_000)


@dataclass(frozen=True, slots=True)
class Process:
    """A process by pid and mark. Every method is harmless when it has ended and its pid is another's."""

    pid: int
    mark: str

    def alive(self) -> bool:
        """Whether it still exists (a stopped process does, a zombie does not)."""
        _reap(self.pid)
        proc = Path(f"/proc/{self.pid}")
        try:
            arguments = (proc / "cmdline").read_bytes()
            if not arguments:
                # Dying: its first thread has gone, and with it the arguments. While others remain, so do its
                # ports and locks.
                return len(list((proc / "task").iterdir())) > 1
        except OSError:
            return False
        return os.fsencode(self.mark) in arguments.split(b"\0")

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal when it is alive; says whether it was."""
        if not self.alive():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True

    def stop(self, grace_s: float) -> bool:
        """SIGTERM, after `grace_s` seconds SIGKILL; says whether it was alive. It is gone on return."""
        if not self.send(signal.SIGTERM):
            return False
        self.send(signal.SIGCONT)  # a paused process would never see the SIGTERM
        if not self.wait(grace_s):
            self.kill()
        return True

    def kill(self) -> bool:
        """SIGKILL; says whether it was alive. It is gone on return."""
        was_alive = self.send(signal.SIGKILL)
        if was_alive and not self.wait(_KILL_WAIT_S):
            raise BrokerUnavailable(f"process {self.pid} does not end on SIGKILL: it hangs in the kernel")
        return was_alive

    def wait(self, timeout_s: float) -> bool:
        """Waits for its end; False when it is still there after `timeout_s` seconds."""
        until = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        return True


def spawn(argv: Sequence[str], mark: str, output: Path, env: Mapping[str, str]) -> Process:
    """Starts a program in a session of its own, without input, its output appended to a file."""
    assert mark in argv
    if not Path("/proc/self/cmdline").exists():
        raise BrokerUnavailable(
            "a local Kafka needs Linux, where /proc tells processes apart: set KAFKA_BOOTSTRAP_SERVERS, or start Docker"
        )
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT],  # Python ignores SIGPIPE, and children would inherit that
    )
    process = Process(pid, mark)
    until = time.monotonic() + _EXEC_WAIT_S
    # The kernel lets us go on a moment before it has put the arguments in place.
    while not process.alive() and Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(_POLL_S)
    return process


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Different ports that are free now, picked at random so that two processes seldom pick the same."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, k=len(_PORTS)):
        if len(found) == count:
            return found
        if port_is_free(port):
            found.append(port)
    raise BrokerUnavailable(f"fewer than {count} free ports in {_PORTS.start}-{_PORTS.stop - 1} on 127.0.0.1")


def _reap(pid: int) -> None:
    # Only a child of ours can be a zombie of ours; for any other pid this does nothing.
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
