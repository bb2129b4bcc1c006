"""What `review decide` and `correct` share: a verdict is checked by routing's own rule, published, and awaited."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.cli.output import ExitCode, Refused, print_json, say, shown, waiting
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.codec import Codec
    from pipeline.config import Settings
    from pipeline.records import Audit, Decision, Json, ReviewItem, ReviewVerdict
    from pipeline.stream.reviews import Filed
    from pipeline.stream.verdicts import Given
    from pipeline.workflow import Workflow

_Command = Callable[..., Any]


def verdict_options(command: _Command) -> _Command:
    """The options of every command that gives a verdict."""
    for option in reversed((
        click.option("--reviewer", required=True, metavar="NAME", help="Who says so. It stands in the decision."),
        click.option("--reason", required=True, metavar="TEXT", help="Why. It is kept with the verdict."),
        click.option(
            "--wait",
            "wait_s",
            type=click.FloatRange(0),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="Wait so long for routing to judge it; with 0, only publish it.",
        ),
        click.option(
            "--workflows",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="The workflows that the workers serve, when not those that ship with Lockgate.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def served(workflows: Path | None) -> "Mapping[str, Workflow]":
    """The workflows by event type, as a worker with the same option has them."""
    import pipeline.workflows
    from pipeline.workflow import load_workflows

    return load_workflows(workflows or Path(pipeline.workflows.__file__).parent)


def amended(workflow: "Workflow", before: "Mapping[str, Json] | None", changes: Mapping[str, str]) -> "dict[str, Json]":
    """The answer with the changes in it. A new intent brings the whole answer that is declared for it."""
    from pipeline.config import nearest
    from pipeline.workflow import ANSWER_FIELDS

    for name in changes:
        if name not in ANSWER_FIELDS:
            raise ConfigError(f"an answer has no field {name!r}; {nearest(name, ANSWER_FIELDS)}")
    intent = changes.get("intent")
    if intent is None:
        if before is None or not set(ANSWER_FIELDS) <= before.keys():
            raise ConfigError("there is no answer to start from: name the intent too")
        return {**before, **changes}
    if intent not in workflow.intents:
        raise Refused(f"{workflow.name} declares no intent {intent!r}; {nearest(intent, workflow.intents)}")
    return {**workflow.answer(intent), **changes}


def pass_judgement(
    settings: "Settings",
    codec: "Codec",
    workflows: "Mapping[str, Workflow]",
    verdict: "ReviewVerdict",
    about: "Filed[ReviewItem] | Filed[Decision]",
    *,
    wait_s: float,
    as_json: bool,
) -> None:
    """Publishes the verdict and says what routing made of it. Refused, with nothing published, when it is invalid.

    Ends the command with exit code 4 when routing refused it or another verdict came first, and with 1 when nothing
    was heard of it in time.
    """
    from pipeline.stream.verdicts import await_judgement, give

    _refuse_invalid(codec, workflows, verdict, about)
    given = give(settings, codec, verdict, about)
    audit = None
    if wait_s:
        with waiting("waiting for routing"):
            audit = await_judgement(settings, codec, given, wait_s)
    if as_json:
        print_json(_plain(verdict, given, audit))
    else:
        _tell(verdict, given, audit)
    if audit is None and wait_s:
        say(
            f"lockgate: no answer within {wait_s:g} s: `lockgate lag` shows whether a worker runs the stage routing. "
            "The verdict stays where it is and will be judged; do not give it again"
        )
        click.get_current_context().exit(ExitCode.FAILED)
    if audit is not None and audit.kind != "decided":
        click.get_current_context().exit(ExitCode.REFUSED)


def now_ms() -> int:
    """When the verdict is given."""
    return round(time.time() * 1000)


def _refuse_invalid(
    codec: "Codec",
    workflows: "Mapping[str, Workflow]",
    verdict: "ReviewVerdict",
    about: "Filed[ReviewItem] | Filed[Decision]",
) -> None:
    from pipeline.outcome import Dead
    from pipeline.steps.judge import Lane, judge

    outcome = judge(verdict, workflows, codec, Lane(about.partition, about.key), lambda _: True)
    if isinstance(outcome, Dead):
        raise Refused(f"routing would refuse this verdict ({outcome.cause}): nothing was published")


def _plain(verdict: "ReviewVerdict", given: "Given", audit: "Audit | None") -> dict[str, Any]:
    return {
        "verdict": verdict.kind.value,
        "about": verdict.review_id,
        "revision": verdict.revision,
        "place": given.place,
        "outcome": "published" if audit is None else audit.kind,
        "detail": {} if audit is None else dict(audit.detail),
    }


def _tell(verdict: "ReviewVerdict", given: "Given", audit: "Audit | None") -> None:
    if audit is None:
        click.echo(f"published: {verdict.kind.value} of {verdict.review_id}, at {given.place} of review-verdicts")
    elif audit.kind == "decided":
        click.echo(f"decided: {shown(audit.detail['action'])}, as {audit.detail['decision_id']}")
    elif audit.kind == "superseded":
        click.echo(f"superseded: another verdict on {verdict.review_id} came first, and counts")
    else:
        click.echo(f"refused by routing: {shown(audit.detail.get('cause'))}")
