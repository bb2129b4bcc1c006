"""`lockgate samples`: publishes the messages and the context that ship with a workflow."""

import time
from pathlib import Path

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import NothingFound, json_option, print_json, progress

EVENTS = "workflow-events"


@click.command()
@click.argument("workflow", default="ticket_triage")
@click.option("--context-only", is_flag=True, help="Publish what is known of customers and products, and no message.")
@json_option
@pass_invocation
def samples(invocation: Invocation, *, workflow: str, context_only: bool, as_json: bool) -> None:
    """Publish the samples of WORKFLOW (ticket_triage): first the context, then the messages.

    Among the messages are repeats, broken bytes and customers whom nobody knows: they show where each kind ends up.
    Publishing them again is safe: repeats are recognised.
    """
    import pipeline.workflows
    from agents.cli.demo_data import context_of, messages_of
    from agents.cli.sending import require_topic, send
    from pipeline.topics import load_topics

    folder = Path(pipeline.workflows.__file__).parent / workflow
    if not (folder / "samples.jsonl").is_file():
        raise NothingFound(f"there are no samples for {workflow!r}: {folder} holds no samples.jsonl")
    topics = load_topics()
    batches = [(f"context-{name}", drafts) for name, drafts in context_of(folder, round(time.time() * 1000))]
    if not context_only:
        batches.append((EVENTS, messages_of(folder, topics[EVENTS].max_message)))
    settings = invocation.connected()
    physical = {logical: topics.physical(settings.environment, logical) for logical, _ in batches}
    for topic in physical.values():
        require_topic(settings, topic)
    published: dict[str, int] = {}
    with progress("publishing", sum(len(drafts) for _, drafts in batches)) as advance:
        for logical, drafts in batches:
            sent = send(settings, physical[logical], drafts, topics[logical].max_message, advance)
            published[physical[logical]] = sent
    if as_json:
        print_json({"published": published})
    else:
        for topic, count in published.items():
            click.echo(f"{count:,} published to {topic}")
