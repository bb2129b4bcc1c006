"""The 10,003 questions of banking77 through the real pipeline, and what became of them.

    python -m tests.demo.banking77

Derives a workflow from ticket_triage: the same declaration, its intents replaced by the 77 of the set as
`banking77.yaml` maps them; `other` stays, with the examples of ticket_triage, as the answer to what is none of them.
A seeded part of the questions is held out of the training. All are published, by 500 seeded customers; every tenth
event comes from a customer who is unknown, or whose record is too old. When every event has its place, the figures go
to build/banking77.json: accuracy and error on the held-out part only. Nothing of the set is kept in this project.
"""

import csv
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from shutil import copyfile, rmtree
from typing import Any

import yaml

from agents.cli.demo_data import context_of
from agents.cli.mapping import RowIds
from agents.cli.sending import send
from pipeline.config import load_settings, read_yaml
from pipeline.workflow import Example, load_workflow, read_training
from tests.demo.expected import FOLDER
from tests.demo.line import ROOT, Ending, Line, own_broker
from tests.proof.conservation import identity_of
from tests.proof.ledger import Ledger
from tests.proof.workers import Crew

CSV = ROOT.parent / "shared" / "data" / "banking77" / "train.csv"
BUILD = ROOT / "build"
NAME = "banking77"
SOURCE = "/banking77"
SEED = 77
HELD_OUT = 0.2
CUSTOMERS = 500
FRESH, STALE = 450, 475
"""Customers below the first are known and fresh, below the second known and stale, the others unknown."""
UNSOUND = 0.1
"""Share of the events that come from a stale or unknown customer."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the set as an event."""

    id: str
    text: str
    intent: str
    customer: int
    held_out: bool

    @property
    def sound(self) -> bool:
        """Whether what is known of the customer allows a decision."""
        return self.customer < FRESH


def intent_name(label: str) -> str:
    """The name that an intent of the set has in a workflow: small letters, no marks."""
    return label.lower().rstrip("?")


def questions(file: Path, every: int = 1) -> list[Question]:
    """The rows of the set, or each `every`-th of an intent, with id, customer and part. The same for the same file."""
    random = Random(SEED)
    with file.open(encoding="utf-8", newline="") as rows:
        read = [(row["text"], row["category"]) for row in csv.DictReader(rows)]
    seen = Counter[str]()
    taken = []
    for text, label in read:
        seen[label] += 1
        if seen[label] % every == 0:
            taken.append((text, intent_name(label)))
    held_out = _held_out(taken, random)
    unsound = set(random.sample(range(len(taken)), round(len(taken) * UNSOUND)))
    ids = RowIds()
    return [
        Question(
            ids.next(f"{text},{intent}".encode()),
            text,
            intent,
            random.randrange(FRESH, CUSTOMERS) if number in unsound else random.randrange(FRESH),
            _plain(text) in held_out,
        )
        for number, (text, intent) in enumerate(taken)
    ]


