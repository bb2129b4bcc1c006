"""A name for this process that is stable over restarts and exclusive while it lives.

It is part of the transactional ids: a restarted process settles at once what its former life left open, and two
processes under one name would fence each other for ever.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

from pipeline.config import Settings
from pipeline.errors import ConfigError

_MOST = 1000


@contextmanager
def claimed_slot(settings: Settings) -> Iterator[str]:
    """The configured slot, or the lowest free one of this machine. Free again when the process ends, however it does.

    Raises ConfigError when a process on this machine holds the configured slot already.
    """
    folder = settings.data_dir / "slots" / settings.environment
    folder.mkdir(parents=True, exist_ok=True)
    if settings.slot is not None:
        handle = _lock(folder / settings.slot)
        if handle is None:
            raise ConfigError(f"slot {settings.slot} is taken by another worker here: give each worker its own")
        slot = settings.slot
    else:
        slot, handle = _lowest(folder)
    try:
        yield slot
    finally:
        os.close(handle)


def _lowest(folder: Path) -> tuple[str, int]:
    host = gethostname().lower()
    for number in range(_MOST):
        slot = f"{host}-{number}"
        handle = _lock(folder / slot)
        if handle is not None:
            return slot, handle
    raise ConfigError(f"{_MOST} workers run here already; set LOCKGATE_SLOT for more")


def _lock(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
