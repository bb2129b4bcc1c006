"""Single behaviours of the committer, on a broker in memory."""

import pytest

from pipeline.errors import FailureClass, StageStopped
from pipeline.stream import output
from pipeline.stream.committer import PATIENCE, Committer
from pipeline.stream.limits import StageLimits
from pipeline.stream.output import Output
from pipeline.stream.transaction import BadOutput, Forbidden, Stopping
from pipeline.stream.window import Counters
from tests.engine.builders import ROUTE, a_delivery, a_tenure
from tests.engine.sim_broker import BAD, NAMED, Broker, Group, Transactions

OUT = "dev.out"


class Bench:
    """A committer that is driven by hand, and what surrounds it."""

    def __init__(self, transactions=Transactions, **limits):
        self.broker = Broker()
        self.transactions = transactions(self.broker)
        self.transactions.renew()
        self.group = Group(self.broker, self.transactions, self.broker.generation)
        self.counters = Counters()
        self.pauses = []
        self.failures = []
        self.committer = Committer(
            ROUTE,
            StageLimits(**limits),
            transactions=self.transactions,
            group=self.group,
            counters=self.counters,
            on_failure=self.failures.append,
            now=lambda: 1_700_000_000.0,
            monotonic=lambda: 0.0,
            pause=self.pauses.append,
        )

    def finish(self, delivery, *outputs):
        delivery.outputs = outputs or (fine(delivery),)
        delivery.track.finished += 1
        self.committer.push(delivery)
        return delivery

    def round(self, *faults):
        self.transactions.faults = list(faults)
        self.committer.round()

    def visible(self, topic=OUT, partition=0):
        return [record.value for record in self.broker.log(topic, partition)]


def fine(delivery, topic=OUT):
    return Output(topic, delivery.key, b"%d" % delivery.offset)


def bad(delivery, value=BAD, topic=OUT):
    return Output(topic, delivery.key, value)


@pytest.fixture
def bench():
    return Bench()


def finished(bench, track, offsets, key=None):
    return [bench.finish(a_delivery(track, offset, key=key)) for offset in offsets]


def test_outputs_and_offsets_become_visible_together(bench):
    track = a_tenure().input
    finished(bench, track, [0, 1, 3])
    bench.round()
    assert bench.visible() == [b"0", b"1", b"3"]
    assert bench.broker.progress("dev.in", 0).runs == ((3, 4),)
    assert (track.finished, track.released, track.held, track.held_bytes) == (3, 3, 0, 0)


def test_a_round_with_nothing_finished_asks_nothing_of_the_broker(bench):
    bench.round()
    assert bench.transactions.used.total() == 0


def test_one_transaction_takes_what_the_limit_says_and_the_round_takes_all():
    bench = Bench(round_records=10)
    finished(bench, a_tenure().input, range(25))
    bench.round()
    assert bench.counters.rounds == 3
    assert len(bench.visible()) == 25


