"""The window between a reader, agents of every kind and a real committer, with time that is told to move.

Agents crash before they enter, never enter, swallow their cancellation, resolve twice, late or not at all; partitions
close, end and come back. Whatever happens: a record is in exactly one place and finished once, one record of a key is
out at a time, keys keep their order through lanes and the retry topic, and an identity is worked on once.
"""

import asyncio
from collections import Counter, defaultdict
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.stream import output
from pipeline.stream.committer import Committer
from pipeline.stream.limits import RetryLimits, StageLimits
from pipeline.stream.progress import Progress
from pipeline.stream.retry import ParkedKeys
from pipeline.stream.state import State
from pipeline.stream.window import Counters, Window
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.clock import VirtualClock
from tests.engine.profile import machine
from tests.engine.sim_broker import Broker, Group, Transactions
from tests.engine.told_agents import ACTS, AUDIT, ENDS, OUT, SLOTS, Exits, Hand, decode, identify

PARTITIONS = (0, 1)
KEYS = [None, b"a", b"b"]
LIMITS = StageLimits(
    deadline_s=10,
    retry=RetryLimits(base_s=1, cap_s=4, lane_attempts=2, lane_keys=1, attempts=4, ceiling_s=30),
)


class WindowAndAgents(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: None)
        self.clock = VirtualClock()
        self.counters = Counters()
        self.broker = Broker()
        self.transactions = Transactions(self.broker)
        self.transactions.renew()
        self.committer = Committer(
            ROUTE,
            LIMITS,
            transactions=self.transactions,
            group=Group(self.broker, self.transactions, self.broker.generation),
            counters=self.counters,
            on_failure=lambda failure: None,
            now=self.clock.time,
            monotonic=lambda: 0.0,
            pause=lambda seconds: None,
        )
        self.window = Window(
            ROUTE,
            LIMITS,
            decode=decode,
            exits=Exits(),
            identify=identify,
            push=self.finished,
            clock=self.clock,
            random=Random(7),
            counters=self.counters,
        )
        self.logs = {partition: [] for partition in PARTITIONS}
        self.tenures = {}
        self.ended = []
        self.fed = defaultdict(list)
        self.pushed = defaultdict(list)
        self.hands = []
        self.handed = set()
        for partition in PARTITIONS:
            self.assign(partition)

    def teardown(self):
        try:
            self.come_to_rest()
        finally:
            for hand in self.hands:
                hand.stubborn = False
                hand.task.cancel()
            self.run_loop()
            self.loop.close()

    def run_loop(self):
        async def some_turns():
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some_turns())

    # -- what is around the window --------------------------------------------------------------------------

    def finished(self, delivery):
        tenure = delivery.track.tenure
        assert tenure.alive, "something was finished after its tenure had ended"
        assert delivery not in self.pushed[delivery.track]
        earlier = [one for one in self.pushed[delivery.track] if one.key == delivery.key and one.key is not None]
        assert all(one.offset < delivery.offset for one in earlier), "a key finished out of order"
        self.pushed[delivery.track].append(delivery)
        self.committer.push(delivery)

    def on_delivery(self, delivery):
        assert not delivery.track.tenure.closing, "handed out after closing"
        assert delivery not in self.handed, "the same object in two hands"
        assert delivery.value not in (b"poison", b"fault")
        self.handed.add(delivery)

    def assign(self, partition):
        progress = self.broker.progress(ROUTE.input, partition) or Progress(0)
        retry_progress = self.broker.progress(ROUTE.retry, partition) or Progress(0)
        waiting = [r for at, r in enumerate(self.broker.log(ROUTE.retry, partition)) if not retry_progress.is_done(at)]
        counts = Counter(record.key for record in waiting)
        unkeyed = counts.pop(None, 0)
        state = State(1_000)
        for record in self.broker.log(ROUTE.state, partition):
            state.restore(record.key, record.value)
        self.tenures[partition] = a_tenure(
            partition,
            progress=progress,
            retry_progress=retry_progress,
            parked=ParkedKeys(dict(counts), unkeyed),
            state=state,
        )

    def feed(self, track, records):
        batch = []
        for offset, key, value, headers in records:
            cover = track.next_offset
            if offset < cover:
                continue
            track.next_offset = offset + 1
            if not track.restored.is_done(offset):
                batch.append(
                    a_delivery(track, offset, cover=cover, key=key, value=value, headers=headers, window=self.window)
                )
        self.fed[track] += batch
        if batch:
            self.window.admit(batch)

    # -- what happens ---------------------------------------------------------------------------------------

    @initialize()
    def begin(self):
        for partition in PARTITIONS:
            self.publish(partition, [(key, gap, "new") for gap in (0, 2) for key in KEYS])

    @rule(
        partition=st.sampled_from(PARTITIONS),
        records=st.lists(
            st.tuples(
                st.sampled_from(KEYS),
                st.integers(0, 2),
                st.sampled_from(["new", "new", "new", "new!", "repeat", "other bytes", "poison", "fault"]),
            ),
            min_size=1,
            max_size=5,
        ),
    )
    def publish(self, partition, records):
        log = self.logs[partition]
        for key, gap, kind in records:
            offset = (log[-1][0] + 1 if log else 0) + gap
            older = [record for record in log if b":" in record[2]]
            if kind in ("poison", "fault"):
                log.append((offset, key, kind.encode(), ()))
            elif kind.startswith("new") or not older:
                log.append((offset, key, b"%d:x" % offset + kind[3:].encode(), ()))
            else:
                _, same_key, value, _ = older[len(log) % len(older)]
                log.append((offset, same_key, value + (b"?" if kind == "other bytes" else b""), ()))

    @rule(count=st.integers(1, 12), commits=st.booleans())
    def flow(self, count, commits):
        for partition in PARTITIONS:
            self.read(partition, count)
        if commits:
            self.commit()
            for partition in PARTITIONS:
                self.read_retries(partition)

    def read(self, partition, count):
        track = self.tenures[partition].input
        if not track.tenure.closing:
            coming = [record for record in self.logs[partition] if record[0] >= track.next_offset]
            self.feed(track, coming[:count])
            self.run_loop()

    def read_retries(self, partition):
        tenure = self.tenures[partition]
        if not tenure.closing and tenure.parked.total > 0:
            log = self.broker.log(ROUTE.retry, partition)
            self.feed(tenure.retry, [(at, r.key, r.value, r.headers) for at, r in enumerate(log)])
            self.run_loop()

    def agents_come(self, stubborn):
        for _ in range(SLOTS - sum(hand.alive for hand in self.hands)):
            self.hands.append(Hand(self.loop, self.window, self.on_delivery, stubborn=stubborn))
        self.run_loop()

    @rule(acts=ACTS)
    def agents_act(self, acts):
        for index, begin, word in acts:
            self.agents_come(stubborn=begin == "stubborn")
            busy = [hand for hand in self.hands if hand.alive and hand.delivery is not None]
            if busy:
                hand = busy[index % len(busy)]
                if hand.entered:
                    hand.tell(*word)
                else:
                    hand.tell(begin)
                self.run_loop()

    @rule(acts=ACTS, seconds=st.sampled_from([1.0, 5.0]))
    def agents_act_and_time_passes(self, acts, seconds):
        self.agents_act(acts)
        self.time_passes(seconds)
        self.flow(12, commits=True)

    @rule(data=st.data(), name=st.sampled_from(sorted(ENDS)))
    def somebody_resolves_late(self, data, name):
        old = [hand.delivery for hand in self.hands if not hand.alive and hand.delivery is not None]
        if old:
            data.draw(st.sampled_from(old)).resolve(ENDS[name])

    @rule(data=st.data())
    def an_agent_is_stopped(self, data):
        found = [hand for hand in self.hands if hand.alive]
        if found:
            data.draw(st.sampled_from(found)).task.cancel()
            self.run_loop()

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)
        self.window.sweep()
        late = [d for d in self.window._out if not d.entered and self.clock.now - d.started_s > LIMITS.deadline_s]
        assert late == [], "a record lies with an agent that never entered"
        self.run_loop()
        stubborn = {hand.delivery for hand in self.hands if hand.stubborn}
        assert [d for d in self.window._out if d.overdue and d not in stubborn] == [], "a deadline did nothing"

    @rule()
    def sweep_in_the_middle_of_a_turn(self):
        self.window.sweep()

    def commit(self):
        self.committer.round()

    @rule(partition=st.sampled_from(PARTITIONS))
    def begin_to_close(self, partition):
        self.tenures[partition].closing = True

    @rule(partition=st.sampled_from(PARTITIONS), commits=st.booleans())
    def lose(self, partition, commits):
        tenure = self.tenures[partition]
        if commits:
            self.committer.round()
        tenure.closing = True
        tenure.alive = False
        self.ended.append(tenure)
        self.committer.round()
        self.assign(partition)

    # -- what must be true ----------------------------------------------------------------------------------

    @invariant()
    def every_record_is_in_one_place(self):
        places = Counter()
        for delivery in [*self.window._ready, *self.window._out, *(args[0] for args in self.clock.pending)]:
            places[delivery.track, delivery.offset] += 1
        for track, fed in self.fed.items():
            for lane in track.lanes._lanes.values():
                for delivery in lane or ():
                    places[track, delivery.offset] += 1
            for delivery in self.pushed[track]:
                places[track, delivery.offset] += 1
            for delivery in fed:
                count = places[track, delivery.offset]
                assert count <= 1, f"{delivery} is in {count} places"
                assert count == 1 or track.tenure.closing, f"{delivery} is lost"

    @invariant()
    def one_record_of_a_key_is_out_at_a_time(self):
        keys = Counter((d.track.tenure, d.key) for d in self.window._out if d.key is not None)
        assert all(count == 1 for count in keys.values())
        for delivery in self.window._out:
            tenure = delivery.track.tenure
            assert delivery.track is not tenure.input or delivery.key not in tenure.parked

    @invariant()
    def the_counters_are_right(self):
        out = Counter(delivery.track.tenure for delivery in self.window._out)
        backing_off = Counter(d.track.tenure for (d,) in self.clock.pending if d.track is d.track.tenure.input)
        for tenure in [*self.tenures.values(), *self.ended]:
            assert tenure.out == out[tenure]
            assert tenure.backing_off == backing_off[tenure]
            for track in tenure.tracks:
                assert track.finished == len(self.pushed[track])
                assert track.fed == len(self.fed[track])
                assert track.lanes.waiting == sum(len(lane or ()) for lane in track.lanes._lanes.values())
            committed = all(track.finished == track.released for track in tenure.tracks)
            assert tenure.settled() == (out[tenure] == 0 and committed)
        everything = [delivery for pushed in self.pushed.values() for delivery in pushed]
        topics = Counter(record.topic for delivery in everything for record in delivery.outputs)
        assert self.counters.finished == len(everything)
        assert self.counters.handed_out == len(self.handed)
        assert self.counters.dead == topics[ROUTE.dead_letter]
        assert self.counters.parked == topics[ROUTE.retry]

    @invariant()
    def parked_keys_are_those_in_the_retry_topic(self):
        for partition, tenure in self.tenures.items():
            done = {delivery.offset for delivery in self.pushed[tenure.retry]}
            log = self.broker.log(ROUTE.retry, partition)
            keys = Counter(
                record.key for at, record in enumerate(log) if at not in done and not tenure.retry.restored.is_done(at)
            )
            for delivery in self.pushed[tenure.input]:
                if not tenure.input.progress.is_done(delivery.offset):
                    keys.update(record.key for record in delivery.outputs if record.topic == ROUTE.retry)
            assert tenure.parked.total == keys.total()
            assert tenure.parked.keys == {key for key in keys if key is not None}

    def finals(self, partition):
        found = defaultdict(list)
        for topic in (OUT, AUDIT, ROUTE.dead_letter):
            for record in self.broker.log(topic, partition):
                said = dict(record.headers)
                cause = said.get(output.CAUSE, b"")
                repeat = topic == AUDIT or cause.startswith((b"conflict", b"encode: no audit"))
                found[int(said[output.SOURCE_OFFSET])].append("repeat" if repeat else topic)
        return found

    @invariant()
    def what_is_visible_is_in_order_and_there_once(self):
        for partition in PARTITIONS:
            assert all(len(ends) == 1 for ends in self.finals(partition).values())
            of_key = defaultdict(list)
            for record in self.broker.log(OUT, partition):
                if record.key is not None:
                    of_key[record.key].append(int(dict(record.headers)[output.SOURCE_OFFSET]))
            assert all(offsets == sorted(offsets) for offsets in of_key.values())

    def come_to_rest(self):
        for _ in range(300):
            for hand in self.hands:
                hand.tell("resolve", "next") if hand.entered else hand.tell("enter")
            for partition in PARTITIONS:
                if self.tenures[partition].closing:
                    self.lose(partition, commits=True)
                self.read(partition, 1_000)
                self.read_retries(partition)
            self.agents_come(stubborn=False)
            self.commit()
            self.time_passes(3.0)
            self.the_counters_are_right()
            self.every_record_is_in_one_place()
            if all(len(self.finals(partition)) == len(self.logs[partition]) for partition in PARTITIONS):
                break
        self.what_is_visible_is_in_order_and_there_once()
        for partition in PARTITIONS:
            finals = self.finals(partition)
            assert set(finals) == {record[0] for record in self.logs[partition]}, "a record has no end"
            worked_on = Counter(
                value.split(b":")[0]
                for offset, _, value, _ in self.logs[partition]
                if b":" in value and finals[offset] != ["repeat"]
            )
            assert all(count == 1 for count in worked_on.values()), "an identity was worked on twice"
            assert set(worked_on) == {v.split(b":")[0] for _, _, v, _ in self.logs[partition] if b":" in v}


TestWindowAndAgents = WindowAndAgents.TestCase
TestWindowAndAgents.settings = machine
