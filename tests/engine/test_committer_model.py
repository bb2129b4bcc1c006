"""Two committers, one group, everything that can go wrong between them: checked at every commit that becomes visible.

Whatever the interleaving of finishing, faults, crashes, rebalances and zombies: a record's output is visible at most
once and in the order of its key, what is committed as done is visible, and what finished is not lost.
"""

from collections import defaultdict
from contextlib import suppress
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.stream import output
from pipeline.stream.committer import Committer
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.progress import Progress
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.window import Counters
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.profile import machine
from tests.engine.sim_broker import BAD, NAMED, Broker, Crash, Group, Transactions

PARTITIONS = (0, 1)
KEYS = [None, b"a", b"b", b"c", b"d", b"e"]
OUT, AUDIT = "dev.out", "dev.audit"
LIMITS = StageLimits(round_records=4)
FAULTS = [
    "refused",
    "unknown, aborted",
    "unknown, committed",
    "unknown, committed late",
    "rebalanced meanwhile",
    "probe refused",
]
OUTCOMES = ["next", "next and audit", "park", "bad", "named bad", "two bad", "bad audit"]


def source_of(record):
    """(partition, offset) in the input topic of what a record was made from."""
    said = dict(record.headers)
    return int(said[output.SOURCE_PARTITION]), int(said[output.SOURCE_OFFSET])


def made_from(topic, delivery, value=b"fine"):
    headers = (
        (output.SOURCE_PARTITION, b"%d" % delivery.track.partition),
        (output.SOURCE_OFFSET, b"%d" % delivery.source_offset),
    )
    return Output(topic, delivery.key, value, headers)


def outputs_of(delivery, outcome):
    return {
        "next": (made_from(OUT, delivery),),
        "next and audit": (made_from(OUT, delivery), made_from(AUDIT, delivery)),
        "park": (made_from(ROUTE.retry, delivery),),
        "bad": (made_from(OUT, delivery, BAD),),
        "named bad": (made_from(OUT, delivery, NAMED),),
        "two bad": (made_from(OUT, delivery, BAD), made_from(AUDIT, delivery, BAD)),
        "bad audit": (made_from(OUT, delivery), made_from(AUDIT, delivery, NAMED)),
    }[outcome]


class Worker:
    """One process: a slot that outlives it, and what it holds while it lives."""

    def __init__(self, broker, on_commit):
        self.transactions = Transactions(broker, on_commit=on_commit)
        self.broker = broker
        self.counters = Counters()
        self.start()

    def start(self):
        """A new process in the same slot, with nothing in memory."""
        self.tenures = {}
        self.open = {}
        self.pushed = []
        self.group = Group(self.broker, self.transactions, self.broker.generation, on_asked=self.learn)
        self.committer = Committer(
            ROUTE,
            LIMITS,
            transactions=self.transactions,
            group=self.group,
            counters=self.counters,
            on_failure=lambda failure: None,
            now=lambda: 1_700_000_000.0,
            monotonic=lambda: 0.0,
            pause=lambda seconds: None,
        )
        self.transactions.renew()

    def own(self, partition):
        """What assignment and restore do: everything from what the group has committed."""
        self.end(partition)
        progress = self.broker.progress(ROUTE.input, partition) or Progress(0)
        retry_progress = self.broker.progress(ROUTE.retry, partition) or Progress(0)
        counts = defaultdict(int)
        unkeyed = 0
        for offset, record in self.retries(partition):
            if not retry_progress.is_done(offset):
                if record.key is None:
                    unkeyed += 1
                else:
                    counts[record.key] += 1
        self.tenures[partition] = a_tenure(
            partition, progress=progress, retry_progress=retry_progress, parked=ParkedKeys(dict(counts), unkeyed)
        )

    def end(self, partition):
        tenure = self.tenures.pop(partition, None)
        if tenure is not None:
            tenure.closing = True
            tenure.alive = False

    def learn(self):
        """The callbacks of a rebalance that this worker had not heard of."""
        for partition in list(self.tenures):
            if self.broker.owners[partition] is not self:
                self.end(partition)
        self.group.known = self.broker.generation

    def retries(self, partition):
        """The retry topic has a marker after every record."""
        return [(2 * at, record) for at, record in enumerate(self.broker.log(ROUTE.retry, partition))]

    def read(self, partition, log):
        """Hands over everything of both topics that was not read yet."""
        tenure = self.tenures[partition]
        for track, records in ((tenure.input, log), (tenure.retry, self.retries(partition))):
            for offset, record in records:
                cover = track.next_offset
                if offset < cover:
                    continue
                track.next_offset = offset + 1
                if track.restored.is_done(offset):
                    continue
                key = record.key if track is tenure.retry else record
                delivery = a_delivery(track, offset, cover=cover, key=key)
                if track is tenure.retry:
                    delivery.source_offset = source_of(record)[1]
                self.open.setdefault(track, []).append(delivery)

    def finishable(self):
        """What lanes would hand out: the first of each key, anything without one."""
        found = []
        for waiting in self.open.values():
            keys = set()
            for delivery in waiting:
                if delivery.key is None or delivery.key not in keys:
                    found.append(delivery)
                keys.add(delivery.key)
        return found

    def finish(self, delivery, outcome):
        track = delivery.track
        tenure = track.tenure
        self.open[track].remove(delivery)
        if track is tenure.retry:
            outcome = "next" if outcome == "park" else outcome
            tenure.parked.remove(delivery.key)
        elif delivery.key in tenure.parked:
            outcome = "park"
        if outcome == "park":
            tenure.parked.add(delivery.key)
        delivery.outputs = outputs_of(delivery, outcome)
        if tenure.alive:
            track.finished += 1
            self.committer.push(delivery)
            self.pushed.append(delivery)
        return outcome


