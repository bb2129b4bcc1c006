"""The samples on the real broker: `lockgate samples`, a worker, and each of them where it is expected, by identity."""

from collections import defaultdict

import pytest

from pipeline.workflow import load_workflow
from tests.demo.expected import FOLDER, samples

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

WORKFLOW = load_workflow(FOLDER)


@pytest.fixture(scope="module")
def run(line):
    """Publishes the samples, lets a worker finish them, and reads back what lies in the topics."""
    line.lockgate("samples", "--context-only")
    worker = line.start()
    line.lockgate("samples")
    ledger, report = line.at_rest(90)
    assert worker.alive, worker.said()[-2000:]
    worker.terminate(10)
    return line, ledger, report


@pytest.fixture(scope="module")
def met(run):
    """(expected, ending) for every sample. Equal bytes are told apart by their order, which a key keeps."""
    line, ledger, _ = run
    published = defaultdict(list)
    for record in ledger[line.topology.entrance]:
        published[record.key, record.value, tuple(sorted(record.headers))].append((record.partition, record.offset))
    endings = line.endings(ledger)
    pairs = []
    for draft, wanted in samples():
        at = published[draft.key, draft.value, tuple(sorted(draft.headers))].pop(0)
        pairs.append((wanted, endings.get(at)))
    assert not any(published.values()), "something was published that is no sample"
    return pairs


def test_every_sample_has_exactly_one_place(run):
    line, ledger, report = run
    assert report.faults == {}
    assert report.published == len(ledger[line.topology.entrance]) == len(samples())
    assert sum(report.places.values()) == report.published


def test_every_sample_is_where_it_was_expected(met):
    assert [f"{wanted}: {ending}" for wanted, ending in met if ending is None or ending.place != wanted.place] == []


def test_every_review_and_dead_letter_says_the_expected_reason(met):
    assert [
        f"{wanted}: {ending.reasons}"
        for wanted, ending in met
        if (wanted.place == "review" and wanted.reason not in ending.reasons)
        or (wanted.place == "dead_letter" and not ending.reasons[0].startswith(wanted.reason))
    ] == []


def test_a_decision_has_the_declared_answer_of_its_intent_and_no_other(met):
    answers = [ending.answer for _, ending in met if ending.place == "decision"]
    assert answers
    assert [answer for answer in answers if answer != WORKFLOW.answer(answer["intent"])] == []
