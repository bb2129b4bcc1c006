"""Where each sample must end up: `expected.jsonl`, written by people, one line for each record that is published.

    file, line   which record: a line of samples.jsonl or samples-raw.jsonl
    id           its id, where it has one: for people
    place        decision, review, dead_letter, duplicate
    reason       a reason code of the review, or how the cause of the dead letter begins
    intents      what the message is about; an automatic decision for another intent is an error
    why          what the workflow's owner thinks of it

The places that rest on the model's confidence are those of the shipped model; all others are what the owner wants
whatever a model says.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pipeline.workflows
from agents.cli.demo_data import messages_of
from agents.cli.drafting import Draft

FOLDER = Path(pipeline.workflows.__file__).parent / "ticket_triage"
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Expected:
    """One line of `expected.jsonl`."""

    file: str
    line: int
    id: str | None
    place: str
    reason: str | None
    intents: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.id}): {self.why}"


def expected() -> list[Expected]:
    """Every line, in the order in which the records are published."""
    lines = (FOLDER / "expected.jsonl").read_text("utf-8").rstrip("\n").split("\n")
    return [Expected(**{**line, "intents": tuple(line["intents"])}) for line in map(json.loads, lines)]


def samples() -> list[tuple[Draft, Expected]]:
    """Every record that `lockgate samples` publishes to workflow-events, with what is expected of it."""
    return list(zip(messages_of(FOLDER, MAX_BYTES), expected(), strict=True))
