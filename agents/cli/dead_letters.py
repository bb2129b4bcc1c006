"""`lockgate dlq`: which records the machine failed on, why, and their bytes."""

import base64
import heapq
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import NothingFound, json_option, moment, print_json, print_table, progress, say, shown
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from confluent_kafka import Message

    from agents.cli.letters import Letter

TOPIC = "dead-letter"
_GROUPS = 1000
_DUMPED = 4096


@click.group()
def dlq() -> None:
    """Look at dead letters: records that the machine failed on, kept byte for byte."""


@dlq.command(name="list")
@click.option(
    "--limit", "-n", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="Newest letters."
)
@click.option("--all", "everything", is_flag=True, help="All letters, not only the newest.")
@json_option
@pass_invocation
def list_(invocation: Invocation, *, limit: int, everything: bool, as_json: bool) -> None:
    """Count dead letters by stage, class and cause, and list the newest with their places."""
    from agents.cli.letters import letter_of
    from pipeline.stream.reading import open_reader
    from pipeline.topics import load_topics

    settings = invocation.connected()
    pile = _Pile(None if everything else limit)
    with open_reader(settings, load_topics().physical(settings.environment, TOPIC)) as reader:
        bounds = reader.bounds()
        total = sum(partition.high - partition.low for partition in bounds.values())
        with progress("reading dead letters", total) as advance:
            for message in reader.read({number: partition.low for number, partition in bounds.items()}):
                pile.add(letter_of(message))
                advance(1)
    if as_json:
        print_json(pile.plain())
    elif pile.count == 0:
        click.echo("no dead letters")
    else:
        pile.print()


@dlq.command()
@click.argument("place", metavar="PARTITION:OFFSET")
@click.option(
    "--raw",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the value there, byte for byte, and the key to FILE.key.",
)
@json_option
@pass_invocation
def show(invocation: Invocation, *, place: str, raw: Path | None, as_json: bool) -> None:
    """Show one dead letter: its headers, its key and its value, as bytes and as text where they are text.

    PARTITION:OFFSET is its place, as `dlq list` prints it.
    """
    message = _letter_at(invocation, place)
    if raw is not None:
        _write_raw(message, raw)
    if as_json:
        print_json(_plain_letter(message))
    else:
        _print_letter(message)


@dataclass(slots=True)
class _Pile:
    """The letters, counted; of single ones only the newest `keep` stay in memory (None: all)."""

    keep: int | None
    count: int = 0
    groups: "Counter[tuple[str | None, str | None, str | None]]" = field(default_factory=Counter)
    newest_ms: "dict[tuple[str | None, str | None, str | None], int]" = field(default_factory=dict)
    ungrouped: int = 0
    _heap: "list[tuple[tuple[int, int, int], Letter]]" = field(default_factory=list)

    def add(self, letter: "Letter") -> None:
        self.count += 1
        group = (letter.stage, letter.failure, letter.cause)
        if group in self.groups or len(self.groups) < _GROUPS:
            self.groups[group] += 1
            self.newest_ms[group] = max(self.newest_ms.get(group, -1), letter.timestamp_ms)
        else:
            self.ungrouped += 1
        entry = ((letter.timestamp_ms, letter.partition, letter.offset), letter)
        if self.keep is None or len(self._heap) < self.keep:
            heapq.heappush(self._heap, entry)
        elif self.keep:
            heapq.heappushpop(self._heap, entry)

    def letters(self) -> "list[Letter]":
        """The kept ones, newest first."""
        return [letter for _, letter in sorted(self._heap, reverse=True)]

    def plain(self) -> dict[str, Any]:
        groups = [
            {
                "stage": stage,
                "class": failure,
                "cause": cause,
                "count": count,
                "newest_ms": self.newest_ms[stage, failure, cause],
            }
            for (stage, failure, cause), count in self.groups.most_common()
        ]
        letters = [_renamed(asdict(letter)) | {"place": letter.place} for letter in self.letters()]
        return {"count": self.count, "groups": groups, "ungrouped": self.ungrouped, "letters": letters}

    def print(self) -> None:
        print_table(
            ("STAGE", "CLASS", "CAUSE", ">COUNT", "NEWEST"),
            [(*group, count, moment(self.newest_ms[group])) for group, count in self.groups.most_common()],
        )
        if self.ungrouped:
            click.echo(f"... and {self.ungrouped:,} of other causes")
        letters = self.letters()
        if not letters:
            return
        click.echo()
        print_table(
            ("PLACE", "TIME", "STAGE", "CLASS", "CAUSE", "EVENT", "FROM"),
            [(x.place, moment(x.timestamp_ms), x.stage, x.failure, x.cause, _event(x), x.source) for x in letters],
        )
        left = f"{self.count - len(letters):,} older ones: --all lists them. " if self.count > len(letters) else ""
        click.echo(f"\n{left}`lockgate dlq show PLACE` shows one.")


