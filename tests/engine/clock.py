"""Time that moves when it is told to."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count


@dataclass
class VirtualClock:
    """The window's Clock. Timers fire in `advance`, in the order in which they are due."""

    now: float = 1_700_000_000.0
    timers: list = field(default_factory=list)
    serial: count = field(default_factory=count)

    def time(self):
        return self.now

    def call_later(self, delay_s, call, *args):
        heappush(self.timers, (self.now + delay_s, next(self.serial), call, args))

    def advance(self, seconds):
        until = self.now + seconds
        while self.timers and self.timers[0][0] <= until:
            self.now, _, call, args = heappop(self.timers)
            call(*args)
        self.now = until

    @property
    def pending(self):
        """The arguments of the calls that are still to come."""
        return [args for _, _, _, args in self.timers]