class TwoCommitters(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        # Room for very few holes, so that waiting for room is what happens all the time.
        self.limit = patch("pipeline.stream.progress.BODY_LIMIT", 2)
        self.limit.start()
        self.broker = Broker()
        self.logs = {partition: [] for partition in PARTITIONS}
        self.may_die = set()
        self.workers = [Worker(self.broker, self.check_what_is_visible) for _ in range(2)]
        for worker in self.workers:
            worker.transactions.on_rebalance = self.steal_something
        for partition in PARTITIONS:
            self.broker.owners[partition] = self.workers[partition % 2]
            self.broker.owners[partition].own(partition)

    def teardown(self):
        try:
            self.come_to_rest()
        finally:
            self.limit.stop()

    # -- what happens ---------------------------------------------------------------------------------------

    @initialize()
    def some_records(self):
        for partition in PARTITIONS:
            self.publish(partition, [(key, gap) for gap in (0, 1, 0) for key in KEYS])

    @rule(
        partition=st.sampled_from(PARTITIONS),
        records=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 2)), min_size=1, max_size=6),
    )
    def publish(self, partition, records):
        log = self.logs[partition]
        for key, gap in records:
            log.append(((log[-1][0] + 1 if log else 0) + gap, key))

    def steps(self, data):
        worker = data.draw(st.sampled_from(self.workers))
        for partition in worker.tenures:
            worker.read(partition, self.logs[partition])
        return worker

    @rule(data=st.data(), count=st.integers(1, 8))
    def finish(self, data, count):
        worker = self.steps(data)
        for _ in range(count):
            found = worker.finishable()
            if not found:
                return
            delivery = data.draw(st.sampled_from(found))
            outcome = worker.finish(delivery, data.draw(st.sampled_from(OUTCOMES)))
            if "bad" in outcome:
                self.may_die.add((delivery.track.partition, delivery.source_offset))

    @rule(data=st.data())
    def finish_all_but_the_lowest(self, data):
        worker = self.steps(data)
        found = [d for d in worker.finishable() if d.cover > d.track.progress.base]
        for delivery in data.draw(st.permutations(found)):
            worker.finish(delivery, "next")

    @rule(data=st.data())
    def park(self, data):
        """Some keys fail: they and all that follows of them go to the retry topic."""
        worker = self.steps(data)
        keys = data.draw(st.sets(st.sampled_from(KEYS)))
        while found := [d for d in worker.finishable() if d.key in keys and d.track is d.track.tenure.input]:
            for delivery in found:
                worker.finish(delivery, "park")
        worker.committer.round()
        self.check_what_waits(worker)

    @rule(worker=st.sampled_from([0, 1]), faults=st.lists(st.sampled_from(FAULTS), max_size=3), many=st.booleans())
    def round(self, worker, faults, many):
        worker = self.workers[worker]
        worker.transactions.faults = ["refused"] * 7 * many + faults
        worker.committer.round()
        worker.transactions.faults = []
        self.check_what_waits(worker)

    @rule(
        worker=st.sampled_from([0, 1]),
        partition=st.sampled_from(PARTITIONS),
        look=st.integers(1, 3),
        before=st.booleans(),
    )
    def round_while_the_reader_ends_a_tenure(self, worker, partition, look, before):
        worker = self.workers[worker]

        def lose():
            if self.broker.owners[partition] is worker:
                self.steal(partition)
            worker.learn()

        event = (worker.group.looks + look, lose)
        if before:
            worker.group.before_look = event
        else:
            worker.group.after_look = event
        worker.committer.round()
        self.check_what_waits(worker)

    @rule(
        worker=st.sampled_from([0, 1]),
        when=st.sampled_from(["crash before", "crash after", "crash, committed late", "crash, aborted late"]),
    )
    def die_in_a_round(self, worker, when):
        worker = self.workers[worker]
        worker.transactions.faults = [when]
        with suppress(Crash):
            worker.committer.round()
        worker.transactions.faults = []
        self.restart(worker)

    @rule(worker=st.sampled_from([0, 1]))
    def die(self, worker):
        self.restart(self.workers[worker])

    @rule(partition=st.sampled_from(PARTITIONS))
    def move(self, partition):
        """A rebalance in which the old owner takes part."""
        old = self.broker.owners[partition]
        new = self.workers[1 - self.workers.index(old)]
        old.end(partition)
        self.give(partition, new)
        for worker in self.workers:
            worker.learn()

    @rule(partition=st.sampled_from(PARTITIONS))
    def steal(self, partition):
        """The group takes a partition from an owner that does not answer. It goes on as if nothing had happened."""
        old = self.broker.owners[partition]
        self.give(partition, self.workers[1 - self.workers.index(old)])

    def steal_something(self):
        self.steal(self.broker.generation % len(PARTITIONS))

    def give(self, partition, worker):
        self.broker.owners[partition] = worker
        self.broker.generation += 1
        worker.learn()
        worker.own(partition)

    def restart(self, worker):
        for partition in list(worker.tenures):
            worker.end(partition)
        worker.start()
        self.broker.generation += 1
        worker.group.known = self.broker.generation
        for partition, owner in self.broker.owners.items():
            if owner is worker:
                worker.own(partition)

    # -- what must be true ----------------------------------------------------------------------------------

    def check_what_is_visible(self):
        for partition in PARTITIONS:
            out = [source_of(record)[1] for record in self.broker.log(OUT, partition)]
            dead = [source_of(record)[1] for record in self.broker.log(ROUTE.dead_letter, partition)]
            parked = [source_of(record)[1] for record in self.broker.log(ROUTE.retry, partition)]
            final = out + dead
            assert len(set(final)) == len(final), "a record has two outputs"
            assert len(set(parked)) == len(parked), "a record was parked twice"
            assert {(partition, offset) for offset in dead} <= self.may_die, "a good output was buried"
            progress = self.broker.progress(ROUTE.input, partition) or Progress(0)
            retry_progress = self.broker.progress(ROUTE.retry, partition) or Progress(0)
            for offset, _ in self.logs[partition]:
                assert progress.is_done(offset) == (offset in parked or offset in final)
            for at, offset in enumerate(parked):
                assert retry_progress.is_done(2 * at) == (offset in final)
            keys = dict(self.logs[partition])
            for key in filter(None, KEYS):
                of_key = [offset for offset in out if keys[offset] == key]
                assert of_key == sorted(of_key), "a key was reordered"

    def check_what_waits(self, worker):
        """After a round only that waits for which the metadata has no room, or which its key waits behind."""
        for tenure in worker.tenures.values():
            held = set()
            for track in (tenure.retry, tenure.input):
                waiting = [d for d in worker.pushed if d.track is track and not track.progress.is_done(d.offset)]
                free = [d for d in waiting if d.key not in held]
                assert track.stuck == bool(free), "a partition is paused for nothing, or not paused"
                assert not [d for d in free if d.cover <= track.progress.base], "the lowest waits"
                assert track.finished - track.released == len(waiting)
                held |= {d.key for d in waiting if d.key is not None}

    @invariant()
    def counters_agree_with_the_group(self):
        for worker in self.workers:
            for tenure in worker.tenures.values():
                if self.broker.owners[tenure.partition] is worker:
                    for track in tenure.tracks:
                        known = self.broker.progress(track.topic, track.partition)
                        assert known is None or (known.base, known.runs) == (track.progress.base, track.progress.runs)

    def come_to_rest(self):
        for worker in self.workers:
            worker.learn()
        for _ in range(200):
            for worker in self.workers:
                for partition in worker.tenures:
                    worker.read(partition, self.logs[partition])
                for delivery in worker.finishable():
                    worker.finish(delivery, "next")
                worker.committer.round()
                self.check_what_waits(worker)
            if all(self.at_rest(partition) for partition in PARTITIONS):
                break
        self.check_what_is_visible()
        for partition in PARTITIONS:
            final = self.broker.log(OUT, partition) + self.broker.log(ROUTE.dead_letter, partition)
            assert {source_of(record)[1] for record in final} == {offset for offset, _ in self.logs[partition]}

    def at_rest(self, partition):
        log = self.logs[partition]
        final = self.broker.log(OUT, partition) + self.broker.log(ROUTE.dead_letter, partition)
        return len(final) == len(log)


TestTwoCommitters = TwoCommitters.TestCase
TestTwoCommitters.settings = machine
