"""One scenario after the other: the topics, the system's process, the watcher, and a row of numbers."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

import click

from tests.bench import load
from tests.bench.broker import Broker, Topics
from tests.bench.measure import Throughput, Watched, Watcher, quantile
from tests.bench.process import ROOT, Died, Job, System
from tests.bench.report import Row
from tests.bench.scenarios import Scenario, Shape
from tests.bench.systems import SYSTEMS

PATIENCE_S = 60.0
PACED_PATIENCE_S = 10.0
TICKET_PLACES = ("decisions", "human-review", "blocked", "dead-letter")


class Stand(NamedTuple):
    """The topics of one run of one system."""

    prefix: str
    topic_in: str
    topics_out: tuple[str, ...]


class Pace(NamedTuple):
    topic: str
    per_s: float
    check: Callable[[], None]


class Bench:
    def __init__(self, broker: Broker, topics: Topics, run: str, logs: Path, *, repeats: int, profile: bool) -> None:
        self._broker = broker
        self._topics = topics
        self._run = run
        self._logs = logs
        self._repeats = repeats
        self._profile = profile

    def scenario(self, scenario: Scenario, systems: list[str]) -> list[Row]:
        """All systems, one after the other; relays on one backlog."""
        click.echo(f"{scenario.name}: {scenario.records:,} records of {scenario.keys:,} keys")
        backlog = None
        if scenario.shape is not Shape.TICKET:
            backlog = self._topics.make(f"{self._run}.{scenario.name}.in", scenario.partitions)
            load.preload(self._broker.bootstrap, backlog, scenario)
        rows = {name: Row(scenario.name, SYSTEMS[name].shown or name) for name in systems}
        runs: dict[str, list[Throughput]] = {name: [] for name in systems}
        # Round by round, so that what else the machine does falls on all systems alike.
        for i in range(self._repeats):
            for name, row in rows.items():
                if row.failed:
                    continue
                with _giving_up(row):
                    runs[name].append(self._backlog_run(scenario, name, backlog, row, f"backlog-{i}"))
                    click.echo(f"  {row.system}: {runs[name][-1].events_per_s:,.0f} events/s")
        for name, row in rows.items():
            if row.failed:
                continue
            with _giving_up(row):
                _settle(row, runs[name])
                self._latency(scenario, name, row)
                click.echo(f"  {row.system}: p50 {row.p50_ms or 0:.1f} ms, p99 {row.p99_ms or 0:.1f} ms")
                if self._profile and row.system == "lockgate":
                    self._profiled(scenario, name, backlog, row)
        direct = self._direct(scenario)
        if backlog:
            self._topics.drop(backlog)
        return [direct, *rows.values()]

    def warm_the_broker(self) -> None:
        """A short run that does not count: a broker that has just started is slow, and the first system would pay."""
        scenario = Scenario("warm-up", partitions=8, keys=1_000, records=200_000, work_s=0.0, window_s=5.0)
        backlog = self._topics.make(f"{self._run}.{scenario.name}.in", scenario.partitions)
        load.preload(self._broker.bootstrap, backlog, scenario)
        self._backlog_run(scenario, "confluent-loop", backlog, Row(scenario.name, "confluent-loop"), "backlog")
        self._topics.drop(backlog)

    def _stand(self, scenario: Scenario, system: str, part: str, backlog: str | None) -> Stand:
        if scenario.shape is Shape.TICKET:
            environment = f"{self._run}-{part}"
            self._topics.declare(environment)
            load.know_customers(self._broker.bootstrap, environment, scenario)
            places = tuple(f"{environment}.{place}" for place in TICKET_PLACES)
            return Stand(environment, f"{environment}.workflow-events", places)
        prefix = f"{self._run}.{scenario.name}.{system}.{part}"
        topic_in = backlog or self._topics.make(f"{prefix}.in", scenario.partitions)
        return Stand(prefix, topic_in, (self._topics.make(f"{prefix}.out", scenario.partitions),))

    def _system(self, scenario: Scenario, name: str, stand: Stand, part: str, profile: Path | None = None) -> System:
        job = Job(
            bootstrap=self._broker.bootstrap,
            environment=stand.prefix,
            topic_in=stand.topic_in,
            topic_out=stand.topics_out[0],
            group=f"{stand.prefix}.group",
            partitions=scenario.partitions,
            keys=scenario.keys,
            work_s=scenario.work_s,
            headers=scenario.shape is not Shape.VALUE,
            variant=SYSTEMS[name].variant,
            profile=profile and str(profile.resolve()),
        )
        return System(SYSTEMS[name].module, job, self._logs / f"{scenario.name}-{name}-{part}.log")

    def _backlog_run(self, scenario: Scenario, name: str, backlog: str | None, row: Row, part: str) -> Throughput:
        stand = self._stand(scenario, name, part, backlog)
        if backlog is None:
            load.preload(self._broker.bootstrap, stand.topic_in, scenario)
        with Watcher(self._broker.bootstrap, stand.topics_out, scenario, eager=False) as watcher:
            with self._system(scenario, name, stand, part) as system:
                watched = Watched(system.pid, self._broker.pid, system.check)
                run = watcher.throughput(scenario, watched, PATIENCE_S)
            row.process_cpu_s = round(system.cpu_total_s, 2)
            if system.ending:
                row.violations.append(system.ending)
            watcher.drain()
            _judge(watcher, row, "backlog")
            row.complete |= watcher.checks.distinct == scenario.records
            row.places = {topic.removeprefix(f"{stand.prefix}."): n for topic, n in watcher.places.items()}
            if scenario.shape is Shape.TICKET:
                _judge_exits(row)
        self._topics.drop(stand.prefix)
        return run

    def _profiled(self, scenario: Scenario, name: str, backlog: str | None, row: Row) -> None:
        """Once more, under a profiler: its rate does not count."""
        scenario = replace(scenario, window_s=scenario.window_s / 2)
        stand = self._stand(scenario, name, "profile", backlog)
        if backlog is None:
            load.preload(self._broker.bootstrap, stand.topic_in, scenario)
        out = self._logs / f"{scenario.name}-{name}-profile.txt"
        with (
            Watcher(self._broker.bootstrap, stand.topics_out, scenario, eager=False) as watcher,
            self._system(scenario, name, stand, "profile", out) as system,
        ):
            watcher.throughput(scenario, Watched(system.pid, self._broker.pid, system.check), PATIENCE_S)
        if system.ending:
            row.violations.append(system.ending)
        self._topics.drop(stand.prefix)
        row.notes.append(f"where the time goes: {out}")

    def _latency(self, scenario: Scenario, name: str, row: Row) -> None:
        stand = self._stand(scenario, name, "paced", None)
        with (
            Watcher(self._broker.bootstrap, stand.topics_out, scenario, eager=True) as watcher,
            self._system(scenario, name, stand, "paced") as system,
        ):
            load.warm_up(self._broker.bootstrap, stand.topic_in, scenario)
            watcher.await_warm_up(system.check)
            rate = min(scenario.paced_per_s, (row.events_per_s or scenario.paced_per_s) / 2)
            self._pace(scenario, row, watcher, Pace(stand.topic_in, rate, system.check))
        self._topics.drop(stand.prefix)

    def _direct(self, scenario: Scenario) -> Row:
        """The floor of every latency here: loader to watcher through the broker alone."""
        row = Row(scenario.name, "direct")
        topic = self._topics.make(f"{self._run}.{scenario.name}.direct", scenario.partitions)
        with Watcher(self._broker.bootstrap, [topic], scenario, eager=True) as watcher:
            load.warm_up(self._broker.bootstrap, topic, scenario)
            watcher.await_warm_up(lambda: None)
            self._pace(scenario, row, watcher, Pace(topic, scenario.paced_per_s, lambda: None))
        self._topics.drop(topic)
        row.complete = not row.violations
        return row

    def _pace(self, scenario: Scenario, row: Row, watcher: Watcher, pace: Pace) -> None:
        job = {
            "bootstrap": self._broker.bootstrap,
            "topic": pace.topic,
            "scenario": asdict(scenario),
            "per_s": pace.per_s,
            "seconds": scenario.paced_s,
        }
        expected = int(pace.per_s * scenario.paced_s)
        loader = subprocess.Popen([sys.executable, "-m", "tests.bench.load", json.dumps(job)], cwd=ROOT)
        try:
            found = watcher.latencies(expected, pace.check, PACED_PATIENCE_S)
        finally:
            if loader.wait(60) != 0:
                row.notes.append("the paced loader failed: latency does not count")
        row.paced_per_s, row.paced_events = round(pace.per_s, 1), len(found)
        p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
        row.p50_ms, row.p99_ms = p50 and round(p50, 2), p99 and round(p99, 2)
        _judge(watcher, row, "paced")
        if watcher.checks.distinct < expected:
            row.violations.append(f"paced: {expected - watcher.checks.distinct} of {expected} never came")


@contextmanager
def _giving_up(row: Row) -> Iterator[None]:
    """A system that died or stands still costs its own row only."""
    try:
        yield
    except (Died, TimeoutError) as error:
        row.notes.append(f"gave up: {error}")
        row.failed = True
        click.echo(f"  {row.system}: gave up")


def _settle(row: Row, runs: list[Throughput]) -> None:
    """The median run's numbers into the row."""
    if not runs:
        return
    row.runs_per_s = [round(run.events_per_s, 1) for run in runs]
    middle = next(run for run in runs if run.events_per_s == median_low(r.events_per_s for r in runs))
    row.events, row.window_s = middle.events, round(middle.seconds, 2)
    row.events_per_s = round(middle.events_per_s, 1)
    row.cpu_us_per_event = round(middle.cpu_s / middle.events * 1e6, 1)
    row.others_cpu_share = round(middle.others_cpu_share, 3)
    if middle.broker_cpu_share is not None:
        row.broker_cpu_share = round(middle.broker_cpu_share, 3)


def _judge_exits(row: Row) -> None:
    """The tickets are sound: a rate counts only when they went all the way, through the model to decisions."""
    if dead := row.places.get("dead-letter"):
        row.violations.append(f"{dead} good events became dead letters")
    decided, total = row.places.get("decisions", 0), sum(row.places.values())
    if decided < total / 2:
        row.violations.append(f"only {decided} of {total} became decisions: most left before the end")


def _judge(watcher: Watcher, row: Row, part: str) -> None:
    for name in ("gaps", "repeats", "reordered", "bare"):
        if count := getattr(watcher.checks, name):
            row.violations.append(f"{part}: {count} {name}")
