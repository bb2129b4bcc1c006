"""A system under test in a process of its own, and CPU clocks of processes by pid (Linux: /proc)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.profiling import profiled

ROOT = Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User + system time of a process, all its threads, in steps of one clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_cpu_seconds() -> float:
    """CPU time that the whole machine has spent busy; time stolen by its host counts as busy."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


def pid_listening_on(port: int) -> int | None:
    """The process behind a local TCP port, if it is ours to see. It is how a broker given by address is found."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(fd.readlink()) in inodes for fd in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:  # gone meanwhile, or not ours
            continue
    return None


@dataclass(frozen=True, slots=True)
class Job:
    """All that a system is told. It runs until SIGTERM."""

    bootstrap: str
    environment: str
    topic_in: str
    topic_out: str
    group: str
    partitions: int
    keys: int
    work_s: float
    headers: bool
    variant: str
    profile: str | None
    """Where to write a profile; None: none."""


def start(main: Callable[[Job], None]) -> None:
    """Runs a system's `main` with the job on the command line."""
    job = Job(**json.loads(sys.argv[1]))
    with profiled(Path(job.profile)) if job.profile else nullcontext():
        main(job)


class Died(RuntimeError):
    """A system ended by itself. The text holds the end of its log."""


class System:
    """Runs `python -m <module> <job>`; on leaving, SIGTERM, then SIGKILL after `grace_s`, and its whole CPU time."""

    def __init__(self, module: str, job: Job, log: Path, grace_s: float = 10.0) -> None:
        self._command = [sys.executable, "-m", module, json.dumps(asdict(job))]
        self._log = log
        self._grace_s = grace_s
        self.cpu_total_s = 0.0
        self.ending = ""
        """What was wrong with the end; empty: it stopped on SIGTERM by itself and said it was well."""

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)
        self._reaped = False
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises Died when the system has ended."""
        if not self._reaped and self._reap():
            tail = self._log.read_text(errors="replace")[-2_000:]
            raise Died(f"ended with {self._process.returncode}; log {self._log}:\n{tail}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._reaped or self._reap():
            return
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        while time.monotonic() < deadline:
            if self._reap():
                if self._process.returncode:
                    self.ending = f"SIGTERM: exit {self._process.returncode}, see {self._log.name}"
                return
            time.sleep(0.02)
        self.ending = f"SIGTERM: killed after {self._grace_s:g} s"
        os.kill(self.pid, signal.SIGKILL)
        while not self._reap():
            time.sleep(0.02)

    def _reap(self) -> bool:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self._reaped = True
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_total_s = usage.ru_utime + usage.ru_stime
        return True
