"""The command line. `main` is the entry point; each module beside this one holds one group of commands."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from agents.cli import (
    broker,
    context,
    correct,
    dead_letters,
    decisions,
    demo,
    explain,
    lag,
    outcomes,
    publish,
    review,
    samples,
    topics,
    try_out,
    worker,
)
from agents.cli.invocation import Invocation
from agents.cli.output import ExitCode, exit_code, say
from pipeline.errors import LockgateError

__all__ = ["main"]


class _Lockgate(click.Group):
    """Ends with the documented exit codes, and with a plain text where the error was made for people."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LockgateError as error:
            say(f"lockgate: {error}")
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except Exception as error:
            if not _is_of_kafka(error):
                raise  # a fault of ours: its trace is wanted
            from pipeline.stream.reading import unanswered

            say(f"lockgate: Kafka: {error.args[0].str()}")
            ctx.exit(ExitCode.BROKER if unanswered(error.args[0]) else ExitCode.FAILED)


def _is_of_kafka(error: Exception) -> bool:
    client = sys.modules.get("confluent_kafka")  # not imported for this: most commands that fail never needed it
    return client is not None and isinstance(error, client.KafkaException)


@click.group(
    cls=_Lockgate,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""
\b
Exit codes:
  0  done
  1  failed: the text on stderr says why
  2  wrong options, settings or declarations; nothing was done
  3  no Kafka answers
  4  refused by a rule; nothing was done
  5  the thing that was named is not there
""",
)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file. Default: lockgate.yaml, if any."
)
@click.option("--environment", metavar="NAME", help="Prefix of all topics and groups. Default: dev.")
@click.option("--bootstrap", metavar="HOST:PORT", help="Kafka to talk to. Default: the one that `lockgate up` started.")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens underneath, on stderr.")
@click.version_option(package_name="lockgate")
@click.pass_context
def main(
    ctx: click.Context, config: Path | None, environment: str | None, bootstrap: str | None, verbose: bool
) -> None:
    """Lockgate: AI inside a live workflow on Kafka, without letting its mistakes out.

    Settings come from lockgate.yaml, then from LOCKGATE_* and KAFKA_BOOTSTRAP_SERVERS, then from the options here.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    ctx.obj = Invocation(config, environment, bootstrap, verbose)


for command in (
    broker.up,
    demo.demo,
    broker.down,
    topics.topics,
    publish.publish,
    samples.samples,
    context.context,
    worker.worker,
    decisions.decisions,
    review.review,
    correct.correct,
    outcomes.outcomes,
    explain.explain,
    dead_letters.dlq,
    lag.lag,
    try_out.try_out,
):
    main.add_command(command)
