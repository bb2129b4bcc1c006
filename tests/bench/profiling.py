"""Where a system's time goes: CPU time of each thread, and of each function in it.

The CPU time of threads is exact, also of librdkafka's, which run no Python ("native"). That of functions is cProfile's
on the thread's CPU clock, so that waiting costs nothing; the profiler adds its own cost to every call, so read it as
shares, and not as microseconds.
"""

import cProfile
import os
import pstats
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SHOWN = 30
_WORTH_S = 0.05


@contextmanager
def profiled(out: Path) -> Iterator[None]:
    """Profiles this thread and every thread that begins inside the block, then writes the report."""
    begin = time.perf_counter()
    profiles: dict[str, list[cProfile.Profile]] = {}
    names: dict[int, str] = {}
    cpu: dict[int, float] = {}
    done = threading.Event()

    def enter(*_: object) -> None:
        """Runs at the first event of a thread: from then on its profiler is cProfile's own."""
        profile = cProfile.Profile(time.thread_time)
        profiles.setdefault(threading.current_thread().name, []).append(profile)
        names[threading.get_native_id()] = threading.current_thread().name
        profile.enable()

    def watch() -> None:
        while not done.wait(0.2):
            cpu.update(_cpu_by_thread())

    watcher = threading.Thread(target=watch, name="profiler", daemon=True)
    watcher.start()
    threading.setprofile(enter)
    enter()
    try:
        yield
    finally:
        profiles[threading.current_thread().name][0].disable()
        threading.setprofile(None)
        done.set()
        watcher.join()
        out.write_text(_report(time.perf_counter() - begin, names, cpu, profiles), encoding="utf-8")


def _cpu_by_thread() -> dict[int, float]:
    found = {}
    for stat in Path("/proc/self/task").glob("*/stat"):
        try:
            fields = stat.read_text(encoding="ascii").rpartition(") ")[2].split()
        except OSError:  # it has just ended
            continue
        found[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def _report(
    wall_s: float, names: dict[int, str], cpu: dict[int, float], profiles: dict[str, list[cProfile.Profile]]
) -> str:
    text = StringIO()
    print(f"{wall_s:.1f} s wall, {sum(cpu.values()):.2f} s CPU, profiler included. CPU by thread:", file=text)
    for ident, seconds in sorted(cpu.items(), key=lambda item: -item[1]):
        if seconds >= _WORTH_S:
            print(f"  {seconds:7.2f} s  {names.get(ident, 'native')} ({ident})", file=text)
    for name, found in profiles.items():
        stats = pstats.Stats(*found, stream=text)
        if stats.total_tt >= _WORTH_S:
            print(f"\n--- {name}, by CPU time in the function itself", file=text)
            stats.sort_stats("tottime").print_stats(_SHOWN)
    return text.getvalue()
