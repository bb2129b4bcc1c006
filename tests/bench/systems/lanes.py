"""The work of a record, and the usual way to do a batch of it: keys side by side, each key in order."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any


async def work(work_s: float) -> None:
    """Stands for a call to something slow. No work costs nothing, not even a turn of the event loop."""
    if work_s:
        await asyncio.sleep(work_s)


async def work_by_key(keys: Iterable[Any], work_s: float) -> None:
    """Works on one record per given key occurrence: all keys at once, the records of one key one by one."""
    if not work_s:
        return
    counts: dict[Any, int] = defaultdict(int)
    for key in keys:
        counts[key] += 1

    async def lane(records: int) -> None:
        for _ in range(records):
            await work(work_s)

    await asyncio.gather(*(lane(count) for count in counts.values()))
