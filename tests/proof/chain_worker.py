"""The real worker with all its stages, with a session as short as a proof needs: `lockgate worker` has ten seconds."""

import argparse
import logging
import os
import sys
from pathlib import Path

from agents.worker import run_worker
from pipeline.config import load_settings
from pipeline.stream.limits import StageLimits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--session-s", type=float, default=3.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(created).3f %(name)s %(message)s")
    settings = load_settings().model_copy(update={"environment": options.environment, "data_dir": options.data_dir})
    limits = StageLimits(session_timeout_s=options.session_s, revoke_grace_s=2.0)
    run_worker(settings, options.bootstrap, limits=limits)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
