from pathlib import Path

import pytest

import pipeline.workflows
from pipeline.models.local import Guess
from pipeline.workflow import Example, load_workflow, read_training
from tests.demo.threshold import ALLOWED_ERROR, Point, lowest_allowed, out_of_fold, table

WORKFLOW = load_workflow(Path(pipeline.workflows.__file__).parent / "ticket_triage")


def test_the_declared_threshold_is_the_lowest_that_keeps_the_error_within_what_is_allowed():
    points = table(out_of_fold(read_training(WORKFLOW)))
    assert lowest_allowed(points) == WORKFLOW.threshold
    at = next(point for point in points if point.threshold == WORKFLOW.threshold)
    assert at.error <= ALLOWED_ERROR
    assert at.automated > 0.45, "sure answers are too rare to be of use"


def test_a_point_counts_only_what_is_sure_enough():
    def judged(intent, confidence):
        return Example("a text", "pin"), Guess(intent, confidence)

    points = {
        point.threshold: point
        for point in table([judged("pin", 0.9), judged("fees", 0.9), judged("fees", 0.4), (Example("", "pin"), None)])
    }
    assert points[0.9] == Point(0.9, 0.5, 0.5)
    assert points[0.4] == pytest.approx(Point(0.4, 0.75, 2 / 3))
    assert points[0.95] == Point(0.95, 0.0, 0.0)


def test_a_lucky_dip_below_an_error_that_is_not_allowed_does_not_count():
    assert lowest_allowed([Point(0.3, 1, 0.01), Point(0.5, 0.8, 0.09), Point(0.7, 0.5, 0.02)]) == 0.7
