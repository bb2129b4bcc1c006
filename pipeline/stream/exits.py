"""Turns outcomes into records for the topics: the way on, and the side exits of every stage.

A dead letter is the original record byte for byte, with headers that say where it lay and why it is here. The
headers that a stage adds start at `lockgate_source_topic`, so that they can be taken off again.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol, assert_never

from pipeline.errors import FailureClass
from pipeline.outcome import Blocked, Dead, Next, Outcome, Retry, Review
from pipeline.records import Headers
from pipeline.stream import output
from pipeline.stream.delivery import Delivery
from pipeline.stream.output import Output
from pipeline.stream.route import Route

log = logging.getLogger(__name__)


class Exits(Protocol):
    """What a stage writes for the outcomes that carry a record, and for a repeat at the entrance.

    May raise EncodeError: the delivery then becomes a dead letter.
    """

    def on(self, delivery: Delivery, outcome: Next | Review | Blocked) -> tuple[Output, ...]:
        """The outputs of a finished delivery."""
        ...

    def duplicate(self, delivery: Delivery, now_s: float) -> tuple[Output, ...]:
        """The outputs of a repeat that is dropped: its audit record."""
        ...

    def superseded(self, delivery: Delivery, outcome: Next, now_s: float) -> tuple[Output, ...]:
        """The outputs of an outcome whose `once` name was used before: its audit record."""
        ...

    def dead(self, delivery: Delivery, cause: str, failure: FailureClass, now_s: float) -> tuple[Output, ...]:
        """What is written beside a dead letter: its audit record. The letter is written whatever happens here."""
        ...


def conclude(route: Route, exits: Exits, delivery: Delivery, outcome: Outcome, now_s: float) -> tuple[Output, ...]:
    """The outputs of a delivery for an outcome that is final. Retry is not: the window decides about it."""
    match outcome:
        case Next() | Review() | Blocked():
            return exits.on(delivery, outcome)
        case Dead():
            return buried(route, exits, delivery, outcome.cause, outcome.failure, now_s)
        case Retry():
            raise AssertionError("a retry is not final")
        case _:
            assert_never(outcome)


def buried(
    route: Route, exits: Exits, delivery: Delivery, cause: str, failure: FailureClass, now_s: float
) -> tuple[Output, ...]:
    """The dead letter of a delivery, and what is written beside it."""
    letter = dead_letter(route, delivery, cause, failure, now_s)
    try:
        return (letter, *exits.dead(delivery, cause, failure, now_s))
    except Exception:
        log.exception("%s: nothing can be written beside the letter of %r", route.stage, delivery)
        return (letter,)


def dead_letter(route: Route, delivery: Delivery, cause: str, failure: FailureClass, now_s: float) -> Output:
    """The original record, byte for byte, with where it lay and why it died in its headers."""
    return Output(
        route.dead_letter,
        delivery.key,
        delivery.value,
        delivery.headers
        + provenance(route, delivery, cause, failure, first_s=delivery.first_failure_s or now_s, now_s=now_s),
    )


def parked(route: Route, delivery: Delivery, cause: str, failure: FailureClass, now_s: float) -> Output:
    """The original record for the retry topic, with what `unpark` needs to go on where it stopped."""
    return Output(
        route.retry,
        delivery.key,
        delivery.value,
        # A record that only waits behind another has not failed yet: its clock starts with its own first failure.
        delivery.headers + provenance(route, delivery, cause, failure, first_s=delivery.first_failure_s, now_s=now_s),
    )


def provenance(
    route: Route, delivery: Delivery, cause: str, failure: FailureClass, *, first_s: float, now_s: float
) -> Headers:
    """The headers that retry records and dead letters carry beside their own; all small, none missing."""
    return (
        (output.SOURCE_TOPIC, delivery.track.source.encode()),
        (output.SOURCE_PARTITION, b"%d" % delivery.track.partition),
        (output.SOURCE_OFFSET, b"%d" % delivery.source_offset),
        (output.SOURCE_TIMESTAMP, b"%d" % delivery.source_timestamp_ms),
        (output.GROUP, route.group.encode()),
        (output.STAGE, route.stage.encode()),
        (output.CLASS, failure.value.encode()),
        (output.CAUSE, output.cut(cause)),
        (output.ATTEMPT, b"%d" % delivery.attempt),
        (output.FIRST_FAILURE, b"%d" % round(first_s * 1000)),
        (output.LAST_FAILURE, b"%d" % round(now_s * 1000)),
    )


def unpark(delivery: Delivery) -> None:
    """Gives a record from the retry topic its own headers, source position, attempts and first failure back.

    A record that no stage has parked keeps all that it came with, and is tried as if for the first time.
    """
    names = [name for name, _ in delivery.headers]
    if output.SOURCE_TOPIC not in names:
        return
    # The last one: a publisher may have sent headers of the same names, which stand before ours.
    at = len(names) - 1 - names[::-1].index(output.SOURCE_TOPIC)
    added = dict(delivery.headers[at:])
    try:
        offset, timestamp_ms, attempt, first_ms = (
            int(added[name] or b"")
            for name in (output.SOURCE_OFFSET, output.SOURCE_TIMESTAMP, output.ATTEMPT, output.FIRST_FAILURE)
        )
        first_s = first_ms / 1000
    except (KeyError, ValueError, OverflowError):
        log.warning("%r was not parked by a stage: its %s headers are not ours", delivery, output.SOURCE_TOPIC)
        return
    delivery.headers = delivery.headers[:at]
    delivery.source_offset = offset
    delivery.source_timestamp_ms = timestamp_ms
    delivery.attempt = attempt
    delivery.first_failure_s = first_s


Identify = Callable[[Any], tuple[str, str]]
"""(source, id) of a decoded record: given to the first stage, which recognises repeats."""

Decoder = Callable[[Delivery], object]
"""Makes `delivery.record` of the bytes. Raises DecodeError: the delivery then becomes a dead letter (poison)."""
