"""Worker processes side by side: started together, stopped together, none started again.

What supervises this command (systemd, Kubernetes, a person) restarts it as a whole; a second supervisor inside
would hide from it that a process keeps dying.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from agents.cli.output import ExitCode, say

STOP_WITHIN_S = 9.5
"""After a signal, what has not ended by itself within this time is killed. It had committed what it finished."""
_LOOK_S = 0.05
_STOPPED = frozenset({0, -signal.SIGTERM, -signal.SIGINT, int(ExitCode.INTERRUPTED)})
"""How a child may end that was told to stop; by a signal when it was told before it could listen."""


@dataclass(slots=True)
class _Child:
    number: int
    process: "subprocess.Popen[bytes]"
    told: bool = False

    def tell(self, number: int) -> None:
        """Sends a signal, the first time only: a second one would cut the first one's grace short."""
        if not self.told and self.process.poll() is None:
            self.told = True
            self.process.send_signal(number)

    def failure(self, code: int) -> str | None:
        """What was wrong with ending like that, if anything was."""
        if code == 0 or (self.told and code in _STOPPED):
            return None
        return f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


class Children:
    """N processes of `lockgate OPTIONS`. With a configured slot, each gets its own part of that name."""

    def __init__(self, options: Sequence[str], count: int, slot: str | None) -> None:
        self._options = list(options)
        self._count = count
        self._slot = slot
        self._children: list[_Child] = []
        self._stop_by: float | None = None
        self._stop_signal: int = signal.SIGTERM

    def run(self) -> ExitCode | int:
        """Returns when all have ended: 0, or the exit code of the first that failed, which is named on stderr."""
        reading, writing = os.pipe()  # closes when this process ends, however it does: the children see it
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for number in range(self._count):
                if self._stop_by is not None:
                    break
                self._children.append(self._start(number, reading))
            if self._stop_by is not None:  # the signal may have come while a child was not in the list yet
                self._stop(self._stop_signal)
            return self._wait()
        finally:
            for child in self._children:
                if child.process.poll() is None:
                    child.process.kill()
                    child.process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)

    def _start(self, number: int, reading: int) -> _Child:
        env = dict(os.environ)
        if self._slot is not None:
            env["LOCKGATE_SLOT"] = f"{self._slot}-{number}"
        command = [sys.executable, "-m", "agents.cli", *self._options, "--parent", str(reading)]
        # A session of its own: a Ctrl-C reaches it through us, once.
        process = subprocess.Popen(command, env=env, pass_fds=[reading], start_new_session=True)  # noqa: S603 - ourselves
        return _Child(number, process)

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._stop(number)

    def _stop(self, number: int = signal.SIGTERM) -> None:
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_WITHIN_S
            self._stop_signal = number
        for child in self._children:
            child.tell(number)

    def _wait(self) -> int:
        result: int = ExitCode.OK
        left = list(self._children)
        while left:
            time.sleep(_LOOK_S)
            for child in list(left):
                code = child.process.poll()
                if code is None:
                    continue
                left.remove(child)
                failure = child.failure(code)
                if failure is not None:
                    say(f"lockgate: worker process {child.number} (pid {child.process.pid}) failed: {failure}")
                    result = result or (code if code > 0 else ExitCode.FAILED)
                    self._stop()
            if left and self._stop_by is not None and time.monotonic() > self._stop_by:
                for child in left:
                    say(f"lockgate: worker process {child.number} (pid {child.process.pid}) did not stop: killing it")
                    child.process.kill()
        return result
