"""How sure an answer must be: measured on the workflow's own examples, each judged by a model that never saw it.

    python -m tests.demo.threshold [FOLDER]

Five folds, dealt five times over. A row of the table is a threshold, the share of messages at least that sure, and
how many of those name the wrong intent. The declared threshold is the lowest of the table at which the last figure
is at most `ALLOWED_ERROR`: lower would do harm, higher would give people work that the model does well enough.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sklearn.model_selection import StratifiedKFold

import pipeline.workflows
from pipeline.models.local import Guess, train
from pipeline.workflow import Example, load_workflow, read_training

ALLOWED_ERROR = 0.03
FOLDS = 5
DEALS = range(5)
"""The seeds of the five deals."""
STEPS = tuple(step / 20 for step in range(6, 20))


class Point(NamedTuple):
    """What a threshold would mean: the share of messages decided without people, and the error among those."""

    threshold: float
    automated: float
    error: float


def out_of_fold(examples: Sequence[Example]) -> list[tuple[Example, Guess | None]]:
    """Every example, once for each deal, with the guess of a model that was trained without it."""
    intents = [example.intent for example in examples]
    judged: list[tuple[Example, Guess | None]] = []
    for seed in DEALS:
        for known, asked in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(intents, intents):
            guesses = train([examples[i] for i in known]).guess([examples[i].text for i in asked])
            judged += [(examples[i], guess) for i, guess in zip(asked, guesses, strict=True)]
    return judged


def table(judged: Sequence[tuple[Example, Guess | None]]) -> list[Point]:
    """A point for each step."""
    points = []
    for threshold in STEPS:
        sure = [guess.intent == example.intent for example, guess in judged if guess and guess.confidence >= threshold]
        points.append(Point(threshold, len(sure) / len(judged), 1 - sum(sure) / len(sure) if sure else 0.0))
    return points


def lowest_allowed(points: Sequence[Point]) -> float:
    """The lowest threshold from which on the error stays within what is allowed."""
    allowed = 1.0
    for point in reversed(points):
        if point.error > ALLOWED_ERROR:
            break
        allowed = point.threshold
    return allowed


def main(folder: Path) -> None:
    """Prints the table of a workflow."""
    workflow = load_workflow(folder)
    judged = out_of_fold(read_training(workflow))
    right = sum(guess is not None and guess.intent == example.intent for example, guess in judged)
    print(f"{len(judged) // len(DEALS)} examples, {right / len(judged):.1%} named rightly without their own help")
    print("threshold  automated  error among them")
    points = table(judged)
    for point in points:
        print(f"{point.threshold:9.2f}  {point.automated:9.1%}  {point.error:16.1%}")
    lowest = lowest_allowed(points)
    print(f"lowest with at most {ALLOWED_ERROR:.0%} error: {lowest:.2f}; declared: {workflow.threshold:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else Path(pipeline.workflows.__file__).parent / "ticket_triage"))
