"""`lockgate correct`: a decision was wrong, and a person says what is right."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.judging import amended, now_ms, pass_judgement, served, verdict_options
from agents.cli.output import NothingFound, Refused, json_option, shown
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.records import Decision, Json
    from pipeline.workflow import Workflow


@click.command()
@click.argument("decision_id", metavar="DECISION")
@click.option("--intent", metavar="NAME", help="What the event was about: brings the whole declared answer.")
@click.option("--action", metavar="NAME", help="What shall happen instead; `none` for nothing.")
@verdict_options
@json_option
@pass_invocation
def correct(
    invocation: Invocation,
    *,
    decision_id: str,
    intent: str | None,
    action: str | None,
    reviewer: str,
    reason: str,
    wait_s: float,
    workflows: Path | None,
    as_json: bool,
) -> None:
    """Correct a decision: its next revision is published, which supersedes it. Both stay readable.

    Exit code 4: the correction is not allowed, or another one of the same decision came first.
    """
    from pipeline.codec import Codec
    from pipeline.records import ReviewVerdict, VerdictKind, enclosed
    from pipeline.stream.reviews import find_decision

    if intent is None and action is None:
        raise ConfigError("say what is right: --intent NAME, --action NAME or both")
    declared = served(workflows)
    settings = invocation.connected()
    codec = Codec()
    filed, later = find_decision(settings, codec, decision_id)
    if filed is None:
        raise NothingFound(
            f"no decision {shown(decision_id)} in {settings.environment}.decisions: `lockgate decisions` prints them"
        )
    if later is not None:
        raise Refused(
            f"revision {filed.value.revision} is superseded by {later.value.revision}: nothing was published. "
            f"`lockgate correct {later.value.decision_id}` corrects that one"
        )
    answer = _answer(filed.value, declared, intent, action)
    item, digest = enclosed(filed.raw)
    verdict = ReviewVerdict(
        review_id=decision_id,
        kind=VerdictKind.CORRECT,
        answer=answer,
        reviewer=reviewer,
        reason=reason,
        decided_ms=now_ms(),
        revision=filed.value.revision + 1,
        item=item,
        digest=digest,
    )
    pass_judgement(settings, codec, declared, verdict, filed, wait_s=wait_s, as_json=as_json)


def _answer(
    before: "Decision", declared: "Mapping[str, Workflow]", intent: str | None, action: str | None
) -> "dict[str, Json]":
    from pipeline.records import NO_ACTION

    if action == NO_ACTION and intent is None:
        return {"action": NO_ACTION}
    workflow = next((known for known in declared.values() if known.name == before.workflow), None)
    if workflow is None:
        raise Refused(f"no workflow {shown(before.workflow)} here: --workflows DIR names the right folder")
    changes = {name: text for name, text in (("intent", intent), ("action", action)) if text is not None}
    return amended(workflow, before.answer, changes)
