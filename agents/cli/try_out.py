"""`lockgate try`: where the events of a file would go, and why, without Kafka."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import ExitCode, NothingFound, json_option, print_json, print_table, progress, say, shown
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from agents.cli.drafting import Draft
    from agents.dry_run import Trial
    from pipeline.config import Settings
    from pipeline.context.entries import Entries
    from pipeline.steps.enrich import LookedUp
    from pipeline.workflow import Workflow

_PARTITION = 0
_TOPIC = "workflow-events"


@click.command(
    name="try",
    epilog="""
\b
FILE is written as for `lockgate publish`, with the same --map, --source and --type; what brings no type is of the
type that WORKFLOW takes. Context is written as for `lockgate context load`. Repeats within FILE are recognised.
Example: lockgate try ticket_triage messages.jsonl --context customers=customers.jsonl
""",
)
@click.argument("workflow", metavar="WORKFLOW")
@click.argument("file", metavar="FILE")
@click.option(
    "--context",
    "contexts",
    multiple=True,
    metavar="NAME=FILE",
    help="What is known: customers=FILE. Or a folder that holds NAME.jsonl files. Repeatable; without it, nothing.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "jsonl", "csv", "avro"]),
    default="auto",
    show_default=True,
    help="How FILE is written.",
)
@click.option("--map", "maps", multiple=True, metavar="FIELD=COLUMN", help="What becomes what, as in publish.")
@click.option("--source", metavar="URI", default="/try", show_default=True, help="source of events that bring none.")
@click.option("--type", "type_", metavar="TYPE", help="type of events that bring none.")
@click.option(
    "--workflows",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where WORKFLOW is, when it does not ship with Lockgate.",
)
@json_option
@pass_invocation
def try_out(
    invocation: Invocation,
    *,
    workflow: str,
    file: str,
    contexts: tuple[str, ...],
    form: str,
    maps: tuple[str, ...],
    source: str,
    type_: str | None,
    workflows: Path | None,
    as_json: bool,
) -> None:
    """Run the events of FILE (- for stdin) through the steps of WORKFLOW, and show where each would go and why.

    No Kafka is needed, and nothing is written. With --json, one JSON object a line. Exit code 1 when lines of FILE
    could not be published; they are named on stderr.
    """
    settings = invocation.settings()
    declared = _workflow(workflow, workflows)
    now_ms = round(time.time() * 1000)
    sources = _sources(declared, contexts, now_ms)
    reading = _Reading(file, form, maps, {"source": source, "type": type_ or declared.event_type}, declared)
    counts: Counter[str] = Counter()
    rows: list[tuple[object, ...]] = []
    with progress("trying") as advance:
        for draft, trial in _trials(settings, declared, sources, reading, now_ms):
            plain = _plain(draft, trial)
            counts[plain["place"]] += 1
            advance(1)
            if as_json:
                print_json(plain)
            else:
                rows.append(_row(plain))
    if not rows and not counts and not reading.bad:
        raise NothingFound(f"{file} holds no events")
    if not as_json:
        print_table(("LINE", "EVENT", "GOES TO", "AT", "WHY", "ACTION", ">SURE"), rows)
        click.echo("\n" + ", ".join(f"{place.replace('_', ' ')} {count:,}" for place, count in counts.most_common()))
    if reading.bad:
        say(f"lockgate: {reading.bad:,} lines could not be published, and were passed over")
        click.get_current_context().exit(ExitCode.FAILED)


class _Reading:
    """The events of the file as publish would write them. Lines that it would refuse are said and counted."""

    def __init__(
        self, file: str, form: str, maps: tuple[str, ...], defaults: Mapping[str, str], workflow: "Workflow"
    ) -> None:
        from agents.cli.mapping import parse_rules
        from agents.cli.sources import form_of

        self._file = file
        self._form = form_of(file, form)
        self._map = parse_rules(maps)
        self._defaults = defaults
        self._schema = workflow.event_schema
        self.bad = 0

    def drafts(self) -> "Iterator[Draft]":
        from agents.cli.drafting import Drafting
        from agents.cli.mapping import RowIds, Unfit, map_by_name, refuse_unknown_columns
        from agents.cli.sources import Form, open_input, read_table
        from pipeline.codec import Codec
        from pipeline.topics import load_topics

        ids = RowIds()
        with open_input(self._file) as stream:
            delimiter = "\t" if self._file.lower().endswith(".tsv") else ","
            table = read_table(stream, self._form, delimiter)
            mapping = self._map
            if self._form is Form.CSV and table.columns is not None:
                mapping = mapping or map_by_name(table.columns)
                refuse_unknown_columns(mapping, table.columns)
            size = load_topics()[_TOPIC].max_message
            drafting = Drafting(Codec(), self._form, mapping, self._defaults, self._schema, size)
            for row in table.rows:
                try:
                    yield drafting.draft(row, ids)
                except Unfit as fault:
                    self.bad += 1
                    say(f"line {row.line}: {shown(fault)}")


class _FileSource:
    """A context source that holds what a file says."""

    def __init__(self, entries: "Entries") -> None:
        self._entries = entries
        self.name = entries.name

    async def lookup(self, key: str) -> "LookedUp":
        return self._entries.find(key)

    async def close(self) -> None:
        return None


def _workflow(name: str, folder: Path | None) -> "Workflow":
    import pipeline.workflows
    from pipeline.config import nearest
    from pipeline.workflow import load_workflows

    declared = load_workflows(folder or Path(pipeline.workflows.__file__).parent)
    by_name = {workflow.name: workflow for workflow in declared.values()}
    if name not in by_name:
        raise NothingFound(f"no workflow {shown(name)}; {nearest(name, by_name)} --workflows DIR names another folder")
    return by_name[name]


def _sources(workflow: "Workflow", contexts: tuple[str, ...], now_ms: int) -> dict[str, _FileSource]:
    """A source for each topic that the workflow looks at; one without a file knows nothing."""
    from agents.cli.context_lines import context_drafts
    from agents.cli.sources import open_input
    from pipeline.config import nearest
    from pipeline.context.entries import Entries, ViewLimits

    wanted = {rule.source for rule in workflow.context}
    files = _files(contexts)
    for name in files:
        if name not in wanted and not _is_folder(contexts, files[name]):
            raise ConfigError(f"--context {name}: {workflow.name} looks at no such context; {nearest(name, wanted)}")
    sources: dict[str, _FileSource] = {}
    for name in sorted(wanted):
        entries = Entries(f"context-{name}", ViewLimits())
        entries.add_partitions([_PARTITION])
        if name in files:
            with open_input(str(files[name])) as stream:
                for draft in context_drafts(stream, str(files[name]), now_ms, objects_only=False):
                    entries.put(_PARTITION, draft.line, draft.timestamp_ms, draft.key, draft.value)
        sources[f"context-{name}"] = _FileSource(entries)
    return sources


def _files(contexts: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for text in contexts:
        name, sign, path = text.partition("=")
        folder = Path(text)
        if folder.is_dir():
            found = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
        elif sign and name and path:
            found = {name: Path(path)}
        else:
            raise ConfigError(f"--context {text!r}: write NAME=FILE, such as customers=customers.jsonl, or a folder")
        if twice := sorted(files.keys() & found.keys()):
            raise ConfigError(f"--context names {', '.join(twice)} twice")
        files |= found
    return files


def _is_folder(contexts: tuple[str, ...], file: Path) -> bool:
    return str(file.parent) in {str(Path(text)) for text in contexts}


def _trials(
    settings: "Settings", workflow: "Workflow", sources: Mapping[str, _FileSource], reading: _Reading, now_ms: int
) -> "Iterator[tuple[Draft, Trial]]":
    """One event after the other, on an event loop that the providers share."""
    from agents.app import provider_of
    from agents.dry_run import DryRun
    from agents.ports import Ports
    from pipeline.records import Position

    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        async def start() -> tuple[Ports, DryRun]:
            ports = Ports({workflow.event_type: workflow}, {workflow.name: provider_of(workflow, settings)}, sources)
            return ports, DryRun(ports)

        ports, dry_run = runner.run(start())
        stack.callback(lambda: runner.run(ports.close()))
        for draft in reading.drafts():
            assert draft.value is not None, "an event that can be published has a value"
            event = ports.codec.decode_event(draft.value, draft.headers, draft.key)
            origin = Position(_TOPIC, _PARTITION, draft.line, now_ms)
            yield draft, runner.run(dry_run.run(event, origin, draft.key, draft.value, now_ms))


def _plain(draft: "Draft", trial: "Trial") -> dict[str, Any]:
    from dataclasses import asdict

    from agents.dry_run import place_of, reasons_of
    from pipeline.records import Decision

    said = dict(draft.headers)
    case = trial.case
    inference = None if case is None else case.inference
    return {
        "line": draft.line,
        "source": (said["ce_source"] or b"").decode(),
        "event_id": (said["ce_id"] or b"").decode(),
        "place": place_of(trial.settled),
        "stage": trial.stage,
        "reasons": list(reasons_of(trial.settled)),
        "action": trial.settled.action if isinstance(trial.settled, Decision) else None,
        "inference": None if inference is None else asdict(inference),
        "context": [] if case is None else [asdict(fact) for fact in case.context],
        "checks": [] if case is None else [asdict(result) for result in case.checks],
    }


def _row(plain: dict[str, Any]) -> tuple[object, ...]:
    inference = plain["inference"]
    proposed = None if inference is None else inference["answer"].get("action")
    sure = None if inference is None else inference["confidence"]
    return (
        str(plain["line"]),
        f"{plain['source']} {plain['event_id']}",
        plain["place"].replace("_", " "),
        plain["stage"],
        ", ".join(plain["reasons"]),
        plain["action"] or (f"({proposed})" if proposed else None),
        "-" if sure is None else f"{sure:.2f}",
    )
