"""What a committer sees of Kafka, in memory: transactions, group offsets with metadata, generations, and faults.

Only what is committed is visible. Every commit is checked against what it claims, so that a fault of the committer
shows in the commit that makes it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.stream import progress as encoding
from pipeline.stream.committer import Membership
from pipeline.stream.output import Output
from pipeline.stream.progress import Progress, decode
from pipeline.stream.transaction import BadOutput, Committed, Refused, StaleMember, Unknown

BAD = b"bad"
"""The value of an output that the broker refuses."""
NAMED = b"bad, and the client can say so"


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Broker:
    """One cluster with one consumer group."""

    logs: dict[tuple[str, int], list[Output]] = field(default_factory=dict)
    """What read_committed shows of each topic partition."""
    offsets: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    generation: int = 1
    owners: dict[int, object] = field(default_factory=dict)
    """Who may commit which partition."""
    aborted: int = 0

    def log(self, topic, partition) -> list[Output]:
        return self.logs.setdefault((topic, partition), [])

    def progress(self, topic, partition) -> Progress | None:
        committed = self.offsets.get((topic, partition))
        return None if committed is None else decode(*committed)

    def apply(self, outputs, offsets) -> None:
        for partition, output in outputs:
            assert output.value not in (BAD, NAMED), "a refused record was committed"
            self.log(output.topic, partition).append(output)
        for topic, partition, offset, metadata in offsets:
            assert len(metadata) <= encoding.BODY_LIMIT + 11, "a broker would refuse metadata as long as this"
            before = self.progress(topic, partition)
            after = decode(offset, metadata)
            if before is not None:
                assert after.base >= before.base, "the group went back"
                assert all(after.is_done(at) for run in before.runs for at in range(*run)), "done work was forgotten"
            self.offsets[topic, partition] = (offset, metadata)


@dataclass
class Transactions:
    """One producer slot: the TransactionLog of a committer. `faults` are used up one a call, then all goes well."""

    broker: Broker
    faults: list[str] = field(default_factory=list)
    producer: bool = False
    undecided: Callable[[], None] | None = None
    """A commit that the broker will carry out when it is asked to settle it."""
    on_commit: Callable[[], None] = lambda: None
    """Called after every commit that became visible."""
    on_rebalance: Callable[[], None] = lambda: None
    """Called when the group is to move on while a transaction is under way."""
    used: Counter = field(default_factory=Counter)

    def renew(self) -> None:
        if self.undecided is not None:
            self.undecided()
            self.undecided = None
            self.on_commit()
        self.producer = True

    def run(self, outputs, offsets, member):
        assert self.producer, "no producer: an unknown outcome was not settled"
        assert self.used.total() < 20_000, "the same round for ever"
        fault = self.faults.pop(0) if self.faults else ""
        self.used[fault] += 1
        if fault == "crash before":
            raise Crash
        if fault == "rebalanced meanwhile":
            self.on_rebalance()
        refusal = self._refusal(fault, outputs, member)
        if refusal is not None:
            return self._abort(refusal)
        if fault.endswith("committed late"):
            self.undecided = lambda: self.broker.apply(outputs, offsets)
        elif fault != "crash, aborted late":
            self.broker.apply(outputs, offsets)
            self.on_commit()
        if fault.startswith("crash"):
            raise Crash
        if fault.startswith("unknown"):
            self.producer = False
            return Unknown("injected")
        return Committed()

    def _refusal(self, fault, outputs, member):
        if fault == "refused":
            return Refused("injected")
        if fault == "unknown, aborted":
            self.producer = False
            return Unknown("injected")
        bad = self._bad(outputs)
        if bad is None and member != self.broker.generation:
            return StaleMember(f"generation {member}, not {self.broker.generation}")
        return bad

    def probe(self, outputs):
        assert self.producer
        fault = self.faults.pop(0) if self.faults and self.faults[0] == "probe refused" else ""
        self.used[fault] += 1
        if fault:
            return self._abort(Refused("injected"))
        return self._abort(self._bad(outputs) or Committed())

    def close(self) -> None:
        self.producer = False

    def _abort(self, result):
        self.broker.aborted += 1
        return result

    @staticmethod
    def _bad(outputs):
        wrong = [index for index, (_, output) in enumerate(outputs) if output.value in (BAD, NAMED)]
        if not wrong:
            return None
        index = wrong[0]
        return BadOutput("injected", index if outputs[index][1].value == NAMED else None)


@dataclass
class Group:
    """A reader's side of the group, as its committer sees it."""

    broker: Broker
    transactions: Transactions
    known: int | None = None
    """The generation that the reader knows of; the broker's may be ahead."""
    on_asked: Callable[[], None] = lambda: None
    """What the reader does when it is asked for fresh metadata."""
    serial: int = 0
    looks: int = 0
    before_look: tuple[int, Callable[[], None]] | None = None
    after_look: tuple[int, Callable[[], None]] | None = None
    """What other threads do just before or just after the committer looks at the membership for the n-th time."""

    def membership(self):
        self.looks += 1
        self._meanwhile(self.before_look)
        seen = None if self.known is None else Membership(self.serial, self.known)
        self._meanwhile(self.after_look)
        return seen

    def _meanwhile(self, event):
        if event is not None and event[0] == self.looks:
            event[1]()

    def renewed_membership(self, after, wait_s):
        self.on_asked()
        self.serial += 1
        assert self.serial < 5_000, "refused for ever"
        return self.membership()

    def committed(self, partitions):
        assert self.transactions.undecided is None, "the broker does not answer while a transaction is pending"
        return {at: self.broker.progress(*at) for at in partitions}
