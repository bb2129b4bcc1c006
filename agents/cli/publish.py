"""`lockgate publish`: a file of events into workflow-events, checked as a whole before the first one is sent."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import (
    ExitCode,
    NothingFound,
    json_option,
    print_json,
    progress,
    say,
    shown,
)
from pipeline.config import Settings
from pipeline.errors import ConfigError, LockgateError

if TYPE_CHECKING:
    from agents.cli.drafting import Draft, Drafting
    from agents.cli.mapping import RowMap
    from agents.cli.sources import Table

TOPIC = "workflow-events"
SHOWN_FAULTS = 20


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the first pass found."""

    good: int
    bad: int

    @property
    def rows(self) -> int:
        return self.good + self.bad


@click.command(
    epilog="""
\b
Lines of JSON are CloudEvents: {"id": "t-1", "source": "/shop", "type": "com.bank.message.received",
"subject": "c-7", "time": "2026-01-31T09:30:00Z", "data": {"text": "...", "channel": "chat"}}.
id, source, type and data must be there (source and type may come from the options). subject is the key of the
record: events of one subject keep their order, events without subject have none.
\b
CSV needs a header. Without --map, each column is the attribute or the data field of its name. An empty cell
is a value that is not there. With --map, only what is mapped is used; --map works for JSON and Avro too:
  --map text=body       the data field text is the column body
  --map subject=name    attributes: id, source, type, subject, time
  --map channel==chat   the same text in every event
  --map id=@hash        an id made of the row: SHA-256 of its text, and which occurrence of that text it is. The
                        same file gives the same ids again, and equal rows stay distinct.
  --map data.id=ticket  a data field whose name is also an attribute's
\b
Publishing a file again is safe: what is published already is recognised by source and id.
Example: lockgate publish train.csv --source /bank --type com.bank.message.received \\
           --map text=text --map channel==chat --map id=@hash
"""
)
@click.argument("file", metavar="FILE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "jsonl", "csv", "avro"]),
    default="auto",
    show_default=True,
    help="How FILE is written; auto goes by its suffix, and takes JSON lines on stdin (-).",
)
@click.option("--map", "maps", multiple=True, metavar="FIELD=COLUMN", help="What becomes what; repeatable, see below.")
@click.option("--delimiter", metavar="CHAR", help="Between the cells of a CSV. Default: comma, in .tsv the tab.")
@click.option("--source", metavar="URI", help="source of events that bring none.")
@click.option("--type", "type_", metavar="TYPE", help="type of events that bring none.")
@click.option(
    "--encoding",
    type=click.Choice(["avro", "json"]),
    default="avro",
    show_default=True,
    help="How the data lie in Kafka: Avro in Confluent wire format, or JSON.",
)
@click.option("--schema", default="ticket", show_default=True, metavar="NAME", help="Avro schema, as under schemas/.")
@click.option("--check", is_flag=True, help="Only check the file: no broker is needed, nothing is sent.")
@click.option(
    "--skip-bad",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write lines that cannot be published here, as they are, and publish the others.",
)
@json_option
@pass_invocation
def publish(
    invocation: Invocation,
    *,
    file: str,
    form: str,
    maps: tuple[str, ...],
    delimiter: str | None,
    source: str | None,
    type_: str | None,
    encoding: str,
    schema: str,
    check: bool,
    skip_bad: Path | None,
    as_json: bool,
) -> None:
    """Publish the events of FILE (- for stdin): JSON lines, CSV or Avro.

    The whole file is checked first: one bad line, and nothing is published, unless --skip-bad says where the bad
    ones go. Then the number of events, the seconds and the rate are printed.
    """
    from agents.cli.drafting import Drafting
    from agents.cli.mapping import map_by_name, parse_rules, refuse_unknown_columns
    from agents.cli.sources import Form, form_of, open_input, read_table
    from pipeline.codec import Codec
    from pipeline.topics import load_topics

    form_ = form_of(file, form)
    delimiter = delimiter or ("\t" if file.lower().endswith(".tsv") else ",")
    if len(delimiter) != 1:
        raise ConfigError(f"--delimiter must be one character, not {delimiter!r}")
    row_map = parse_rules(maps)
    settings = invocation.settings() if check else invocation.connected()
    topics = load_topics()
    topic = topics.physical(settings.environment, TOPIC)
    max_bytes = topics[TOPIC].max_message
    codec = Codec()
    schema_name = codec.schemas.newest(schema).name if encoding == "avro" else None
    defaults = {name: text for name, text in (("source", source), ("type", type_)) if text}

    with ExitStack() as stack:
        stream = stack.enter_context(open_input(file))
        if skip_bad is not None and skip_bad.exists() and file != "-" and skip_bad.samefile(file):
            raise ConfigError(f"--skip-bad {skip_bad} is the file that is published: name another")

        def table() -> "tuple[Table, Drafting]":
            stream.seek(0)
            read = read_table(stream, form_, delimiter)
            mapping: RowMap | None = row_map
            if form_ is Form.CSV and read.columns is not None:
                mapping = row_map or map_by_name(read.columns)
                refuse_unknown_columns(mapping, read.columns)
            return read, Drafting(codec, form_, mapping, defaults, schema_name, max_bytes)

        checked = _check(table, skip_bad)
        if checked.rows == 0:
            raise NothingFound(f"{file} holds no events")
        if check or (checked.bad and skip_bad is None):
            _report_check(checked, as_json=as_json, only=check)
            return
        if checked.good == 0:
            raise LockgateError(f"every line of {file} is bad: nothing was published, see {skip_bad}")
        _publish(settings, topic, max_bytes, table, checked, as_json=as_json)


