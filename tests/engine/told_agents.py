"""What surrounds the window in its model: a decoder and exits with faults, and agents that do what they are told."""

import asyncio

from hypothesis import strategies as st

from pipeline.errors import DecodeError, EncodeError, FailureClass, StepError
from pipeline.outcome import Dead, Next, Retry
from pipeline.stream import output
from pipeline.stream.output import Output

OUT, AUDIT = "dev.out", "dev.audit"
ENDS = {
    "next": Next("fine"),
    "retry": Retry("not now"),
    "retry later": Retry("not now", after_s=7.0),
    "dead": Dead("no use"),
    "does not encode": Next("unencodable"),
    "faulty exit": Next("faulty"),
    "no outcome": object(),
}
SLOTS = 5
ERRORS = {
    "transient": StepError("busy", FailureClass.TRANSIENT),
    "policy": StepError("not allowed", FailureClass.POLICY),
    "timeout": TimeoutError("slow"),
    "connection": ConnectionResetError("gone"),
    "bug": KeyError("name"),
    "cancelled inside": asyncio.CancelledError(),
}


BEGINS = st.sampled_from(["enter"] * 8 + ["stubborn", "crash", "leave"])
WORDS = st.one_of(
    st.just(("resolve", "retry")),
    st.just(("resolve", "next")),
    st.lists(st.sampled_from(sorted(ENDS)), max_size=2).map(lambda names: ("resolve", *names)),
    st.sampled_from(sorted(ERRORS)).map(lambda name: ("raise", name)),
)
ACTS = st.lists(st.tuples(st.integers(0, SLOTS - 1), BEGINS, WORDS), min_size=2, max_size=12)


def decode(delivery):
    if delivery.value == b"poison":
        raise DecodeError("poison")
    if delivery.value == b"fault":
        raise RuntimeError("a decoder with a fault")
    return delivery.value


def identify(record):
    return "source", record.split(b":")[0].decode()


class Exits:
    def on(self, delivery, outcome):
        if outcome.record == "unencodable":
            raise EncodeError("no such field")
        if outcome.record == "faulty":
            raise KeyError("a fault in the exits")
        return (self._record(OUT, delivery),)

    def duplicate(self, delivery, now_s):
        if delivery.value.endswith(b"!"):
            raise EncodeError("no audit of this")
        return (self._record(AUDIT, delivery),)

    def dead(self, delivery, cause, failure, now_s):
        return ()

    def _record(self, topic, delivery):
        headers = ((output.SOURCE_OFFSET, b"%d" % delivery.source_offset),)
        return Output(topic, delivery.key, delivery.value, headers)


class Hand:
    """An agent that does what it is told, one word at a time."""

    def __init__(self, loop, window, on_delivery, *, stubborn=False):
        self._loop = loop
        self._window = window
        self._on_delivery = on_delivery
        self.stubborn = stubborn
        self.delivery = None
        self.entered = False
        self._word = loop.create_future()
        self.task = loop.create_task(self._run())

    def tell(self, *word):
        if not self._word.done():
            self._word.set_result(word)

    async def _next_word(self):
        try:
            return await self._word
        finally:
            self._word = self._loop.create_future()

    async def _run(self):
        self.delivery = await self._window.get()
        if self.delivery is None:
            return
        self._on_delivery(self.delivery)
        word = await self._next_word()
        if word[0] == "crash":
            raise RuntimeError("between the window and the block")
        if word[0] == "leave":
            return
        async with self.delivery:
            self.entered = True
            await self._work()

    async def _work(self):
        while True:
            try:
                word = await self._next_word()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
                continue
            match word:
                case ["resolve", *names]:
                    for name in names:
                        self.delivery.resolve(ENDS[name])
                    return
                case ["raise", name]:
                    raise ERRORS[name]
                case _:
                    pass

    @property
    def alive(self):
        return not self.task.done()
