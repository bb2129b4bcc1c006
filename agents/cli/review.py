"""`lockgate review`: what waits for a person, and what the person says about it."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.judging import amended, now_ms, pass_judgement, served, verdict_options
from agents.cli.output import (
    NothingFound,
    Refused,
    json_option,
    moment,
    print_json,
    print_table,
    progress,
    say,
    shown,
    span,
)
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.codec import Codec
    from pipeline.config import Settings
    from pipeline.records import Decision, ReviewItem, ReviewVerdict
    from pipeline.stream.reviews import Filed
    from pipeline.workflow import Workflow


@click.group()
def review() -> None:
    """Look at cases that wait for a person, and decide them."""


@review.command(name="list")
@click.option("--limit", "-n", type=click.IntRange(0), metavar="N", help="Only the oldest N. Default: all there are.")
@json_option
@pass_invocation
def list_(invocation: Invocation, *, limit: int | None, as_json: bool) -> None:
    """List open reviews, oldest first, with the reasons why a machine may not answer alone."""
    from pipeline.codec import Codec
    from pipeline.stream.reviews import open_reviews

    settings = invocation.connected()
    with progress("reading reviews and decisions") as advance:
        desk = open_reviews(settings, Codec(), advance)
    for fault in desk.strange:
        say(f"lockgate: passed over {fault}")
    chosen = desk.open if limit is None else desk.open[:limit]
    now = time.time() * 1000
    if as_json:
        print_json({"count": len(desk.open), "reviews": [_line(filed, now) for filed in chosen]})
        return
    if not desk.open:
        click.echo("no open reviews")
        return
    print_table(
        ("REVIEW", ">AGE", "SUBJECT", "PROPOSED", ">SURE", "REASONS", "EVENT"),
        [
            (
                line["review_id"],
                span(line["age_s"]),
                line["subject"],
                line["proposed"],
                "-" if line["confidence"] is None else f"{line['confidence']:.2f}",
                ", ".join(line["reasons"]),
                f"{line['source']} {line['event_id']}",
            )
            for line in (_line(filed, now) for filed in chosen)
        ],
    )
    left = f"{len(desk.open) - len(chosen):,} more. " if len(desk.open) > len(chosen) else ""
    click.echo(f"\n{left}`lockgate review show REVIEW` shows one, `lockgate review decide REVIEW` decides it.")


@review.command()
@click.argument("review_id", metavar="REVIEW")
@json_option
@pass_invocation
def show(invocation: Invocation, *, review_id: str, as_json: bool) -> None:
    """Show all that is known of a case: event, context with its age, proposed answer, checks, and why it is here."""
    from pipeline.codec import Codec
    from pipeline.stream.reviews import find_decision

    settings = invocation.connected()
    codec = Codec()
    filed = _found(settings, codec, review_id)
    decision, _ = find_decision(settings, codec, review_id, filed.partition)
    if as_json:
        place = {"partition": filed.partition, "offset": filed.offset, "timestamp_ms": filed.timestamp_ms}
        decided = None if decision is None else asdict(decision.value)
        print_json({**asdict(filed.value), "place": place, "decision": decided})
        return
    for line in _shown(filed, decision):
        click.echo(line)


@review.command()
@click.argument("review_id", metavar="REVIEW")
@click.option("--approve", is_flag=True, help="The proposed answer is right.")
@click.option(
    "--modify",
    metavar="FIELD=VALUE,...",
    help="Another answer is: intent=... brings the whole declared answer; action, queue, priority change parts.",
)
@click.option("--reject", is_flag=True, help="Nothing shall happen.")
@verdict_options
@json_option
@pass_invocation
def decide(
    invocation: Invocation,
    *,
    review_id: str,
    approve: bool,
    modify: str | None,
    reject: bool,
    reviewer: str,
    reason: str,
    wait_s: float,
    workflows: Path | None,
    as_json: bool,
) -> None:
    """Decide an open review. The first valid verdict on a review counts; it says whether that was this one.

    Exit code 4: the verdict is not allowed, or another one came first.
    """
    from pipeline.codec import Codec
    from pipeline.stream.reviews import find_decision

    if [approve, modify is not None, reject].count(True) != 1:
        raise ConfigError("say one of --approve, --modify FIELD=VALUE,... and --reject")
    changes = _changes(modify) if modify is not None else None
    declared = served(workflows)
    settings = invocation.connected()
    codec = Codec()
    filed = _found(settings, codec, review_id)
    decision, _ = find_decision(settings, codec, review_id, filed.partition)
    if decision is not None:
        said = decision.value
        raise Refused(
            f"already decided: {shown(said.action)} by {shown(said.decided_by)}. Nothing was published; "
            f"`lockgate correct {review_id}` changes a decision"
        )
    verdict = _verdict(filed, declared, changes, reviewer, reason, approve=approve)
    pass_judgement(settings, codec, declared, verdict, filed, wait_s=wait_s, as_json=as_json)


def _found(settings: "Settings", codec: "Codec", review_id: str) -> "Filed[ReviewItem]":
    from pipeline.stream.reviews import find_review

    filed = find_review(settings, codec, review_id)
    if filed is None:
        raise NothingFound(
            f"no review {shown(review_id)} in {settings.environment}.human-review: "
            "`lockgate review list` names the open ones"
        )
    return filed


def _changes(text: str) -> dict[str, str]:
    changes: dict[str, str] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not value:
            raise ConfigError(f"--modify {text!r}: write FIELD=VALUE, with commas between them: intent=refund")
        if name in changes:
            raise ConfigError(f"--modify names {name} twice")
        changes[name] = value
    return changes


def _verdict(
    filed: "Filed[ReviewItem]",
    declared: "Mapping[str, Workflow]",
    changes: dict[str, str] | None,
    reviewer: str,
    reason: str,
    *,
    approve: bool,
) -> "ReviewVerdict":
    from pipeline.records import ReviewVerdict, VerdictKind, enclosed

    case = filed.value.case
    answer = None
    kind = VerdictKind.APPROVE if approve else VerdictKind.REJECT
    if changes is not None:
        workflow = declared.get(case.event.type)
        if workflow is None:
            raise Refused(f"no workflow takes {shown(case.event.type)} here: --workflows DIR names the right folder")
        kind = VerdictKind.MODIFY
        answer = amended(workflow, case.inference.answer if case.inference is not None else None, changes)
    item, digest = enclosed(filed.raw)
    return ReviewVerdict(filed.value.review_id, kind, answer, reviewer, reason, now_ms(), 1, item, digest)


def _line(filed: "Filed[ReviewItem]", now: float) -> dict[str, Any]:
    item, case = filed.value, filed.value.case
    inference = case.inference
    return {
        "review_id": item.review_id,
        "created_ms": item.created_ms,
        "age_s": round(max(0.0, now - item.created_ms) / 1000, 1),
        "reasons": list(item.reasons),
        "source": case.event.source,
        "event_id": case.event.id,
        "subject": case.event.subject,
        "workflow": case.workflow,
        "proposed": None if inference is None else inference.answer.get("action"),
        "confidence": None if inference is None else inference.confidence,
        "partition": filed.partition,
        "offset": filed.offset,
    }


def _shown(filed: "Filed[ReviewItem]", decision: "Filed[Decision] | None") -> list[str]:
    from pipeline.codec import json_text

    item, case = filed.value, filed.value.case
    state = "open"
    if decision is not None:
        state = f"decided: {shown(decision.value.action)} by {shown(decision.value.decided_by)}"
    lines = [
        f"review {shown(item.review_id)}, {state}",
        f"  since      {moment(item.created_ms)}, at {filed.partition}:{filed.offset}",
        f"  because    {shown(', '.join(item.reasons))}",
        f"event {shown(case.event.source)} {shown(case.event.id)}",
        f"  workflow   {shown(case.workflow)}, release {shown(case.release)}",
        f"  subject    {shown(case.event.subject)}",
        *(f"  {shown(name):10} {shown(_text(value))}" for name, value in case.event.data.items()),
        "context" if case.context else "context: none",
    ]
    for fact in case.context:
        age = "age unknown" if fact.age_ms is None else f"{span(fact.age_ms / 1000)} old"
        lines.append(f"  {shown(fact.name):10} {shown(json_text.dump(fact.value))} ({shown(fact.source)}, {age})")
    if case.inference is None:
        lines.append("proposed: nothing, no model was asked")
    else:
        sure = "no confidence" if case.inference.confidence is None else f"confidence {case.inference.confidence:.3f}"
        lines.append(f"proposed by {shown(case.inference.provider)} {shown(case.inference.model)}, {sure}")
        lines += [f"  {shown(name):10} {shown(_text(value))}" for name, value in case.inference.answer.items()]
    if case.checks:
        lines.append("checks")
        lines += [
            f"  {result.verdict.value:10} {shown(result.check)} ({shown(result.reason)})" for result in case.checks
        ]
    if decision is None:
        lines.append(
            f"\n`lockgate review decide {shown(item.review_id)} --approve --reviewer NAME --reason TEXT` decides it, "
            "or with --modify FIELD=VALUE,... or --reject."
        )
    return lines


def _text(value: Any) -> str:
    from pipeline.codec import json_text

    return value if isinstance(value, str) else json_text.dump(value)