def _check(table: "Callable[[], tuple[Table, Drafting]]", skip_bad: Path | None) -> _Checked:
    """Reads everything once. Says what is wrong with the bad lines, and writes them to `skip_bad`."""
    from agents.cli.mapping import RowIds, Unfit
    from agents.cli.sources import Form

    read, drafting = table()
    ids = RowIds()
    good = bad = 0
    place = "record" if read.form is Form.AVRO else "line"
    with ExitStack() as stack:
        kept = stack.enter_context(_open_kept(skip_bad, read.header)) if skip_bad is not None else None
        advance = stack.enter_context(progress("checking"))
        for row in read.rows:
            try:
                drafting.draft(row, ids)
                good += 1
            except Unfit as fault:
                bad += 1
                if bad <= SHOWN_FAULTS:
                    text = shown(fault)
                    say(f"{place} {row.line}{', ' if text.startswith('column ') else ': '}{text}")
                if kept is not None:
                    kept.write(row.text + b"\n")
            advance(1)
    if bad > SHOWN_FAULTS:
        say(
            f"... and {bad - SHOWN_FAULTS:,} more bad {place}s"
            + ("" if skip_bad else "; --skip-bad FILE writes them all")
        )
    return _Checked(good, bad)


def _open_kept(path: Path, header: bytes | None) -> BinaryIO:
    try:
        kept = path.open("wb")
    except OSError as error:
        raise ConfigError(f"--skip-bad {path} cannot be written: {error.strerror}") from None
    if header is not None:
        kept.write(header + b"\n")
    return kept


def _report_check(checked: _Checked, *, as_json: bool, only: bool) -> None:
    if as_json:
        counts = {"good": checked.good} if only else {"published": 0}
        print_json(counts | {"rejected": checked.bad})
    elif only:
        click.echo(f"{checked.good:,} good, {checked.bad:,} bad")
    if checked.bad:
        if not only:
            say(
                f"lockgate: {checked.bad:,} bad of {checked.rows:,}: nothing was published. "
                "Mend them, or add --skip-bad FILE"
            )
        click.get_current_context().exit(ExitCode.FAILED)


def _publish(
    settings: Settings,
    topic: str,
    max_bytes: int,
    table: "Callable[[], tuple[Table, Drafting]]",
    checked: _Checked,
    *,
    as_json: bool,
) -> None:
    from agents.cli.sending import require_topic, send

    require_topic(settings, topic)
    began = time.monotonic()
    with progress(f"publishing to {topic}", checked.good) as advance:
        published = send(settings, topic, _drafts(table, checked), max_bytes, advance)
    seconds = time.monotonic() - began
    rate = published / seconds
    if as_json:
        print_json(
            {
                "topic": topic,
                "published": published,
                "rejected": checked.bad,
                "seconds": round(seconds, 3),
                "rate": round(rate, 1),
            }
        )
    else:
        click.echo(
            f"{published:,} published to {topic}, {checked.bad:,} rejected, {seconds:.1f} s, {rate:,.0f} events/s"
        )


def _drafts(table: "Callable[[], tuple[Table, Drafting]]", checked: _Checked) -> "Iterator[Draft]":
    """The good rows again, and no more than were checked, should the file have grown."""
    from agents.cli.mapping import RowIds, Unfit

    read, drafting = table()
    ids = RowIds()
    bad = rows = 0
    for row in islice(read.rows, checked.rows):
        rows += 1
        try:
            draft = drafting.draft(row, ids, check=checked.bad > 0)
        except Unfit:
            bad += 1
        else:
            yield draft
    if (bad, rows) != (checked.bad, checked.rows):
        say("lockgate: the file changed while it was read: check it, and publish it again")
