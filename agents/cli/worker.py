"""`lockgate worker`: one process that runs stages, or several that share their partitions."""

import json
import logging
import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import say
from pipeline.topics import STAGES


@click.command()
@click.option(
    "--stage", "stages", multiple=True, metavar="S", type=click.Choice(STAGES), help="Run this stage; repeatable."
)
@click.option("--processes", type=click.IntRange(1, 256), default=1, metavar="N", help="Share the work among N.")
@click.option(
    "--workflows",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Serve the workflows in DIR, one folder each, in place of those that ship with Lockgate.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the log as JSON lines.")
@click.option("--parent", type=int, hidden=True, help="A descriptor that ends when the starting process does.")
@pass_invocation
def worker(
    invocation: Invocation,
    *,
    stages: tuple[str, ...],
    processes: int,
    workflows: Path | None,
    as_json: bool,
    parent: int | None,
) -> None:
    """Run stages until SIGTERM or Ctrl-C: all of them, or those named with --stage.

    At the end, work in flight is finished within a few seconds; the rest is left to the next owner, nothing is lost.
    With --processes, a process that fails is not started again: the others are stopped, and the exit code is not 0,
    so that whatever supervises this command decides.
    """
    if processes > 1:
        from agents.cli.children import Children

        settings = invocation.connected()  # once, so that N children do not report one fault N times
        options = [*invocation.arguments(), "worker", *(part for stage in stages for part in ("--stage", stage))]
        if workflows is not None:
            options += ["--workflows", str(workflows)]
        click.get_current_context().exit(
            Children([*options, *(["--json"] if as_json else [])], processes, settings.slot).run()
        )
    _log_to_stderr(as_json)
    if parent is not None:
        _end_with(parent)
    settings = invocation.connected()
    assert settings.bootstrap_servers is not None
    from agents.worker import run_worker

    run_worker(settings, settings.bootstrap_servers, stages or None, workflows=workflows)


def _log_to_stderr(as_json: bool) -> None:
    root = logging.getLogger()
    root.setLevel(min(root.level, logging.INFO))
    if as_json:
        for handler in root.handlers:
            handler.setFormatter(_JsonLines())


class _JsonLines(logging.Formatter):
    """One JSON object a line. The trace of an exception stays one text inside it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _end_with(parent: int) -> None:
    """Stops this process as SIGTERM would when the one that started it is gone, however that ended."""

    def watch() -> None:
        os.read(parent, 1)  # nobody writes: it returns when the last writer is gone
        say("the process that started this worker is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
