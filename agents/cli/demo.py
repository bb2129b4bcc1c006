"""`lockgate demo`: the main job from nothing, by the same commands that a person would type, shown as they run.

A broker with data of its own under `build/demo`, topics, context, a worker, the sample messages; then where every
message went, worked out from identities in the topics, and one decision explained.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import ExitCode, json_option, print_json, print_table, progress, say
from pipeline.errors import LockgateError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.stream.places import Places

MEANING = {
    "decision": "published for downstream systems",
    "open_review": "waits for a person: `lockgate review list`",
    "dead_letter": "the machine failed on it: `lockgate dlq list`",
    "blocked": "a control said no",
    "waiting_retry": "will be tried again",
    "duplicate": "a repeat, dropped and audited",
    "on_the_way": "in a stage topic",
}


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("build"), show_default=True)
@click.option("--keep", is_flag=True, help="Leave broker and worker running, to look around.")
@click.option(
    "--within", type=click.IntRange(10, 3600), default=150, show_default=True, help="Seconds to wait at most."
)
@json_option
@pass_invocation
def demo(invocation: Invocation, *, out: Path, keep: bool, within: int, as_json: bool) -> None:
    """Run the shipped workflow on its sample messages, and show where each one went.

    Ends with exit code 0 only when every message has exactly one place. Writes OUT/demo.json. It starts over each
    time: OUT/demo, the data of the last demo, is removed.
    """
    commands = _Commands(invocation, (out / "demo").absolute())
    commands.start_over()
    try:
        commands.run("up")
        commands.run("topics", "apply")
        commands.run("samples", "--context-only")
        with commands.worker(keep) as alive:
            commands.run("samples")
            summary, places = _wait(commands.settings(), within, alive)
            chosen = commands.first_decision()
            if chosen is not None and not as_json:
                commands.run("explain", chosen, shown=True)
    finally:
        if not keep:
            commands.run("down")
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    if as_json:
        print_json(summary)
    else:
        _show(summary, places, commands if keep else None, out)
    if not summary["conserved"]:
        for fault in places.faults[:20]:
            say(fault)
        click.get_current_context().exit(ExitCode.FAILED)


class _Commands:
    """Runs `lockgate` as a person would, against the demo's own environment and data."""

    def __init__(self, invocation: Invocation, data_dir: Path) -> None:
        self._invocation = invocation
        self._data_dir = data_dir
        # On a shared broker every demo has topics of its own: it deletes nothing there.
        shared = invocation.settings().bootstrap_servers is not None
        self.environment = f"demo-{int(time.time())}" if shared else "demo"
        self._env = {**os.environ, "LOCKGATE_DATA_DIR": str(data_dir), "LOCKGATE_ENVIRONMENT": self.environment}
        self._argv = [sys.executable, "-m", "agents.cli", *invocation.arguments()]

    def start_over(self) -> None:
        """Ends what an earlier demo left running, and removes its data."""
        if self._data_dir.exists():
            subprocess.run([*self._argv, "down"], env=self._env, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - ourselves
            shutil.rmtree(self._data_dir)
        self._data_dir.mkdir(parents=True)

    def run(self, *command: str, shown: bool = False) -> None:
        """Runs one command, says so, and fails with it. Its output is shown on request, else only its errors."""
        say(f"$ lockgate {' '.join(command)}")
        done = subprocess.run(  # noqa: S603 - ourselves
            [*self._argv, *command], env=self._env, stdout=None if shown else subprocess.PIPE, check=False
        )
        if done.returncode:
            raise LockgateError(f"`lockgate {' '.join(command)}` failed with exit code {done.returncode}")

    def first_decision(self) -> str | None:
        """The id of a published decision, or None when there is none."""
        found = subprocess.run(  # noqa: S603 - ourselves
            [*self._argv, "decisions", "--limit", "1", "--json"], env=self._env, capture_output=True, check=True
        )
        line = found.stdout.decode().strip()
        return json.loads(line)["decision_id"] if line else None

    def settings(self) -> "Settings":
        """The demo's settings, with the address of its broker."""
        from pipeline.broker.find import present_broker

        settings = self._invocation.settings().model_copy(
            update={"data_dir": self._data_dir, "environment": self.environment}
        )
        return settings.model_copy(update={"bootstrap_servers": present_broker(settings).bootstrap})

    @contextmanager
    def worker(self, keep: bool) -> Iterator[Callable[[], bool]]:
        """A worker in the background, its log in the data folder; stopped at the end, unless it is kept.

        Yields a function that tells whether it still runs.
        """
        log = self._data_dir / "worker.log"
        say(f"$ lockgate worker > {log} 2>&1 &")
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [*self._argv, "worker"], env=self._env, stdout=sink, stderr=sink, start_new_session=keep
            )
        try:
            yield lambda: process.poll() is None
            if process.poll() is not None:
                raise LockgateError(f"the worker ended with exit code {process.returncode}: see {log}")
            if keep:
                say(f"the worker still runs: `kill {process.pid}` stops it")
        finally:
            if not keep and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait(settings: "Settings", within_s: int, alive: Callable[[], bool]) -> tuple[dict[str, Any], "Places"]:
    """Looks until every message has its place, or the time is over."""
    from pipeline.codec import Codec
    from pipeline.stream.places import find_places

    codec = Codec()
    until = time.monotonic() + within_s
    places = find_places(settings, codec)
    with progress("every message finds its place", len(places.place_of)) as advance:
        shown = 0
        while True:
            shown += _advanced(places, shown, advance)
            if (places.at_rest and not places.counts["waiting_retry"]) or not alive() or time.monotonic() > until:
                break
            time.sleep(0.5)
            places = find_places(settings, codec)
    counts = places.counts
    summary = {
        "published": len(places.place_of),
        "decisions": counts["decision"],
        "open_reviews": counts["open_review"],
        "dead_letters": counts["dead_letter"],
        "blocked": counts["blocked"],
        "waiting_retries": counts["waiting_retry"],
        "duplicates": counts["duplicate"],
        "conserved": places.conserved,
    }
    return summary, places


def _advanced(places: "Places", shown: int, advance: Callable[[int], None]) -> int:
    settled = len(places.place_of) - places.counts["on_the_way"]
    advance(settled - shown)
    return settled - shown


def _show(summary: dict[str, Any], places: "Places", kept: _Commands | None, out: Path) -> None:
    click.echo()
    rows = [(name.replace("_", " "), count, MEANING[name]) for name, count in places.counts.items() if count]
    print_table(("place", ">events", "which means"), [*rows, ("published", summary["published"], "all of them")])
    click.echo(f"\nconserved: {'every event has exactly one place' if summary['conserved'] else 'NO'}")
    click.echo(f"written: {out / 'demo.json'}")
    if kept is None:
        click.echo("To look around afterwards: lockgate demo --keep")
    else:
        click.echo(f"Look around: export LOCKGATE_DATA_DIR={out / 'demo'} LOCKGATE_ENVIRONMENT={kept.environment}")
        click.echo("Then: lockgate decisions, lockgate review list, lockgate dlq list, lockgate lag; lockgate down")
