"""The whole pipeline in one process: the worker that `lockgate worker` runs, with the shipped workflow."""

import tempfile
from pathlib import Path

from agents.worker import run_worker
from pipeline.config import Settings
from tests.bench.process import Job, start


def main(job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-lockgate-") as folder:
        settings = Settings(bootstrap_servers=job.bootstrap, environment=job.environment, data_dir=Path(folder))
        run_worker(settings, job.bootstrap)


if __name__ == "__main__":
    start(main)