def _held_out(rows: Sequence[tuple[str, str]], random: Random) -> set[str]:
    """A fifth of each intent's questions. Those that differ only in capitals or spaces stay together."""
    of_intent: dict[str, list[str]] = defaultdict(list)
    for text, intent in {_plain(text): intent for text, intent in rows}.items():
        of_intent[intent].append(text)
    held_out: set[str] = set()
    for _, texts in sorted(of_intent.items()):
        held_out |= set(random.sample(texts, round(len(texts) * HELD_OUT)))
    return held_out


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def derive(root: Path, asked: Iterable[Question]) -> Path:
    """Writes the workflow and the context into `root`; returns the folder for `lockgate worker --workflows`."""
    for made in ("workflows", "context"):
        rmtree(root / made, ignore_errors=True)
    folder = root / "workflows" / NAME
    folder.mkdir(parents=True)
    shipped = load_workflow(FOLDER)
    declared = read_yaml(FOLDER / "workflow.yaml")
    mapped = {intent_name(label): answer for label, answer in read_yaml(FOLDER / "banking77.yaml").items()}
    fallback = shipped.fallback_intent
    declared |= {"name": NAME, "intents": {**mapped, fallback: declared["intents"][fallback]}}
    del declared["rules"]  # they speak of the shipped intents
    (folder / "workflow.yaml").write_text(yaml.safe_dump(declared, sort_keys=False), "utf-8")
    learned = [Example(question.text, question.intent) for question in asked if not question.held_out]
    learned += [example for example in read_training(shipped) if example.intent == fallback]
    with (folder / "training.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "intent"))
        writer.writerows({example.text: example for example in learned}.values())
    _write_context(root / "context")
    return folder.parent


def _write_context(folder: Path) -> None:
    random = Random(SEED)
    folder.mkdir()
    copyfile(FOLDER / "context" / "products.jsonl", folder / "products.jsonl")
    products = [json.loads(line)["key"] for line in (folder / "products.jsonl").open(encoding="utf-8")]
    with (folder / "customers.jsonl").open("w", encoding="utf-8") as file:
        for number in range(STALE):
            value = {
                "customer_id": _key(number),
                "name": f"Customer {number}",
                "segment": random.choice(("retail", "premium", "student", "business")),
                "language": "en",
                "product_id": random.choice(products),
            }
            age_days = random.uniform(0, 20) if number < FRESH else random.uniform(60, 600)
            file.write(json.dumps({"key": _key(number), "age_days": round(age_days, 2), "value": value}) + "\n")


def _key(customer: int) -> str:
    return f"cust-{customer:03d}"


def run(line: Line, asked: Sequence[Question], root: Path, bound_s: float) -> dict[str, Any]:
    """Sends the questions through a worker of the derived workflow, and returns the figures."""
    workflows = derive(root, asked)
    settings = load_settings().model_copy(update={"bootstrap_servers": line.bootstrap, "environment": line.environment})
    for name, drafts in context_of(root, round(time.time() * 1000)):
        send(settings, f"{line.environment}.context-{name}", drafts, 1 << 20, lambda _: None)
    workflow = load_workflow(workflows / NAME)
    events = root / "events.jsonl"
    with events.open("w", encoding="utf-8") as file:
        for question in asked:
            file.write(json.dumps(_event(question, workflow.event_type)) + "\n")
    worker = line.start("--workflows", str(workflows))
    began = time.monotonic()
    line.lockgate("publish", str(events))
    ledger, report = line.at_rest(bound_s, poll_s=3)
    seconds = time.monotonic() - began
    assert worker.alive, worker.said()[-2000:]
    worker.terminate(10)
    endings = _endings(line, ledger)
    return {
        "published": report.published,
        "conserved": not report.faults and report.published == sum(report.places.values()) == len(asked),
        "faults": report.faults,
        "places": dict(sorted(report.places.items())),
        "seconds": round(seconds, 1),
        "release": workflow.release,
        "threshold": workflow.threshold,
        "seed": SEED,
        "unsound_customers": _unsound(asked, endings),
        "held_out": measure([question for question in asked if question.held_out], endings),
    }


def _event(question: Question, event_type: str) -> dict[str, Any]:
    customer = _key(question.customer)
    return {
        "id": question.id,
        "source": SOURCE,
        "type": event_type,
        "subject": customer,
        "time": "2026-03-02T09:00:00Z",
        "data": {"text": question.text, "channel": "chat", "language": "en", "customer_id": customer},
    }


def _endings(line: Line, ledger: Ledger) -> dict[str, Ending]:
    """The endings by the ids of the questions."""
    at = line.endings(ledger)
    found = {}
    for record in ledger[line.topology.entrance]:
        assert identity_of(record) is not None
        ending = at.get((record.partition, record.offset))
        if ending is not None:
            found[(record.header("ce_id") or b"").decode()] = ending
    return found


def _unsound(asked: Iterable[Question], endings: Mapping[str, Ending]) -> dict[str, int]:
    """What became of the events of stale and unknown customers: all of them must lie with people."""
    ended = [endings.get(question.id) for question in asked if not question.sound]
    reasons = Counter(reason for ending in ended if ending for reason in ending.reasons)
    places = Counter(ending.place if ending else "nowhere" for ending in ended)
    return {"events": len(ended), **places, **{name: reasons[name] for name in sorted(reasons)}}


def measure(held_out: Sequence[Question], endings: Mapping[str, Ending]) -> dict[str, float]:
    """Figures on questions that the model never saw. What had no sound customer was never asked of it."""
    asked = right = automated = wrong = 0
    for question in held_out:
        ending = endings.get(question.id)
        if ending is None or ending.answer is None:
            continue
        asked += 1
        is_right = ending.answer["intent"] == question.intent
        right += is_right
        if ending.place == "decision":
            automated += 1
            wrong += not is_right
    return {
        "events": len(held_out),
        "asked": asked,
        "accuracy": round(right / asked, 4),
        "automated": automated,
        "share_automated": round(automated / len(held_out), 4),
        "share_automated_of_asked": round(automated / asked, 4),
        "wrong": wrong,
        "error_among_automated": round(wrong / automated, 4),
    }


def show(figures: Mapping[str, Any]) -> None:
    """Prints the figures for people."""
    print(f"{figures['published']:,} published, conserved: {figures['conserved']}, {figures['seconds']} s")
    for place, count in figures["places"].items():
        print(f"  {place:16} {count:7,}")
    print(f"stale or unknown customers: {figures['unsound_customers']}")
    held_out = figures["held_out"]
    print(f"held out of the training (seed {figures['seed']}): {held_out['events']:,} events")
    print(f"  accuracy of the intent       {held_out['accuracy']:7.1%}  of {held_out['asked']:,} asked of the model")
    print(
        f"  decided without people       {held_out['share_automated']:7.1%}  at a threshold of {figures['threshold']}"
    )
    print(f"  error among those            {held_out['error_among_automated']:7.1%}  {held_out['wrong']} wrong")


def main() -> int:
    """Runs the whole set; returns 0 when every event has exactly one place."""
    if not CSV.is_file():
        print(f"{CSV} is not there: the set is no part of this project", file=sys.stderr)
        return 5
    root = BUILD / NAME
    root.mkdir(parents=True, exist_ok=True)
    with own_broker(root / "broker") as bootstrap, Crew(root) as crew:
        line = Line(bootstrap, f"b77-{int(time.time())}", root / "data", crew)
        figures = run(line, questions(CSV), root, bound_s=600)
    (BUILD / "banking77.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    show(figures)
    return 0 if figures["conserved"] else 1


if __name__ == "__main__":
    sys.exit(main())
