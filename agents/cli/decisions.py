"""`lockgate decisions`: what the pipeline has decided, as downstream systems see it."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import ExitCode, json_option, moment, print_json, say, shown

if TYPE_CHECKING:
    from confluent_kafka import Message

    from pipeline.records import Decision
    from pipeline.stream.reading import TopicReader

_LINE = "{at:20}  {place:>10}  {subject:20.20}  {action:18.18}  {sure:>5}  {by:14.14}  {id:32}  {answer:.160}"


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with those to come, until Ctrl-C.")
@click.option("--limit", "-n", type=click.IntRange(0), metavar="N", help="Only the newest N. Default: all there are.")
@json_option
@pass_invocation
def decisions(invocation: Invocation, *, follow: bool, limit: int | None, as_json: bool) -> None:
    """Print decisions as they were published: only those of committed transactions.

    Those of one subject come in order. With --json, one JSON object a line. Exit code 1 when records of the topic are
    no decisions; they are named on stderr.
    """
    from pipeline.codec import Codec
    from pipeline.errors import DecodeError
    from pipeline.stream.reading import open_reader
    from pipeline.topics import load_topics

    settings = invocation.connected()
    codec = Codec()
    strange = 0
    with ExitStack() as stack:
        if follow:
            stack.enter_context(suppress(KeyboardInterrupt))  # the way to end it, so it is no failure
        reader = stack.enter_context(open_reader(settings, load_topics().physical(settings.environment, "decisions")))
        if not as_json:
            click.echo(
                _LINE.format(
                    at="TIME", place="PLACE", subject="SUBJECT", action="ACTION", sure="SURE", by="DECIDED BY",
                    id="DECISION", answer="ANSWER",
                )
            )  # fmt: skip
        for message in _messages(reader, follow=follow, limit=limit):
            try:
                decision = codec.decode_decision(message.value() or b"")
            except DecodeError as error:
                strange += 1
                say(f"lockgate: {message.partition()}:{message.offset()} is no decision: {error}")
                continue
            if as_json:
                print_json(_plain(message, decision))
            else:
                click.echo(_line(message, decision))
    if strange:
        click.get_current_context().exit(ExitCode.FAILED)


def _messages(reader: "TopicReader", *, follow: bool, limit: int | None) -> "Iterator[Message]":
    if limit is None:
        starts = {number: bounds.low for number, bounds in reader.bounds().items()}
        yield from reader.follow(starts) if follow else reader.read(starts)
        return
    yield from reader.newest(limit)
    if follow:
        yield from reader.follow(reader.reached)


def _plain(message: "Message", decision: "Decision") -> dict[str, Any]:
    position = {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
    }
    return position | asdict(decision)


def _line(message: "Message", decision: "Decision") -> str:
    from pipeline.codec import json_text

    return _LINE.format(
        at=moment(message.timestamp()[1]),
        place=f"{message.partition()}:{message.offset()}",
        subject=shown(decision.subject),
        action=shown(decision.action),
        sure="-" if decision.confidence is None else f"{decision.confidence:.2f}",
        by=shown(decision.decided_by),
        id=shown(decision.decision_id),
        answer=shown(json_text.dump(decision.answer)),
    ).rstrip()
