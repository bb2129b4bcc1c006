"""`lockgate explain`: what happened to one event, from its publication to what became of its decision."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agents.cli.invocation import Invocation, pass_invocation
from agents.cli.output import NothingFound, json_option, moment, print_json, progress, shown, span
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.records import Audit, Case, Decision, Json
    from pipeline.stream.explain import Story, Trace

_MEANING = {
    "decision": "decided",
    "open_review": "waits for a person",
    "dead_letter": "a dead letter",
    "blocked": "blocked by a control",
    "waiting_retry": "waits in a retry topic",
    "duplicate": "a repeat, dropped",
    "on_the_way": "on its way",
}


@click.command()
@click.argument("name", metavar="EVENT|DECISION|REVIEW")
@click.option("--source", metavar="URI", help="Of the event, where several publishers use one id.")
@json_option
@pass_invocation
def explain(invocation: Invocation, *, name: str, source: str | None, as_json: bool) -> None:
    """Show all that the topics hold about one event: what it said, what was known, who answered, what was decided.

    It is named by its id, by a decision or a review of it, or by its position, such as workflow-events-3-17, when
    nobody can read it.
    """
    from pipeline.codec import Codec
    from pipeline.stream import explain as stories

    settings = invocation.connected()
    with progress("reading every topic") as advance:
        found = stories.explain(settings, Codec(), name, source, advance)
    match found:
        case stories.Nothing(searched=searched):
            of = f" from {source}" if source else ""
            raise NothingFound(
                f"no event, decision or review {shown(name)}{of} in {settings.environment}. "
                f"Searched: {', '.join(searched)}. Topics forget: topics.yaml says after how long"
            )
        case stories.Several(events=events):
            sources = ", ".join(shown(source) for source, _ in events)
            raise ConfigError(f"several events are called {shown(name)}: choose with --source, one of {sources}")
        case stories.Story():
            if as_json:
                print_json(_plain(found))
            else:
                for line in _told(found):
                    click.echo(line)


# -- for programs -------------------------------------------------------------------------------------------


def _plain(story: "Story") -> dict[str, Any]:
    from pipeline.records import Decision, DecisionOutcome, ReviewItem

    case = story.case
    return {
        "source": story.source,
        "event_id": story.event_id,
        "place": story.place,
        "event": None if story.event is None else asdict(story.event),
        "workflow": None if case is None else case.workflow,
        "release": None if case is None else case.release,
        "context": [] if case is None else [asdict(fact) for fact in case.context],
        "inference": None if case is None or case.inference is None else asdict(case.inference),
        "checks": [] if case is None else [asdict(result) for result in case.checks],
        "reviews": [{"review_id": item.review_id, "reasons": list(item.reasons)} for item in story.of(ReviewItem)],
        "verdicts": [_plain_verdict(trace, audit) for trace, audit in story.judged],
        "decisions": [asdict(decision) for decision in story.of(Decision)],
        "dead_letters": [_plain_letter(trace) for trace in story.letters],
        "outcomes": [asdict(report) for report in story.of(DecisionOutcome)],
        "records": [_plain_record(trace) for trace in story.traces],
    }


def _plain_verdict(trace: "Trace", audit: "Audit | None") -> dict[str, Any]:
    from pipeline.records import ReviewVerdict

    plain: dict[str, Any] = {"place": trace.place}
    if isinstance(trace.value, ReviewVerdict):
        said = trace.value
        plain |= {"kind": said.kind.value, "reviewer": said.reviewer, "reason": said.reason, "answer": said.answer}
    plain["outcome"] = None if audit is None else audit.kind
    plain["detail"] = {} if audit is None else dict(audit.detail)
    return plain


def _plain_letter(trace: "Trace") -> dict[str, Any]:
    from pipeline.stream import output

    names = {"stage": output.STAGE, "class": output.CLASS, "cause": output.CAUSE, "attempt": output.ATTEMPT}
    return {"place": trace.place, **{name: trace.header(header) for name, header in names.items()}}


def _plain_record(trace: "Trace") -> dict[str, Any]:
    return {
        "topic": trace.topic,
        "partition": trace.partition,
        "offset": trace.offset,
        "timestamp_ms": trace.timestamp_ms,
        "what": _what(trace),
    }


# -- for people ---------------------------------------------------------------------------------------------


def _told(story: "Story") -> list[str]:
    case = story.case
    event = story.event
    if event is not None:
        lines = [
            f"event {shown(event.source)} {shown(event.id)}: {_MEANING[story.place]}",
            *_fields({"type": event.type, "subject": event.subject, "time": event.time}),
            *_fields(event.data),
        ]
    else:
        name = "unreadable" if story.event_id is None else f"{shown(story.source)} {shown(story.event_id)}"
        lines = [f"event {name}: {_MEANING[story.place]}"]
    if case is not None:
        lines += _told_case(case)
    lines += _told_route(story)
    lines.append("\nrecords")
    width = max(len(trace.topic) for trace in story.traces)
    lines += [
        f"  {moment(trace.timestamp_ms)}  {trace.topic:{width}}  {trace.place:>9}  {shown(_what(trace))}"
        for trace in story.traces
    ]
    return lines


def _told_case(case: "Case") -> list[str]:
    lines = [f"\nworkflow {shown(case.workflow)}, release {shown(case.release)}"]
    lines.append("context" if case.context else "context: none")
    for fact in case.context:
        age = "age unknown" if fact.age_ms is None else f"{span(fact.age_ms / 1000)} old"
        lines.append(f"  {shown(fact.name):10} {_text(fact.value)} ({shown(fact.source)}, {age})")
    inference = case.inference
    if inference is None:
        return [*lines, "answer: none, no model was asked"]
    sure = "without confidence" if inference.confidence is None else f"confidence {inference.confidence:.3f}"
    lines.append(
        f"answer of {shown(inference.provider)} {shown(inference.model)}, {sure} "
        f"({shown(inference.confidence_source)}), in {inference.latency_ms:.1f} ms"
    )
    lines += _fields(inference.answer)
    if case.checks:
        lines.append("checks")
        lines += [f"  {said.verdict.value:10} {shown(said.check)} ({shown(said.reason)})" for said in case.checks]
    return lines


def _told_route(story: "Story") -> list[str]:
    """Where it went and why, who said what about it, and what became of it."""
    from pipeline.records import BlockedItem, Decision, DecisionOutcome, ReviewItem

    lines = [""]
    lines += [f"to people, because {shown(', '.join(item.reasons))}" for item in story.of(ReviewItem)]
    lines += [f"blocked by {shown(item.control)}" for item in story.of(BlockedItem)]
    for trace in story.letters:
        letter = _plain_letter(trace)
        lines.append(f"dead at {shown(letter['stage'])} ({shown(letter['class'])}): {shown(letter['cause'])}")
        lines.append(f"  `lockgate dlq show {trace.place}` shows its bytes")
    for trace, audit in story.judged:
        lines.append(f"verdict at {trace.place}: {_said(trace, audit)}")
    lines += [_told_decision(decision) for decision in story.of(Decision)]
    for report in story.of(DecisionOutcome):
        cost = "" if report.cost is None else f", cost {report.cost:,.2f}"
        lines.append(f"{report.outcome.value} by {shown(report.reported_by)}, revision {report.revision}{cost}")
    return lines if len(lines) > 1 else []


def _told_decision(decision: "Decision") -> str:
    supersedes = "" if decision.supersedes is None else f", supersedes {decision.supersedes}"
    return (
        f"decision {decision.decision_id}, revision {decision.revision}: {shown(decision.action)} by "
        f"{shown(decision.decided_by)}, because {shown(', '.join(decision.reasons))}{supersedes}"
    )


def _said(trace: "Trace", audit: "Audit | None") -> str:
    from pipeline.records import ReviewVerdict

    verdict: ReviewVerdict | None = trace.value if isinstance(trace.value, ReviewVerdict) else None
    who = "unreadable"
    if verdict is not None:
        who = f"{verdict.kind.value} by {shown(verdict.reviewer or 'the clock')}"
        who += f" ({shown(verdict.reason)})" if verdict.reason else ""
    if audit is None:
        return f"{who}; not judged yet"
    cause = f": {shown(audit.detail['cause'])}" if "cause" in audit.detail else ""
    return f"{who}; {audit.kind}{cause}"


def _what(trace: "Trace") -> str:  # noqa: PLR0911 - one for each kind of record
    """One line about one record, without anything that the event or an answer says."""
    from pipeline.records import Audit, Case, Decision, DecisionOutcome, Event, ReviewItem, ReviewVerdict
    from pipeline.stream import output

    put_aside = trace.header(output.CAUSE) if trace.topic.startswith(("retry-", "dead-letter")) else None
    if put_aside is not None:
        return f"{trace.header(output.CLASS)}: {put_aside}, attempt {trace.header(output.ATTEMPT)}"
    match trace.value:
        case Audit(stage=stage, kind=kind, detail=detail):
            told = ", ".join(f"{name} {text}" for name, text in detail.items() if text)
            return f"{stage}: {kind}" + (f" ({told})" if told else "")
        case Event():
            return f"published, key {'none' if trace.key is None else trace.key.decode(errors='replace')}"
        case Case(context=context, inference=inference, checks=checks):
            facts = f"context: {', '.join(fact.name for fact in context) or 'none'}"
            return "; ".join([facts, *(["answered"] if inference else []), *(["checked"] if checks else [])])
        case ReviewItem(reasons=reasons):
            return f"open for people: {', '.join(reasons)}"
        case ReviewVerdict(kind=kind, reviewer=reviewer):
            return f"{kind.value} by {reviewer or 'the clock'}"
        case Decision(revision=revision, action=action, decided_by=decided_by):
            return f"revision {revision}: {action} by {decided_by}"
        case DecisionOutcome(outcome=outcome, reported_by=reported_by):
            return f"{outcome.value} by {reported_by}"
        case None:
            return "unreadable"
        case _:
            return trace.topic


def _fields(values: "dict[str, Json]") -> list[str]:
    width = max((len(shown(name)) for name in values), default=0)
    return [f"  {shown(name):{max(width, 10)}} {_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    from pipeline.codec import json_text

    if value is None:
        return "-"
    return shown(value) if isinstance(value, str) else shown(json_text.dump(value))
