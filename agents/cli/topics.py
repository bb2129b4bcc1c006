"""`lockgate topics plan` and `lockgate topics apply`: from topics.yaml to the cluster, never deleting anything."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import json_option, print_json, shown, waiting

if TYPE_CHECKING:
    from pipeline.stream.topic_plan import Plan

_file = click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Declaration. Default: the shipped topics.yaml."
)
_replication = click.option(
    "--replication", type=click.IntRange(1, 15), help="Replicas of every topic, in place of the declared number."
)


@click.group()
def topics() -> None:
    """Compare the topics of the cluster with topics.yaml, and make them so.

    Nothing is ever deleted. Refused (exit code 4): fewer partitions, more replicas than brokers, and more partitions
    for the topics of stages that still have work.
    """


@topics.command()
@_file
@_replication
@json_option
@pass_invocation
def plan(invocation: Invocation, file: Path | None, replication: int | None, as_json: bool) -> None:
    """Show what `apply` would do: + made, ~ changed, ! left alone."""
    decided, _ = _decide(invocation, file, replication)
    if as_json:
        print_json(_plain(decided))
        return
    _print_lines(decided)
    click.echo(_summary(decided, "to make", "to change"))


@topics.command()
@_file
@_replication
@json_option
@pass_invocation
def apply(invocation: Invocation, file: Path | None, replication: int | None, as_json: bool) -> None:
    """Make the missing topics and change what differs. A second time, it changes nothing."""
    from pipeline.stream import topic_admin

    decided, config = _decide(invocation, file, replication)
    if not decided.empty:
        with waiting("applying"):
            topic_admin.apply(config, decided)
    if as_json:
        print_json(_plain(decided))
        return
    _print_lines(decided)
    click.echo(_summary(decided, "made", "changed"))


def _decide(invocation: Invocation, file: Path | None, replication: int | None) -> "tuple[Plan, dict[str, Any]]":
    from pipeline.config import client_config
    from pipeline.stream import topic_admin
    from pipeline.topics import load_topics

    declared = load_topics(file)
    settings = invocation.settings()
    broker = invocation.broker()
    config = client_config(settings, **{"bootstrap.servers": broker.bootstrap})
    decided = topic_admin.plan(
        config, declared, settings.environment, replication=replication, local=broker.kind != "configured"
    )
    return decided, config


def _plain(decided: "Plan") -> dict[str, Any]:
    return asdict(decided) | {"empty": decided.empty}


def _print_lines(decided: "Plan") -> None:
    for line in decided.lines():
        click.echo(shown(line))


def _summary(decided: "Plan", make: str, change: str) -> str:
    if decided.empty:
        return f"{decided.environment}: the topics are as declared"
    changed = {grow.topic for grow in decided.grows} | {part.topic for part in decided.changes}
    return f"{decided.environment}: {len(decided.creates)} {make}, {len(changed)} {change}"