@pytest.mark.parametrize("value", [BAD, NAMED], ids=["unnamed", "named"])
def test_one_bad_output_among_a_thousand_hurts_only_itself(bench, value):
    tenures = [a_tenure(number) for number in range(4)]
    for n in range(1000):
        delivery = a_delivery(tenures[n % 4].input, n // 4)
        bench.finish(delivery, *[bad(delivery, value) if n == 617 else fine(delivery)])
    bench.round()
    letters = [record for number in range(4) for record in bench.broker.log("dev.dead", number)]
    assert [dict(letter.headers)[output.SOURCE_OFFSET] for letter in letters] == [b"154"]
    assert [letter.value for letter in letters] == [b"value"]
    assert sum(len(bench.visible(OUT, number)) for number in range(4)) == 999
    assert bench.broker.aborted <= (25 if value is BAD else 1)
    assert bench.counters.rounds == 1


def test_many_bad_outputs_in_one_round_are_all_found(bench):
    track = a_tenure().input
    for offset in range(64):
        delivery = a_delivery(track, offset)
        bench.finish(delivery, bad(delivery, BAD if offset % 2 else NAMED) if offset % 5 else fine(delivery))
    bench.round()
    assert bench.visible() == [b"%d" % offset for offset in range(0, 64, 5)]
    assert len(bench.visible("dev.dead")) == 51
    assert bench.counters.outputs_buried == 51


def test_bad_neighbours_are_found_by_one_search(bench):
    track = a_tenure().input
    for offset in range(100):
        delivery = a_delivery(track, offset)
        bench.finish(delivery, bad(delivery) if offset in {41, 42, 43} else fine(delivery))
    bench.round()
    assert (len(bench.visible()), len(bench.visible("dev.dead"))) == (97, 3)
    assert bench.counters.rounds_refused == 1


def test_two_bad_outputs_of_one_record_are_one_dead_letter(bench):
    delivery = a_delivery()
    bench.finish(delivery, bad(delivery), bad(delivery, topic="dev.audit"))
    bench.round()
    assert len(bench.visible("dev.dead")) == 1


def test_a_buried_record_keeps_its_place_before_the_next_of_its_key(bench):
    track = a_tenure().input
    first, second = a_delivery(track, 0, key=b"k"), a_delivery(track, 1, key=b"k")
    bench.finish(first, bad(first))
    bench.finish(second)
    bench.round()
    assert bench.broker.offsets["dev.in", 0] == (2, "")
    assert (bench.visible("dev.dead"), bench.visible()) == ([b"value"], [b"1"])


def test_what_a_buried_record_remembered_is_still_remembered(bench):
    delivery = a_delivery()
    bench.finish(delivery, bad(delivery), Output("dev.state", b"k", b"v"))
    bench.round()
    assert bench.visible("dev.state") == [b"v"]


def test_the_letter_of_a_buried_record_says_why(bench):
    delivery = a_delivery()
    bench.finish(delivery, bad(delivery))
    bench.round()
    said = dict(bench.broker.log("dev.dead", 0)[0].headers)
    assert said[output.CAUSE] == b"output refused: injected"
    assert said[output.CLASS] == FailureClass.PERMANENT.encode()


class DeadTopicGone(Transactions):
    @staticmethod
    def _bad(outputs):
        wrong = [
            index for index, (_, record) in enumerate(outputs) if record.topic == "dev.dead" or record.value == BAD
        ]
        return BadOutput("no such topic", wrong[0]) if wrong else None


def test_a_dead_letter_that_cannot_be_written_stops_the_stage_with_nothing_committed():
    bench = Bench(DeadTopicGone)
    delivery = a_delivery()
    bench.finish(delivery, bad(delivery))
    with pytest.raises(StageStopped, match=r"cannot write to dev\.dead: no such topic"):
        bench.round()
    assert bench.broker.offsets == {}


def test_a_state_record_that_cannot_be_written_stops_the_stage(bench):
    delivery = a_delivery()
    bench.finish(delivery, fine(delivery), bad(delivery, topic="dev.state"))
    with pytest.raises(StageStopped, match=r"cannot write to dev\.state"):
        bench.round()
    assert bench.broker.offsets == {}


class NoRights(Transactions):
    def run(self, outputs, offsets, member):
        return Forbidden("TOPIC_AUTHORIZATION_FAILED: dev.out", "give it the ACLs")


def test_missing_rights_stop_the_stage_and_name_what_is_missing():
    bench = Bench(NoRights)
    finished(bench, a_tenure().input, [0])
    with pytest.raises(StageStopped, match=r"may not write: TOPIC_AUTHORIZATION_FAILED: dev\.out"):
        bench.round()


def test_after_some_refusals_the_producer_is_new_and_the_round_smaller():
    bench = Bench(round_records=8)
    finished(bench, a_tenure().input, range(8))
    renewed = []
    bench.transactions.renew = lambda: renewed.append(bench.transactions.used["refused"])
    bench.round(*["refused"] * (2 * PATIENCE))
    assert renewed == [PATIENCE, 2 * PATIENCE]
    assert bench.counters.rounds == 3, "2, 4 and the last 2 of 8"
    assert len(bench.visible()) == 8


def test_refusals_without_end_make_pauses_that_stay_short(bench):
    finished(bench, a_tenure().input, [0])
    bench.round(*["refused"] * 1_500)
    assert max(bench.pauses) == 1.0
    assert bench.visible() == [b"0"]


class OnlySmall(Transactions):
    """Refuses what is large in sum, and finds no fault with any record."""

    def run(self, outputs, offsets, member):
        if len(outputs) > 10:
            return self._abort(BadOutput("too large together"))
        return super().run(outputs, offsets, member)


def test_a_round_that_is_refused_for_its_sum_is_made_smaller_until_it_passes():
    bench = Bench(OnlySmall)
    finished(bench, a_tenure().input, range(100))
    bench.round()
    assert len(bench.visible()) == 100
    assert bench.visible("dev.dead") == []


def test_while_a_rebalance_lasts_rounds_are_repeated_with_growing_pauses(bench):
    finished(bench, a_tenure().input, [0])
    bench.broker.generation += 1
    asked = []

    def learn_at_last():
        asked.append(None)
        if len(asked) == 4:
            bench.group.known = bench.broker.generation

    bench.group.on_asked = learn_at_last
    bench.round()
    assert bench.visible() == [b"0"]
    assert bench.pauses == sorted(set(bench.pauses))
    assert len(bench.pauses) == 4


def test_without_a_membership_nothing_is_written(bench):
    bench.group.known = None
    finished(bench, a_tenure().input, [0])

    def join():
        assert bench.transactions.used.total() == 0
        bench.group.known = bench.broker.generation

    bench.group.on_asked = join
    bench.round()
    assert bench.visible() == [b"0"]


def test_what_belongs_to_a_tenure_that_ended_is_dropped_and_counted(bench):
    kept, lost = a_tenure(0), a_tenure(1)
    finished(bench, kept.input, [0, 1])
    finished(bench, lost.input, [0, 1, 2])
    lost.alive = False
    bench.round()
    assert bench.visible(OUT, 0) == [b"0", b"1"]
    assert bench.visible(OUT, 1) == []
    assert bench.counters.epoch_drops == 3


@pytest.mark.parametrize("outcome", ["unknown, committed", "unknown, committed late", "unknown, aborted"])
def test_an_unknown_outcome_is_settled_and_nothing_doubled(bench, outcome):
    track = a_tenure().input
    finished(bench, track, [0, 2])
    bench.round(outcome)
    assert bench.visible() == [b"0", b"2"]
    assert track.released == 2
    assert bench.counters.rounds_unknown == 1


def test_a_round_full_of_records_without_room_does_not_keep_the_lowest_waiting():
    bench = Bench(round_records=100)
    track = a_tenure().input
    lowest = a_delivery(track, 0)
    finished(bench, track, range(1, 12_000, 2))
    bench.round()
    assert 1_500 < len(bench.visible()) < 3_000
    assert track.stuck
    for even in range(2, 11_999, 2):
        bench.finish(a_delivery(track, even))
    bench.finish(lowest)
    bench.round()
    assert len(bench.visible()) == 12_000
    assert not track.stuck
    assert bench.broker.offsets["dev.in", 0] == (12_000, "")


def test_a_partition_without_room_keeps_no_other_waiting():
    bench = Bench(round_records=100)
    stuck, free = a_tenure(0), a_tenure(1)
    finished(bench, stuck.input, range(1, 12_000, 2))
    bench.round()
    finished(bench, free.input, range(500))
    bench.round()
    assert len(bench.visible(OUT, 1)) == 500
    assert (stuck.input.stuck, free.input.stuck) == (True, False)


def test_a_partition_is_not_paused_any_more_once_its_records_got_in():
    bench = Bench()
    one, other = a_tenure(0), a_tenure(1)
    lowest = a_delivery(one.input, 0)
    finished(bench, one.input, range(1, 12_000, 2))
    bench.round()
    for even in range(2, 11_999, 2):
        bench.finish(a_delivery(one.input, even))
    bench.finish(lowest)
    finished(bench, other.input, range(1, 12_000, 2))
    bench.round()
    assert (one.input.stuck, other.input.stuck) == (False, True)


def test_a_key_that_waits_in_the_retry_track_is_not_overtaken_in_the_input_track(bench):
    tenure = a_tenure()
    a_delivery(tenure.retry, 0, key=b"slow")
    finished(bench, tenure.retry, range(1, 12_000, 2))
    waiting = bench.finish(a_delivery(tenure.retry, 12_001, key=b"k"))
    after = bench.finish(a_delivery(tenure.input, 0, key=b"k"))
    free = bench.finish(a_delivery(tenure.input, 1, key=b"free"))
    bench.round()
    assert tenure.retry.stuck
    assert tenure.input.progress.is_done(free.offset)
    assert not tenure.input.progress.is_done(after.offset)
    for even in range(0, 12_001, 2):
        bench.finish(a_delivery(tenure.retry, even))
    bench.round()
    assert tenure.retry.progress.is_done(waiting.offset)
    assert tenure.input.progress.is_done(after.offset)
    values = bench.visible()
    assert values.index(b"12001") < len(values) - 1 - values[::-1].index(b"0")


# -- on its own thread ----------------------------------------------------------------------------------------


def test_what_is_finished_is_committed_before_it_ends(bench):
    track = a_tenure().input
    bench.committer.start()
    assert bench.committer.ready.wait(5)
    finished(bench, track, range(100))
    bench.committer.close()
    bench.committer.join(5)
    assert not bench.committer.is_alive()
    assert track.released == 100
    assert not bench.transactions.producer


def test_a_lone_record_is_committed_without_a_pause(bench):
    track = a_tenure().input
    bench.committer.start()
    finished(bench, track, [0])
    bench.committer.close()
    bench.committer.join(5)
    assert bench.pauses == []
    assert bench.visible() == [b"0"]


class Broken(Transactions):
    def run(self, outputs, offsets, member):
        raise RuntimeError("no idea")


def test_whatever_it_cannot_go_on_with_is_told_once():
    bench = Bench(Broken)
    bench.committer.start()
    finished(bench, a_tenure().input, [0])
    bench.committer.join(5)
    assert [str(failure) for failure in bench.failures] == ["no idea"]
    assert not bench.transactions.producer


def test_an_end_of_the_process_is_no_failure(bench):
    def give_up():
        raise Stopping

    bench.transactions.renew = give_up
    bench.committer.start()
    bench.committer.join(5)
    assert bench.failures == []
    assert not bench.committer.ready.is_set()
