"""`lockgate outcomes`: what downstream systems report of decisions."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import ExitCode, NothingFound, json_option, moment, print_json, print_table, progress, say

if TYPE_CHECKING:
    from pipeline.records import DecisionOutcome

TOPIC = "decision-outcomes"


@click.command()
@click.option("--decision", metavar="DECISION", help="Only what became of this decision.")
@click.option("--limit", "-n", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="Newest ones.")
@json_option
@pass_invocation
def outcomes(invocation: Invocation, *, decision: str | None, limit: int, as_json: bool) -> None:
    """Count what became of decisions downstream, with the cost, and list the newest reports.

    A report that came more than once counts once. Exit code 1 when records of the topic are no reports; they are
    named on stderr. Exit code 5 when nothing was reported of --decision.
    """
    from pipeline.codec import Codec
    from pipeline.errors import DecodeError
    from pipeline.stream.reviews import scan

    settings = invocation.connected()
    codec = Codec()
    reports: dict[tuple[str, int, str, str], DecisionOutcome] = {}
    repeats = strange = 0
    with progress("reading outcomes") as advance:
        for message in scan(settings, TOPIC):
            advance(1)
            try:
                report = codec.decode_outcome(message.value() or b"")
            except DecodeError as error:
                strange += 1
                say(f"lockgate: {message.partition()}:{message.offset()} is no outcome: {error}")
                continue
            if decision is not None and report.decision_id != decision:
                continue
            name = (report.decision_id, report.revision, report.outcome.value, report.reported_by)
            repeats += name in reports
            reports.setdefault(name, report)
    if decision is not None and not reports:
        raise NothingFound(f"nothing was reported of decision {decision} in {settings.environment}.{TOPIC}")
    newest = sorted(reports.values(), key=lambda report: report.at_ms, reverse=True)
    if as_json:
        print_json(
            {
                "count": len(reports),
                "repeats": repeats,
                "totals": _totals(newest),
                "newest": [_plain(report) for report in newest[:limit]],
            }
        )
    else:
        _print(newest, limit, repeats)
    if strange:
        click.get_current_context().exit(ExitCode.FAILED)


def _totals(reports: "list[DecisionOutcome]") -> dict[str, dict[str, float]]:
    totals: dict[str, dict[str, float]] = defaultdict(lambda: {"count": 0, "cost": 0.0})
    for report in reports:
        total = totals[report.outcome.value]
        total["count"] += 1
        total["cost"] = round(total["cost"] + (report.cost or 0.0), 6)
    return dict(sorted(totals.items()))


def _plain(report: "DecisionOutcome") -> dict[str, Any]:
    return {
        "decision_id": report.decision_id,
        "revision": report.revision,
        "outcome": report.outcome.value,
        "cost": report.cost,
        "at_ms": report.at_ms,
        "reported_by": report.reported_by,
    }


def _print(newest: "list[DecisionOutcome]", limit: int, repeats: int) -> None:
    if not newest:
        click.echo("no outcomes were reported")
        return
    print_table(
        ("OUTCOME", ">COUNT", ">COST"),
        [(name, round(total["count"]), f"{total['cost']:,.2f}") for name, total in _totals(newest).items()],
    )
    if repeats:
        click.echo(f"\nrepeated reports, left out: {repeats:,}")
    if limit:
        click.echo()
        print_table(
            ("TIME", "DECISION", ">REVISION", "OUTCOME", ">COST", "BY"),
            [
                (
                    moment(report.at_ms),
                    report.decision_id,
                    report.revision,
                    report.outcome.value,
                    "-" if report.cost is None else f"{report.cost:,.2f}",
                    report.reported_by,
                )
                for report in newest[:limit]
            ],
        )
