"""Writes what was measured: bench.json for programs, the details beside it, and a table for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.scenarios import SCENARIOS
from tests.bench.systems import SYSTEMS

_PUBLISHED = ("scenario", "system", "events_per_s", "cpu_us_per_event", "p50_ms", "p99_ms", "broker_cpu_share")


@dataclass(slots=True)
class Row:
    """One system in one scenario. The first seven fields are bench.json; None is `not measured` (see `notes`)."""

    scenario: str
    system: str
    events_per_s: float | None = None
    cpu_us_per_event: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    broker_cpu_share: float | None = None
    events: int = 0
    window_s: float = 0.0
    others_cpu_share: float | None = None
    process_cpu_s: float | None = None
    paced_per_s: float | None = None
    paced_events: int = 0
    complete: bool = False
    """All records came out; else what came until the window closed was checked."""
    failed: bool = False
    places: dict[str, int] = field(default_factory=dict)
    runs_per_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write(rows: Sequence[Row], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    published = [{name: getattr(row, name) for name in _PUBLISHED} for row in rows if row.system != "direct"]
    out.write_text(json.dumps(published, indent=1) + "\n", encoding="utf-8")
    details = [asdict(row) for row in rows]
    out.with_name(out.stem + "-details.json").write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")


def show(rows: Sequence[Row]) -> None:
    console = Console(width=160)
    table = Table(title="Lockgate beside its peers")
    for name in ("scenario", "system"):
        table.add_column(name)
    for name in ("events/s", "of ceiling", "us CPU/event", "p50 ms", "p99 ms", "at /s"):
        table.add_column(name, justify="right")
    for name in ("broker CPU", "others", "measured on", "right?"):
        table.add_column(name, justify="right")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.scenario != row.scenario:
            table.add_section()
        scenario = SCENARIOS[row.scenario]
        ceiling = scenario.ceiling and row.events_per_s and row.events_per_s / scenario.ceiling
        table.add_row(
            row.scenario,
            row.system,
            _number(row.events_per_s, ",.0f"),
            _number(ceiling, ".0%"),
            _number(row.cpu_us_per_event, ",.1f"),
            _number(row.p50_ms, ",.1f"),
            _number(row.p99_ms, ",.1f"),
            _number(row.paced_per_s, ",.0f"),
            _number(row.broker_cpu_share, ".0%"),
            _number(row.others_cpu_share, ".0%"),
            f"{row.events:,} in {row.window_s:.1f} s" if row.events else "-",
            "no: see below" if row.violations else "all" if row.complete else "so far",
        )
    console.print(table)
    for line in ratios(rows):
        console.print(line)
    for row in rows:
        if len(row.places) > 1:
            console.print(f"{row.scenario}/{row.system}: " + ", ".join(f"{n:,} {at}" for at, n in row.places.items()))
        for note in row.violations + row.notes:
            console.print(f"{row.scenario}/{row.system}: {note}", markup=False)
    for name in dict.fromkeys(row.system for row in rows):
        if (entry := SYSTEMS.get(name)) and rows:
            console.print(f"{name}: {entry.how}. Promise: {entry.promise}.", markup=False)


def ratios(rows: Sequence[Row]) -> list[str]:
    """Lockgate's rate over each peer's, and over the ceiling, scenario by scenario."""
    lines = []
    for scenario in dict.fromkeys(row.scenario for row in rows):
        rates = {row.system: row.events_per_s for row in rows if row.scenario == scenario and row.events_per_s}
        ours = rates.get("lockgate")
        if ours is None:
            continue
        parts = [f"{ours / rate:.2f} x {system}" for system, rate in rates.items() if system != "lockgate"]
        if ceiling := SCENARIOS[scenario].ceiling:
            parts.append(f"{ours / ceiling:.2f} of keys/latency")
        lines.append(f"{scenario}: lockgate runs at " + ", ".join(parts or ["(no peer measured)"]))
    return lines


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
