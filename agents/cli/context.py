"""`lockgate context load`: what enrichment is to know of customers or products, from a file into its topic."""

import time
from typing import TYPE_CHECKING

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import NothingFound, json_option, print_json, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agents.cli.drafting import Draft


@click.group()
def context() -> None:
    """What enrichment knows of customers, products and the like."""


@context.command(
    epilog="""
\b
Each line: {"key": "c-1", "age_days": 2, "value": {"customer_id": "c-1", "segment": "retail"}}.
age_days makes the record as old as that; without it, it is new. The value null takes the key back. Workers learn of
it at once.
"""
)
@click.argument("name")
@click.argument("file", metavar="FILE")
@json_option
@pass_invocation
def load(invocation: Invocation, *, name: str, file: str, as_json: bool) -> None:
    """Load FILE (- for stdin; JSON lines) into the context NAME: customers, products.

    The whole file is checked first: one bad line, and nothing is loaded. The newest value of a key counts.
    """
    from agents.cli.context_lines import context_drafts
    from agents.cli.sending import require_topic, send
    from agents.cli.sources import open_input
    from pipeline.topics import load_topics

    topics = load_topics()
    declared = topics[f"context-{name}"]
    settings = invocation.connected()
    topic = topics.physical(settings.environment, declared.name)
    now_ms = round(time.time() * 1000)
    with open_input(file) as stream:

        def drafts() -> "Iterator[Draft]":
            stream.seek(0)
            return context_drafts(stream, file, now_ms, declared.max_message)

        values = deletions = 0
        for draft in drafts():
            values += draft.value is not None
            deletions += draft.value is None
        if values + deletions == 0:
            raise NothingFound(f"{file} holds nothing to load")
        require_topic(settings, topic)
        with progress(f"loading into {topic}", values + deletions) as advance:
            send(settings, topic, drafts(), declared.max_message, advance)
    if as_json:
        print_json({"topic": topic, "loaded": values, "deleted": deletions})
    else:
        click.echo(f"{values:,} loaded into {topic}, {deletions:,} deleted")
