"""A small process that ends other processes when the one that started it is gone, however that died.

Brokers run in sessions of their own, so nothing ends them when a test run is killed. The guardian reads lines
`pid mark` from a pipe whose other end only its starter holds, and when the pipe ends it kills what it read.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.broker.processes import Process

_ROOT = Path(__file__).parents[2]  # where `pipeline` lies, whatever the working directory


class Guardian:
    """Kills the watched processes on exit, and also when this program dies without reaching its exit."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.broker.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            start_new_session=True,  # a Ctrl-C meant for its starter must not end it first
        )

    def watch(self, process: Process) -> None:
        """From now on this process ends with us. Harmless when it ends earlier."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{process.pid} {process.mark}\n".encode())
        self._child.stdin.flush()

    def close(self) -> None:
        """Kills what is watched and still there; returns once that is done."""
        assert self._child.stdin is not None
        self._child.stdin.write(b"end\n")  # a forked child of ours may hold the pipe open
        self._child.stdin.close()
        self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    watched: list[Process] = []
    for line in iter(sys.stdin.readline, "end\n"):
        if not line:
            break
        pid, mark = line.rstrip("\n").split(" ", 1)
        watched.append(Process(int(pid), mark))
    for process in watched:
        process.kill()


if __name__ == "__main__":
    main()
