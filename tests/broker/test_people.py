"""People decide: the whole of routing with a real worker, verdicts by the command line, read back by a plain client."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from agents.cli.output import ExitCode
from pipeline.records import Event, ReviewVerdict, VerdictKind, decision_id, enclosed
from tests.broker.line import CODEC, ROOT, WORKFLOW, Line

MEIER = ["--reviewer", "a.meier", "--reason", "looked at it"]


@pytest.fixture(scope="module")
def line(kafka, tmp_path_factory):
    """An environment with a routing worker that runs."""
    line = Line(kafka, tmp_path_factory.mktemp("people"))
    with line.worker("routing"):
        yield line


@pytest.fixture(scope="module")
def undecided(line):
    """A review that stays open."""
    return line.review()


@dataclass
class Pause:
    """What was done in an environment while no worker ran, between two lives of one."""

    line: Line
    twice: str
    """A review on which two verdicts were given."""
    given: list
    impatient: object
    """How the command ended that waited for a decision on `alone`."""
    alone: str
    corrected: str
    """A decision that was corrected twice."""
    again: str
    """A decided review whose event came to routing once more, sure this time."""
    lag: int
    """What routing had not done before its worker started again."""


@pytest.fixture(scope="module")
def pause(kafka, tmp_path_factory):
    line = Line(kafka, tmp_path_factory.mktemp("pause"))
    assert line.run("review", "list").stdout == "no open reviews\n"
    assert line.json("review", "list") == {"count": 0, "reviews": []}
    with line.worker("routing"):
        case = line.case()
        twice, alone, again = line.review(partition=1), line.review(), line.validated(case)
        corrected = line.validated(line.case(confidence=0.97))
        line.eventually(lambda: line.decisions(corrected) and line.json("review", "list")["count"] == 3)
        line.json("review", "decide", again, "--reject", *MEIER)
    given = [
        line.json("review", "decide", twice, "--reject", "--wait", "0", *MEIER),
        line.json("review", "decide", twice, "--approve", "--wait", "0", "--reviewer", "b", "--reason", "x"),
    ]
    impatient = line.run("review", "decide", alone, "--approve", "--wait", "0.5", *MEIER)
    for action in ("hand_over", "send_status"):
        line.json("correct", corrected, "--action", action, "--wait", "0", *MEIER)
    line.validated(replace(case, inference=replace(case.inference, confidence=0.99)))
    [lag] = [stage for stage in line.json("lag")["stages"] if stage["stage"] == "routing"]
    with line.worker("routing"):
        line.eventually(lambda: len(line.audits("superseded")) == 3 and line.decisions(alone))
    return Pause(line, twice, given, impatient, alone, corrected, again, lag["not_done"])


# -- reviews ------------------------------------------------------------------------------------------------


def test_an_open_review_is_listed_with_its_reasons_and_gone_when_it_is_decided(line):
    review_id = line.review()
    [found] = [r for r in line.json("review", "list")["reviews"] if r["review_id"] == review_id]
    assert (found["reasons"], found["proposed"], found["confidence"]) == (["low_confidence"], "send_guidance", 0.2)
    assert found["age_s"] < 60
    assert review_id in line.run("review", "list").stdout
    assert line.run("review", "decide", review_id, "--approve", *MEIER).exit_code == ExitCode.OK
    assert all(r["review_id"] != review_id for r in line.json("review", "list")["reviews"])


def test_reviews_are_listed_oldest_first(line):
    first, second = line.review(partition=1), line.review(partition=0)
    ids = [r["review_id"] for r in line.json("review", "list")["reviews"]]
    assert ids.index(first) < ids.index(second)
    oldest = line.json("review", "list", "--limit", "1")
    assert len(oldest["reviews"]) == 1
    assert oldest["count"] >= 2


def test_a_review_is_shown_with_all_that_is_known_of_its_case(line):
    review_id = line.review()
    text = line.run("review", "show", review_id).stdout
    for part in (
        "where is my money?",
        "low_confidence",
        "1 h 00 min old",
        "send_guidance",
        "local m1",
        "allowed_actions",
    ):
        assert part in text
    shown = line.json("review", "show", review_id)
    assert (shown["case"]["event"]["data"], shown["decision"]) == ({"text": "where is my money?"}, None)
    assert line.run("review", "decide", review_id, "--reject", *MEIER).exit_code == ExitCode.OK
    assert line.json("review", "show", review_id)["decision"]["reasons"] == ["rejected"]


@pytest.mark.parametrize("command", [["review", "show"], ["review", "decide", "--approve", *MEIER]], ids=lambda c: c[1])
def test_a_review_that_is_not_there_is_not_found(line, command):
    result = line.run(*command, "0" * 32)
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "lockgate review list" in result.stderr


# -- verdicts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "action", "reasons"),
    [
        (["--approve"], "send_guidance", ("approved",)),
        (["--modify", "intent=charge_unrecognised"], "open_dispute", ("modified",)),
        (["--modify", "intent=refund, action=hand_over"], "hand_over", ("modified",)),
        (["--modify", "action=send_status"], "send_status", ("modified",)),
        (["--reject"], "none", ("rejected",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_person_says_is_published_as_the_decision(line, options, action, reasons):
    review_id = line.review(partition=1)
    said = line.json("review", "decide", review_id, *options, *MEIER)
    assert (said["outcome"], said["detail"]["action"]) == ("decided", action)
    [decision] = line.decisions(review_id)
    assert (decision.action, decision.reasons, decision.decided_by) == (action, reasons, "person:a.meier")
    assert (decision.revision, decision.supersedes, decision.confidence) == (1, None, None)
    assert decision.answer["action"] == action


def test_the_decision_lies_in_the_partition_of_its_case_under_its_key_with_its_names(line):
    review_id = line.review(subject="c-lane", partition=1)
    line.json("review", "decide", review_id, "--approve", *MEIER)
    [record] = [
        message
        for message in line.records("decisions")
        if CODEC.decode_decision(message.value()).decision_id == review_id
    ]
    said = dict(record.headers())
    assert (record.partition(), record.key()) == (1, b"c-lane")
    assert (said["ce_source"], said["ce_id"], said["ce_subject"]) == (b"/bank", b"m-%d" % line.count, b"c-lane")
    assert said["lockgate_origin_offset"] == b"%d" % line.count


def test_a_review_that_is_decided_cannot_be_decided_again(line):
    review_id = line.review()
    line.json("review", "decide", review_id, "--reject", *MEIER)
    again = line.run("review", "decide", review_id, "--approve", *MEIER)
    assert again.exit_code == ExitCode.REFUSED
    assert "already decided: none by person:a.meier" in again.stderr
    assert f"lockgate correct {review_id}" in again.stderr
    assert len(line.decisions(review_id)) == 1


@pytest.mark.parametrize(
    ("modify", "cause"),
    [
        ("action=close_account", "action_not_allowed"),
        ("queue=nowhere", "answer_invalid: queue_known"),
        ("priority=soon", "answer_invalid: output_schema"),
        ("intent=refunds", "did you mean 'refund'"),
    ],
)
def test_what_the_workflow_does_not_allow_is_refused_before_it_is_published(line, undecided, modify, cause):
    result = line.run("review", "decide", undecided, "--modify", modify, *MEIER)
    assert result.exit_code == ExitCode.REFUSED
    assert cause in result.stderr


def test_of_verdicts_given_at_once_one_decides_and_the_others_are_told(line):
    review_id = line.review()
    ways = [["--approve"], ["--reject"], ["--modify", "action=hand_over"]]

    def give(way):
        command = [sys.executable, "-m", "agents.cli", *line.options, "review", "decide", review_id, *way, *MEIER]
        ended = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout, ended.stderr

    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(give, ways))
    # One that looked after the decision was there is refused without publishing: its answer is on stderr.
    outcomes = sorted(json.loads(out)["outcome"] if out else "refused" for _, out, _ in ended)
    assert outcomes[0] == "decided", ended
    assert set(outcomes[1:]) <= {"superseded", "refused"}
    assert sorted(code for code, _, _ in ended) == [ExitCode.OK, ExitCode.REFUSED, ExitCode.REFUSED]
    assert len(line.decisions(review_id)) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "say one of"),
        (["--approve", "--reject"], "say one of"),
        (["--modify", "refund"], "write FIELD=VALUE"),
        (["--modify", "intent=refund,intent=pin"], "twice"),
        (["--modify", "colour=red"], "no field 'colour'"),
    ],
)
def test_a_verdict_that_says_nothing_clear_is_a_usage_error(line, undecided, options, says):
    result = line.run("review", "decide", undecided, *options, *MEIER)
    assert result.exit_code == ExitCode.USAGE
    assert says in result.stderr


def test_a_verdict_that_was_refused_here_was_not_published(line, undecided):
    said = [verdict.review_id for verdict in line.read("review-verdicts", CODEC.decode_verdict)]
    assert undecided not in said
    assert line.decisions(undecided) == []


# -- verdicts on both sides of a pause ------------------------------------------------------------------------


def test_the_first_of_two_verdicts_counts_and_the_second_is_audited(pause):
    """Nobody routed while they were given; the worker that started later saw them in order."""
    assert [said["outcome"] for said in pause.given] == ["published", "published"]
    [audit] = pause.line.audits("superseded", once=pause.twice)
    assert audit.detail["verdict"] == pause.given[1]["place"]
    assert (audit.detail["action"], audit.detail["decided_by"]) == ("send_guidance", "person:b")
    [decision] = pause.line.decisions(pause.twice)
    assert decision.decided_by == "person:a.meier"


def test_without_a_worker_the_verdict_stays_and_that_is_said(pause):
    assert pause.impatient.exit_code == ExitCode.FAILED
    assert "lockgate lag" in pause.impatient.stderr
    [decision] = pause.line.decisions(pause.alone)
    assert decision.reasons == ("approved",)


def test_verdicts_that_wait_for_routing_are_lag(pause):
    """Two on one review, one on another, two corrections, and the event that came again."""
    assert pause.lag == 6


def test_of_two_corrections_of_one_decision_the_first_counts(pause):
    assert [d.action for d in pause.line.decisions() if d.supersedes == pause.corrected] == ["hand_over"]


def test_what_a_person_decided_is_not_decided_again_by_the_machine(pause):
    """The worker that meets the event again is another one: it knows from its state that this was decided."""
    [audit] = pause.line.audits("superseded", once=pause.again)
    assert audit.detail["decided_by"] == "auto"
    [decision] = pause.line.decisions(pause.again)
    assert decision.reasons == ("rejected",)


# -- verdicts that came by other ways -------------------------------------------------------------------------


def filed(line, topic, decode, wanted):
    """The record of a review or decision."""
    for message in line.records(topic):
        if wanted in (getattr(decode(message.value()), name, None) for name in ("review_id", "decision_id")):
            return message
    raise AssertionError(f"{wanted} is not in {topic}")


def a_verdict(line, review_id, kind=VerdictKind.APPROVE, **changes):
    """A verdict on an open review as another program would write it, with the record that it is about."""
    record = filed(line, "human-review", CODEC.decode_review, review_id)
    item, digest = enclosed(record.value())
    reviewer = None if kind is VerdictKind.EXPIRE else "a.meier"
    return replace(ReviewVerdict(review_id, kind, None, reviewer, "", 1, 1, item, digest), **changes), record


def give(line, verdict, record, *, partition=None, key=None):
    """Publishes it, and returns its place."""
    partition = record.partition() if partition is None else partition
    value = verdict if isinstance(verdict, bytes) else CODEC.encode(verdict)
    offset = line.put("review-verdicts", value, key=key or record.key(), headers=record.headers(), partition=partition)
    return f"{partition}:{offset}"


def test_the_clock_lets_a_review_expire_which_is_no_rejection(line):
    review_id = line.review()
    give(line, *a_verdict(line, review_id, VerdictKind.EXPIRE))
    [decision] = line.eventually(lambda: line.decisions(review_id))
    assert (decision.action, decision.reasons, decision.decided_by) == ("none", ("expired",), "clock")


SPOILT = {
    "digest": ({"digest": "0" * 64}, b"digest_mismatch", b"permanent"),
    "review id": ({"review_id": "0" * 32}, b"review_id_mismatch", b"permanent"),
    "nobody": ({"reviewer": None}, b"reviewer_missing", b"policy"),
    "action": ({"kind": VerdictKind.MODIFY, "answer": {"action": "close_account"}}, b"action_not_allowed", b"policy"),
    "bytes": (None, b"schema id", b"poison"),
}


@pytest.fixture(scope="module")
def spoilt(line):
    """A review with one invalid verdict of each kind on it: its id, and the headers of the letters by kind."""
    review_id = line.review()
    verdict, record = a_verdict(line, review_id)
    places = {
        give(line, b"\0\0\0\0\x01x" if spoil is None else replace(verdict, **spoil), record): kind
        for kind, (spoil, _, _) in SPOILT.items()
    }

    def letters():
        said = [dict(message.headers()) for message in line.records("dead-letter")]
        at = {f"{h['lockgate_source_partition'].decode()}:{h['lockgate_source_offset'].decode()}": h for h in said}
        return at if places.keys() <= at.keys() else None

    found = line.eventually(letters)
    return review_id, {kind: (place, found[place]) for place, kind in places.items()}


@pytest.mark.parametrize("kind", SPOILT)
def test_an_invalid_verdict_is_a_dead_letter_with_its_cause(line, spoilt, kind):
    _, cause, failure = SPOILT[kind]
    place, said = spoilt[1][kind]
    assert said["lockgate_source_topic"] == b"review-verdicts"
    assert said["lockgate_cause"].startswith(cause)
    assert (said["lockgate_class"], said["lockgate_stage"]) == (failure, b"routing")
    [audit] = line.audits("dead", verdict=place)
    assert audit.detail["class"] == failure.decode()


def test_invalid_verdicts_leave_their_review_open(line, spoilt):
    review_id, _ = spoilt
    assert line.decisions(review_id) == []
    assert line.json("review", "decide", review_id, "--approve", *MEIER)["outcome"] == "decided"


def test_a_verdict_in_another_partition_decides_nothing(line):
    """There nobody would know what was decided: two decisions could become visible."""
    review_id = line.review(partition=0)
    place = give(line, *a_verdict(line, review_id), partition=1)
    [audit] = line.eventually(lambda: line.audits("dead", verdict=place))
    assert audit.detail["cause"].startswith("partition_mismatch")
    assert line.decisions(review_id) == []


# -- corrections --------------------------------------------------------------------------------------------


def test_a_correction_is_the_next_revision_and_supersedes_the_one_before(line):
    first = line.validated(line.case(confidence=0.97))
    line.eventually(lambda: line.decisions(first))
    said = line.json("correct", first, "--intent", "charge_unrecognised", *MEIER)
    assert (said["outcome"], said["revision"]) == ("decided", 2)
    [decision] = line.decisions(said["detail"]["decision_id"])
    assert (decision.revision, decision.supersedes, decision.action) == (2, first, "open_dispute")
    assert (decision.reasons, decision.decided_by) == (("corrected",), "person:a.meier")
    assert len(line.decisions(first)) == 1

    again = line.run("correct", first, "--action", "hand_over", *MEIER)
    assert again.exit_code == ExitCode.REFUSED
    assert f"lockgate correct {decision.decision_id}" in again.stderr
    third = line.json("correct", decision.decision_id, "--action", "none", *MEIER)
    assert (third["revision"], third["detail"]["action"]) == (3, "none")


def test_the_decision_of_a_person_can_be_corrected(line):
    review_id = line.review()
    line.json("review", "decide", review_id, "--reject", *MEIER)
    nothing = line.run("correct", review_id, "--action", "send_status", *MEIER)
    assert nothing.exit_code == ExitCode.USAGE
    assert "name the intent too" in nothing.stderr
    said = line.json("correct", review_id, "--intent", "refund", "--action", "send_status", *MEIER)
    assert (said["outcome"], said["detail"]["action"]) == ("decided", "send_status")


def test_a_correction_of_a_decision_that_was_never_made_is_a_dead_letter(line):
    """Its item is whole and well: only routing knows that it never decided so."""
    first = line.validated(line.case(confidence=0.97))
    record = line.eventually(lambda: line.decisions(first) and filed(line, "decisions", CODEC.decode_decision, first))
    real = CODEC.decode_decision(record.value())
    event = Event("/bank", "never", WORKFLOW.event_type, real.subject, None, {})
    forged = replace(real, event_id="never", decision_id=decision_id(event, WORKFLOW.name, 1))
    item, digest = enclosed(CODEC.encode(forged))
    answer = WORKFLOW.answer("pin")
    verdict = ReviewVerdict(forged.decision_id, VerdictKind.CORRECT, answer, "a.meier", "", 1, 2, item, digest)
    place = give(line, verdict, record)
    [audit] = line.eventually(lambda: line.audits("dead", verdict=place))
    assert audit.detail["cause"].startswith("unknown_decision")


def test_a_correction_that_is_not_allowed_is_refused_before_it_is_published(line):
    first = line.validated(line.case(confidence=0.97))
    line.eventually(lambda: line.decisions(first))
    assert line.run("correct", first, "--action", "close_account", *MEIER).exit_code == ExitCode.REFUSED
    assert line.run("correct", first, *MEIER).exit_code == ExitCode.USAGE
    missing = line.run("correct", "0" * 32, "--action", "none", *MEIER)
    assert (missing.exit_code, "lockgate decisions" in missing.stderr) == (ExitCode.NOT_FOUND, True)
