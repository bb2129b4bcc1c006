"""What every command shares: exit codes, tables and JSON on stdout, progress on stderr, and plain error texts."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import click

from pipeline.errors import BrokerUnavailable, ConfigError, LockgateError, TopicPlanRefused

_REDRAW_S = 0.1


class ExitCode(IntEnum):
    """How a command ended, for scripts."""

    OK = 0  # done
    FAILED = 1  # it was tried and did not work; the text on stderr says why
    USAGE = 2  # wrong options, settings or declarations; nothing was done
    BROKER = 3  # no Kafka answers
    REFUSED = 4  # a rule forbids it; nothing was done
    NOT_FOUND = 5  # the thing that was named is not there
    INTERRUPTED = 130  # Ctrl-C


class Refused(LockgateError):
    """A rule of the workflow forbids it. Nothing was done."""


class NothingFound(LockgateError):
    """What the command line named is not there."""


def exit_code(error: LockgateError) -> ExitCode:
    """The code that a command ends with when this error ends it."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case BrokerUnavailable():
            return ExitCode.BROKER
        case TopicPlanRefused() | Refused():
            return ExitCode.REFUSED
        case NothingFound():
            return ExitCode.NOT_FOUND
        case _:
            return ExitCode.FAILED


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text for people.")


def say(text: str) -> None:
    """One line for people, on stderr: stdout holds only what was asked for."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON value on one line, so that many of them are JSON lines."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people. Columns whose name begins with `>` are numbers. Long cells wrap on a terminal only."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # In a pipe or a file nothing is cut: the width of a terminal means nothing there.
    console = Console() if sys.stdout.isatty() else Console(width=100_000, no_color=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    click.echo("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()), nl=False)


def shown(value: object) -> str:
    """A value as text that is safe on a terminal: whatever could move its cursor or colour it is spelt out."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(value)
    )


def moment(timestamp_ms: int) -> str:
    """A Kafka timestamp as UTC time for people."""
    if timestamp_ms < 0:
        return "-"
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """A time that has passed, for people: two units at most."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`. On a terminal a bar with count and rate is drawn on stderr, and wiped at the end."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    began = drawn = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, drawn
        done += count
        now = time.monotonic()
        if now - drawn >= _REDRAW_S:
            drawn = now
            bar.update(task, completed=done, rate=f"{done / (now - began):,.0f}/s")

    with bar:
        task = bar.add_task(label, total=total, rate="")
        yield advance


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """A spinner on stderr while something without a measure goes on; nothing when that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield
