"""`lockgate lag`: how far each stage is behind, in records and in time."""

import time
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import json_option, print_json, print_table, shown
from pipeline.topics import STAGES

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.stream.lag import PartitionLag, StageLag

_EXACT_UP_TO = 10_000
_EXACT_UP_TO_WATCHED = 1_000


@click.command()
@click.option("--watch", is_flag=True, help="Measure again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between measures."
)
@click.option(
    "--exact-up-to",
    type=click.IntRange(1),
    metavar="N",
    help="Count so many records of a partition; more are shown as an upper bound. Default: 10000; with --watch 1000.",
)
@json_option
@pass_invocation
def lag(invocation: Invocation, *, watch: bool, interval: float, exact_up_to: int | None, as_json: bool) -> None:
    """Show, by stage, the records that are not done, the age of the oldest, and how many workers there are.

    Records that wait for another attempt count too. Partitions are listed while they have something to do. The age
    counts from the record's own timestamp; an idle stage has 0. With --json, one object a measure, with every
    partition in it.
    """
    settings = invocation.connected()
    limit = exact_up_to or (_EXACT_UP_TO_WATCHED if watch else _EXACT_UP_TO)
    try:
        while True:
            _show(settings, limit, as_json=as_json, redraw=watch)
            if not watch:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        if not watch:
            raise


def _show(settings: "Settings", limit: int, *, as_json: bool, redraw: bool) -> None:
    from pipeline.stream.lag import measure

    stages = measure(settings, STAGES, exact_up_to=limit)
    if as_json:
        print_json(
            {
                "environment": settings.environment,
                "at": round(time.time(), 3),
                "stages": [_plain(stage) for stage in stages],
            }
        )
        return
    if redraw:
        click.clear()  # does nothing where stdout is no terminal
    print_table(
        ("STAGE", "PARTITION", ">NOT DONE", ">RETRYING", ">OLDEST", "WORKERS", "NOTE"),
        [row for stage in stages for row in _rows(stage)],
    )


def _rows(stage: "StageLag") -> "list[tuple[object, ...]]":
    workers = shown(stage.workers) if stage.workers else "no worker"
    total = (stage.stage, "all", _count(stage.not_done, stage.exact), _count(stage.retrying, stage.exact))
    rows: list[tuple[object, ...]] = [(*total, _age(stage.oldest_age_s), workers, "")]
    rows += [
        (
            "",
            str(part.partition),
            _count(part.not_done, part.exact),
            _count(part.retrying, part.exact),
            _age(part.oldest_age_s),
            part.owner or "nobody",
            part.note or "",
        )
        for part in stage.partitions
        if part.not_done or part.note
    ]
    return rows


def _count(number: int, exact: bool) -> str:
    return f"{number:,}" if exact or number == 0 else f"<={number:,}"


def _age(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _plain(stage: "StageLag") -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "not_done": stage.not_done,
        "retrying": stage.retrying,
        "oldest_age_s": round(stage.oldest_age_s, 3),
        "exact": stage.exact,
        "workers": stage.workers,
        "partitions": [_plain_partition(partition) for partition in stage.partitions],
    }


def _plain_partition(partition: "PartitionLag") -> dict[str, Any]:
    return {
        "partition": partition.partition,
        "not_done": partition.not_done,
        "retrying": partition.retrying,
        "oldest_age_s": round(partition.oldest_age_s, 3),
        "exact": partition.exact,
        "owner": partition.owner,
        "note": partition.note,
    }