def _event(letter: "Letter") -> str | None:
    if letter.event_id is None:
        return None
    return f"{letter.event_source or ''} {letter.event_id}".strip()


def _renamed(plain: dict[str, Any]) -> dict[str, Any]:
    return {"class" if name == "failure" else name: value for name, value in plain.items()}


def _letter_at(invocation: Invocation, place: str) -> "Message":
    from pipeline.stream.reading import open_reader
    from pipeline.topics import load_topics

    partition, offset = _parse_place(place)
    settings = invocation.connected()
    with open_reader(settings, load_topics().physical(settings.environment, TOPIC)) as reader:
        bounds = reader.bounds()
        if partition not in bounds:
            raise NothingFound(f"{reader.topic} has no partition {partition}: it has 0 to {max(bounds)}")
        kept = bounds[partition]
        if kept.low == kept.high:
            raise NothingFound(f"partition {partition} of {reader.topic} is empty")
        if not kept.low <= offset < kept.high:
            raise NothingFound(
                f"no letter at {place}: partition {partition} of {reader.topic} keeps offsets "
                f"{kept.low} to {kept.high - 1}"
            )
        message = reader.at(partition, offset)
    if message is None or message.offset() != offset:
        near = "" if message is None else f"; the next one is {partition}:{message.offset()}"
        raise NothingFound(f"no letter at {place}: that offset is a transaction's end, or was never committed{near}")
    return message


def _parse_place(place: str) -> tuple[int, int]:
    partition, sign, offset = place.rpartition(":")
    if not sign or not (partition.isascii() and partition.isdecimal() and offset.isascii() and offset.isdecimal()):
        raise ConfigError(f"{place!r} is no place: write PARTITION:OFFSET, such as 3:17, as `lockgate dlq list` does")
    return int(partition), int(offset)


def _write_raw(message: "Message", raw: Path) -> None:
    key_file = raw.with_name(f"{raw.name}.key")
    try:
        for content, path in ((message.value(), raw), (message.key(), key_file)):
            if content is None:
                # An empty file would claim that there were zero bytes; there is nothing at all.
                path.unlink(missing_ok=True)
                say(f"{path}: not written, the record has {'no value' if path is raw else 'no key'}")
            else:
                path.write_bytes(content)
                say(f"{path}: {len(content):,} bytes")
    except OSError as error:
        raise ConfigError(f"--raw {raw} cannot be written: {error.strerror}") from None


def _plain_letter(message: "Message") -> dict[str, Any]:
    from agents.cli.letters import letter_of, split_headers

    own, added = split_headers(message.headers() or ())
    return _renamed(asdict(letter_of(message))) | {
        "key": _plain_bytes(message.key()),
        "value": _plain_bytes(message.value()),
        "headers": [{"name": name, "content": _plain_bytes(content)} for name, content in own],
        "letter_headers": [{"name": name, "content": _plain_bytes(content)} for name, content in added],
    }


def _plain_bytes(content: bytes | None) -> dict[str, str | None] | None:
    from agents.cli.letters import readable

    if content is None:
        return None
    return {"base64": base64.b64encode(content).decode(), "text": readable(content)}


def _print_letter(message: "Message") -> None:
    from agents.cli.letters import letter_of, split_headers

    letter = letter_of(message)
    own, added = split_headers(message.headers() or ())
    click.echo(f"dead letter {letter.place}, {moment(letter.timestamp_ms)}")
    for title, headers in (("why it died", added), ("its own headers", own)):
        click.echo(f"\n{title}:" + ("" if headers else " none"))
        width = max((len(shown(name)) for name, _ in headers), default=0)
        for name, content in headers:
            click.echo(f"  {shown(name):{width}}  {_header(content)}")
    _print_bytes("key", message.key())
    _print_bytes("value", message.value())


def _header(content: bytes | None) -> str:
    from agents.cli.letters import readable

    text = readable(content)
    if content is None or text is not None:
        return shown(text)
    return f"{content.hex(' ')} (bytes)"


def _print_bytes(title: str, content: bytes | None) -> None:
    from agents.cli.letters import hexdump, readable

    if content is None:
        click.echo(f"\n{title}: none")
        return
    click.echo(f"\n{title}: {len(content):,} bytes")
    for line in hexdump(content, _DUMPED):
        click.echo(f"  {line}")
    text = readable(content)
    if text:
        click.echo("  as text:")
        for line in text[:_DUMPED].splitlines():
            click.echo(f"  {shown(line)}")
