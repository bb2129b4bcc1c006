"""A window with virtual time and a list in place of the committer, and what its tests share."""

import asyncio
from functools import wraps
from random import Random

from pipeline.outcome import Next
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.output import Output
from pipeline.stream.window import Counters, Window
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.clock import VirtualClock

DONE = Next("done")


class Exits:
    def on(self, delivery, outcome):
        return (Output("dev.out", delivery.key, delivery.value),)

    def duplicate(self, delivery, now_s):
        return (Output("dev.audit", delivery.key, delivery.value),)

    def superseded(self, delivery, outcome, now_s):
        return (Output("dev.audit", delivery.key, delivery.value),)


class Bench:
    """A window with time to be moved and a list in place of the committer."""

    def __init__(self, *, decode=lambda delivery: delivery.value, exits=None, retry=None, **options):
        self.clock = VirtualClock()
        self.finished = []
        self.counters = Counters()
        self.limits = StageLimits(deadline_s=10, retry=retry or RetryLimits(base_s=1, cap_s=4, jitter=0))
        self.window = Window(
            ROUTE,
            self.limits,
            decode=decode,
            exits=exits or Exits(),
            push=self.finished.append,
            clock=self.clock,
            random=Random(0),
            counters=self.counters,
            **options,
        )
        self.tenure = a_tenure()

    def admit(self, *values, key=None, track=None, headers=()):
        track = track or self.tenure.input
        batch = [
            a_delivery(track, track.next_offset, key=key, value=value, headers=headers, window=self.window)
            for value in values
        ]
        self.window.admit(batch)
        return batch

    def topics(self):
        return [[record.topic for record in delivery.outputs] for delivery in self.finished]

    def said(self, name):
        """What the last record of the last finished delivery says in a header."""
        return dict(self.finished[-1].outputs[0].headers)[name].decode()


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def running(test):
    """Runs an async test, which must not wait for ever. What tasks it leaves are cancelled at its end."""

    @wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 10))

    return run
