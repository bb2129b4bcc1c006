"""Runs stages in this process until it is told to stop, or until one of them cannot go on."""

import logging
from collections.abc import Sequence
from pathlib import Path

from agents.app import WORKFLOWS, build_app
from agents.shell import run
from agents.slot import claimed_slot
from pipeline.config import Settings
from pipeline.errors import LockgateError
from pipeline.stream.limits import StageLimits

log = logging.getLogger(__name__)


def run_worker(
    settings: Settings,
    bootstrap: str,
    stages: Sequence[str] | None = None,
    limits: StageLimits | None = None,
    workflows: Path | None = None,
) -> None:
    """Returns after SIGTERM or SIGINT, with everything in flight drained or left for the next owner.

    `workflows` is a folder of workflows; without it, those that ship with Lockgate are served. Raises LockgateError
    when a stage cannot go on; its text says why and what to do.
    """
    with claimed_slot(settings) as slot:
        log.info("slot %s", slot)
        app = build_app(settings, bootstrap, stages, slot=slot, limits=limits, workflows=workflows or WORKFLOWS)
        failure = run(app)
    if failure is not None:
        if isinstance(failure, LockgateError):
            raise failure
        raise LockgateError(f"the worker failed: {type(failure).__name__}: {failure}") from failure
