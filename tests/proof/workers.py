"""Worker processes of a proof: started, killed, paused, resumed, stopped, and always cleaned up, each by its pid."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

_POLL_S = 0.02


class Worker:
    """One running process. Its output, both streams, goes to `log`, to which restarts append."""

    def __init__(
        self, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = log
        # Dies with the test's process, whatever ends that: a killed test run leaves nothing behind.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with log.open("ab") as out:
            self.began_at = out.tell()
            self._process = subprocess.Popen(
                [*guard, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,  # so that its children can be ended with it
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """All that this process has written so far."""
        with self.log.open("rb") as log:
            log.seek(self.began_at)
            return log.read().decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and it is gone on return."""
        self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self, bound_s: float) -> float:
        """SIGTERM; returns the seconds until it had ended. Raises when it needs longer than `bound_s`."""
        began = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(bound_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"process {self.pid} still runs {bound_s:.0f} s after SIGTERM. Its last words: {self.said()[-800:]}"
            ) from None
        return time.monotonic() - began

    def wait_said(self, text: str, bound_s: float, *, after: int = 0) -> int:
        """Waits until `text` stands in its output beyond `after` characters; returns where the text ends.

        Raises with its last words when it ends first, or after `bound_s`.
        """

        def find() -> int | None:
            running = self.alive  # asked first: what it said last is then in the text read below
            at = self.said().find(text, after)
            if at < 0 and not running:
                raise AssertionError(
                    f"process {self.pid} ended with {self.returncode} and never said {text!r}: {self.said()[-800:]}"
                )
            return None if at < 0 else at + len(text)

        return wait_until(find, bound_s, f"process {self.pid} says {text!r}")

    def destroy(self) -> None:
        """Ends it and whatever it started, without asking."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(10)
        # It may have ended long ago and left children. Its pid stays theirs as session id, and the kernel gives it
        # to nobody while one of them lives; a process that has this pid now therefore means that none does.
        elif not Path(f"/proc/{self.pid}").exists():
            for child in _session(self.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(entry.name)) == leader:
                    members.append(int(entry.name))
    return members


class Crew:
    """All workers of one proof; leaving the block destroys those that still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers: list[Worker] = []

    def start(
        self,
        argv: Sequence[str],
        name: str = "worker",
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Worker:
        """Starts one more; workers of the same name share a log file."""
        worker = Worker(argv, self._folder / f"{name}.log", env=env, cwd=cwd)
        self._workers.append(worker)
        return worker

    @property
    def running(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.alive]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.destroy()


def wait_until(condition: Callable[[], T | None], bound_s: float, what: str, poll_s: float = _POLL_S) -> T:
    """Calls `condition` until it returns something true, and returns that. Raises after `bound_s`, naming `what`."""
    until = time.monotonic() + bound_s
    while True:
        if result := condition():
            return result
        if time.monotonic() >= until:
            raise AssertionError(f"not within {bound_s:g} s: {what}")
        time.sleep(poll_s)
