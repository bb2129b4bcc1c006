"""Runs the scenarios and writes build/bench.json."""

import sys
import time
from pathlib import Path

import click

from tests.bench import report
from tests.bench.broker import broker_for, topics_of
from tests.bench.report import Row
from tests.bench.run import Bench
from tests.bench.scenarios import SCENARIOS
from tests.bench.systems import SYSTEMS


@click.command(context_settings={"show_default": True})
@click.option("--bootstrap", help="A broker to measure on. Default: the one that Lockgate finds or starts.")
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice(list(SCENARIOS)), help="Default: all.")
@click.option("--system", "systems", multiple=True, type=click.Choice(list(SYSTEMS)), help="Default: all.")
@click.option("--short", is_flag=True, help="A fifth of the records, a third of the time: not a measurement.")
@click.option("--repeats", default=1, type=click.IntRange(1), help="Throughput runs per system; the median counts.")
@click.option("--profile/--no-profile", default=True, help="Also profile Lockgate, in a run of its own.")
@click.option("--out", default="build/bench.json", type=click.Path(dir_okay=False, path_type=Path))
def main(
    *,
    bootstrap: str | None,
    scenarios: tuple[str, ...],
    systems: tuple[str, ...],
    short: bool,
    repeats: int,
    profile: bool,
    out: Path,
) -> None:
    """Measure Lockgate and its peers side by side on one broker.

    Ends with 1 when Lockgate broke a promise or did not run; what peers break is only shown.
    """
    if not sys.platform.startswith("linux"):
        raise click.UsageError("the bench reads CPU clocks from /proc: run it on Linux")
    run = f"bench-{time.time_ns() // 1_000_000:x}"
    rows: list[Row] = []
    with broker_for(bootstrap) as broker, topics_of(broker.bootstrap, run) as topics:
        click.echo(f"broker {broker.bootstrap}, process {broker.pid or 'unknown: its CPU is not measured'}")
        bench = Bench(broker, topics, run, out.parent / "bench-logs", repeats=repeats, profile=profile)
        bench.warm_the_broker()
        for name in scenarios or SCENARIOS:
            scenario = SCENARIOS[name].short() if short else SCENARIOS[name]
            chosen = [system for system in scenario.systems if system in (systems or SYSTEMS)]
            if chosen:
                rows += bench.scenario(scenario, chosen)
                report.write(rows, out)  # after each scenario: a run that is cut short leaves what it has
    report.show(rows)
    sys.exit(any(row.system == "lockgate" and (row.violations or row.failed) for row in rows))


if __name__ == "__main__":
    main()
