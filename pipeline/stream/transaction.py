"""One Kafka transaction as one call with a closed set of results.

The order inside is strict: produce, flush, offsets, commit. A delivery that fails is therefore known before the
commit begins, and whatever goes wrong before the commit begins is aborted and may be repeated from memory. What
goes wrong later has an unknown outcome until a new producer with the same transactional.id has settled it
(librdkafka #5423, #4849).
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from pipeline.stream.output import Output
from pipeline.stream.progress import METADATA_LIMIT

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """Every output and offset is visible to read_committed readers."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Aborted before the commit began: nothing is visible, and the same may be tried again."""

    cause: str


@dataclass(frozen=True, slots=True)
class StaleMember:
    """Aborted: the group has a new generation, or this process is no longer its member."""

    cause: str


@dataclass(frozen=True, slots=True)
class BadOutput:
    """Aborted: a record in it cannot be written, whatever else is tried. `index` names it where the client can."""

    cause: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Aborted: the broker will not take it from this identity, or as it is set up. `remedy` says who can help."""

    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may be committed or not. `renew`, then read what is committed, then go on.

    `fenced`: another producer with the same transactional.id is alive, or the broker gave this one up.
    """

    cause: str
    fenced: bool = False


Result: TypeAlias = Committed | Refused | StaleMember | BadOutput | Forbidden | Unknown

Offsets: TypeAlias = Sequence[tuple[str, int, int, str]]
"""(physical topic, partition, offset, metadata) for each partition that a round commits."""


class TransactionLog(Protocol):
    """Where a committer writes. Every call blocks, and is made by the committer's thread alone."""

    def renew(self) -> None:
        """Drops the producer, makes a new one with the same transactional.id, and settles what the old one left.

        Blocks until the broker answered; raises Stopping when the process is to end before that.
        """
        ...

    def run(self, outputs: Sequence[tuple[int, Output]], offsets: Offsets, member: object) -> Result:
        """Writes (partition, output) pairs and offsets in one transaction, as the member of the group given."""
        ...

    def probe(self, outputs: Sequence[tuple[int, Output]]) -> Result:
        """Writes in a transaction that is always aborted. Committed means: it could have been committed."""
        ...

    def close(self) -> None:
        """Lets go of the producer."""
        ...


SLOW_S = 0.3
"""What is not delivered after this long makes the client be asked whether something failed."""


class Stopping(Exception):
    """The process is to end; a call that would have waited gave up. Nothing is lost: nothing was committed."""


_STALE = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)
_BAD_OUTPUT = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._INVALID_ARG,
    }
)
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


