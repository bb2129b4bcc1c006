"""`lockgate up` and `lockgate down`: a local Apache Kafka whose data survive in the data folder."""

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import json_option, print_json, say, waiting
from pipeline.errors import ConfigError


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Listen there. Default: the last one, 9092, or a free one.")
@json_option
@pass_invocation
def up(invocation: Invocation, port: int | None, as_json: bool) -> None:
    """Start a local Kafka, or find the one that runs, and print its address.

    The first start fetches Kafka with Maven. The data lie in the data folder and survive a restart. When
    KAFKA_BOOTSTRAP_SERVERS is set, nothing is started: that broker is asked whether it answers.
    """
    from pipeline.broker import local
    from pipeline.broker.find import broker_folder, check_answers

    settings = invocation.settings()
    if settings.bootstrap_servers is not None:
        if port is not None:
            raise ConfigError(
                "--port is for a broker here, but KAFKA_BOOTSTRAP_SERVERS names another: unset one of them"
            )
        check_answers(settings)
        say("the configured broker answers; nothing was started")
        found: dict[str, object] = {"bootstrap": settings.bootstrap_servers, "kind": "configured"}
    else:
        with waiting("starting Apache Kafka"):
            kafka = local.up(broker_folder(settings), port, cache_dir=settings.cache_dir)
        say(f"Apache Kafka runs (pid {kafka.pid}); data: {kafka.data_dir}; log: {kafka.log}; `lockgate down` stops it")
        found = {
            "bootstrap": kafka.bootstrap,
            "kind": "local",
            "pid": kafka.pid,
            "data": str(kafka.data_dir),
            "log": str(kafka.log),
        }
    if as_json:
        print_json(found)
    else:
        click.echo(found["bootstrap"])


@click.command()
@json_option
@pass_invocation
def down(invocation: Invocation, as_json: bool) -> None:
    """Stop the local Kafka. Its data stay; a configured broker is left alone."""
    from pipeline.broker import local
    from pipeline.broker.find import broker_folder

    with waiting("stopping Apache Kafka"):
        stopped = local.down(broker_folder(invocation.settings()))
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo("stopped" if stopped else "no local broker was running")