class KafkaTransactions:
    """The TransactionLog on a real broker.

    `config` is for the producer without transactional.id. `stopping` is asked before every wait that could last.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        transactional_id: str,
        *,
        timeout_s: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._config = {
            "linger.ms": 0,
            "batch.num.messages": 10_000,
            # Well below a topic's usual max.message.bytes: the broker measures batches, and a batch of small
            # records must never be refused for its sum.
            "batch.size": 500_000,
            "message.max.bytes": 8_000_000,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 262_144,
            "topic.metadata.propagation.max.ms": 5_000,
            "acks": "all",
            "transaction.timeout.ms": round(timeout_s * 1000),
            **config,
            "transactional.id": transactional_id,
        }
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._producer: Producer | None = None

    def renew(self) -> None:
        self.close()
        wait_s = 0.1
        while True:
            if self._stopping():
                raise Stopping
            producer = Producer(self._config, logger=log)
            try:
                producer.init_transactions(self._timeout_s)
            except KafkaException as failure:
                log.warning("init_transactions for %s: %s", self._config["transactional.id"], _text(failure))
                _let_go(producer)
                time.sleep(wait_s)
                wait_s = min(wait_s * 2, 2.0)
            else:
                self._producer = producer
                return

    def run(self, outputs: Sequence[tuple[int, Output]], offsets: Offsets, member: object) -> Result:
        producer = self._producer
        assert producer is not None, "renew() comes first"
        refused = self._produce(producer, outputs) or self._deliver(
            producer, lambda: self._send_offsets(producer, offsets, member)
        )
        if refused is not None:
            return self._abort(producer, refused)
        return self._commit(producer)

    def probe(self, outputs: Sequence[tuple[int, Output]]) -> Result:
        producer = self._producer
        assert producer is not None, "renew() comes first"
        failed: list[tuple[int, KafkaError]] = []

        def report_of(index: int) -> Callable[[KafkaError | None, object], None]:
            def report(error: KafkaError | None, _message: object) -> None:
                if error is not None and error.code() != KafkaError._PURGE_QUEUE:
                    failed.append((index, error))

            return report

        result = self._produce(producer, outputs, report_of) or self._deliver(
            producer, lambda: _named_failure(failed) if failed else None
        )
        return self._abort(producer, result or Committed())

    def close(self) -> None:
        if self._producer is not None:
            _let_go(self._producer)
            self._producer = None

    def _produce(
        self,
        producer: Producer,
        outputs: Sequence[tuple[int, Output]],
        report_of: Callable[[int], Callable[[KafkaError | None, object], None]] | None = None,
    ) -> Result | None:
        try:
            producer.begin_transaction()
        except KafkaException as failure:
            return Unknown(f"begin: {_text(failure)}")
        produce = producer.produce
        for index, (partition, output) in enumerate(outputs):
            report = report_of(index) if report_of is not None else None
            while True:
                try:
                    produce(
                        output.topic,
                        output.value,
                        output.key,
                        partition,
                        on_delivery=report,
                        headers=list(output.headers),
                    )
                except BufferError:
                    # The client's own queue is full. It empties by itself, or flush below runs into its bound.
                    refused = self._make_room(producer)
                    if refused is not None:
                        return refused
                except KafkaException as failure:
                    return _named(failure, index)
                except (TypeError, ValueError) as failure:
                    return BadOutput(f"{type(failure).__name__}: {failure}", index)
                else:
                    break
        return None

    def _make_room(self, producer: Producer) -> Result | None:
        try:
            producer.poll(0.05)
        except KafkaException as failure:  # a fatal error of the producer
            return _named(failure, None)
        return Refused("the process is to end") if self._stopping() else None

    def _deliver(self, producer: Producer, ask: Callable[[], Result | None]) -> Result | None:
        """Waits until all is delivered and `ask` had no objection.

        Once a record of a transaction failed, the client delivers nothing more of it and says so only when it is
        asked something: so what is not delivered soon is a reason to ask early, not to wait for the bound.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            while producer.flush(SLOW_S):
                refused = ask()
                if refused is not None:
                    return refused
                if time.monotonic() > deadline or self._stopping():
                    return Refused(f"not delivered within {self._timeout_s:g} s")
        except KafkaException as failure:  # a fatal error of the producer, such as being fenced
            return _named(failure, None)
        return ask()

    def _send_offsets(self, producer: Producer, offsets: Offsets, member: object) -> Result | None:
        if not offsets:
            return None
        positions = [TopicPartition(topic, at, offset, metadata) for topic, at, offset, metadata in offsets]
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                returned = _bounded(
                    lambda: producer.send_offsets_to_transaction(positions, member, self._timeout_s),
                    self._timeout_s + 1,
                )
            except KafkaException as failure:
                if failure.args[0].retriable() and time.monotonic() < deadline and not self._stopping():
                    continue
                return _named(failure, None)
            else:
                return None if returned else Unknown("send_offsets_to_transaction does not return")

    def _commit(self, producer: Producer) -> Result:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                producer.commit_transaction(self._timeout_s)
            except KafkaException as failure:
                if failure.args[0].code() == KafkaError._INCONSISTENT and failure.args[0].txn_requires_abort():
                    # Said by the client before it asks the broker to commit: a record failed without the broker
                    # having seen it, as one for a topic that does not exist.
                    return self._abort(producer, BadOutput(_text(failure)))
                # Retriable: the same commit goes on, and only calling again tells how it ended.
                if failure.args[0].retriable() and time.monotonic() < deadline:
                    continue
                return Unknown(f"commit: {_text(failure)}")
            else:
                return Committed()

    def _abort(self, producer: Producer, result: Result) -> Result:
        if isinstance(result, Unknown):
            return result
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                producer.abort_transaction(self._timeout_s)
            except KafkaException as failure:
                if failure.args[0].retriable() and time.monotonic() < deadline:
                    continue
                return Unknown(f"abort after {result}: {_text(failure)}")
            else:
                return result


def _bounded(call: Callable[[], None], bound_s: float) -> bool:
    """Makes a call that may never return, as `send_offsets_to_transaction` may after a cut of the network
    (librdkafka #5456, #5511). False when it did not return in time: its thread and its producer are given up.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as failure:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(failure)

    # Not a pool: its threads are waited for when the process ends.
    calling = threading.Thread(target=run, name="send-offsets", daemon=True)
    calling.start()
    calling.join(bound_s)
    if failures:
        raise failures[0]
    return not calling.is_alive()


def _named_failure(failed: list[tuple[int, KafkaError]]) -> Result:
    """A whole batch fails for one record in it: only a lone name is a name."""
    index, error = failed[0]
    return _named(KafkaException(error), index if len(failed) == 1 else None)


def _named(failure: KafkaException, index: int | None) -> Result:
    """What an error before the commit means for the records of the round."""
    error: KafkaError = failure.args[0]
    code = error.code()
    text = _text(failure)
    if error.fatal():
        return Unknown(text, fenced=code in _FENCED)
    if code in _STALE:
        return StaleMember(text)
    if code in _FORBIDDEN:
        return Forbidden(text, "give its identity the ACLs that topics.yaml implies")
    if code == KafkaError.OFFSET_METADATA_TOO_LARGE:
        return Forbidden(text, f"set the broker's offset.metadata.max.bytes to {METADATA_LIMIT} or more")
    if code in _BAD_OUTPUT:
        return BadOutput(text, index)
    return Refused(text)


def _text(failure: KafkaException) -> str:
    error: KafkaError = failure.args[0]
    return f"{error.name()}: {error.str()}"


def _let_go(producer: Producer) -> None:
    """Destroys a producer without waiting for it: what it still holds is decided by the broker, not by us."""

    def destroy(doomed: list[Producer]) -> None:
        try:
            doomed[0].purge(in_queue=True, in_flight=True, blocking=False)
        except KafkaException as failure:
            log.debug("purge: %s", _text(failure))
        doomed.clear()  # the last reference: librdkafka joins its threads here, which may take seconds

    threading.Thread(target=destroy, args=([producer],), name="producer-destroy", daemon=True).start()
