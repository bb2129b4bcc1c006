"""Puts a verdict where routing reads it, and finds out what routing made of it.

It goes to the partition of the item that it judges, under its key: only there is it known what was decided before.
"""

import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.codec import Codec
from pipeline.config import Settings, client_config
from pipeline.errors import BrokerUnavailable, DecodeError, LockgateError
from pipeline.records import Audit, Decision, Headers, ReviewItem, ReviewVerdict
from pipeline.stream import auditing
from pipeline.stream.reading import open_reader, unanswered
from pipeline.stream.reviews import Filed
from pipeline.topics import VERDICTS, load_topics

_PATIENCE_S = 30
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Given:
    """A verdict that is published, with where its audit record will lie."""

    partition: int
    offset: int
    audit_from: int

    @property
    def place(self) -> str:
        """Partition and offset in review-verdicts."""
        return f"{self.partition}:{self.offset}"


def give(settings: Settings, codec: Codec, verdict: ReviewVerdict, about: Filed[ReviewItem] | Filed[Decision]) -> Given:
    """Publishes a verdict about an item, acknowledged by all replicas.

    Raises BrokerUnavailable when it was not acknowledged in time, LockgateError when it was refused.
    """
    topics = load_topics()
    with open_reader(settings, topics.physical(settings.environment, "audit")) as reader:
        audit_from = reader.bounds()[about.partition].high
    topic = topics.physical(settings.environment, VERDICTS)
    answers: list[tuple[KafkaError | None, Message]] = []
    producer = Producer(
        client_config(
            settings,
            **{
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": _PATIENCE_S * 1000,
                "message.max.bytes": topics[VERDICTS].max_message,
                "log_level": 0,  # what matters arrives as a delivery report
            },
        )
    )
    try:
        producer.produce(
            topic,
            codec.encode(verdict),
            about.key,
            about.partition,
            headers=list(_names(about.headers)),
            on_delivery=lambda error, message: answers.append((error, message)),
        )
    except KafkaException as error:
        raise _refused(settings, topic, error.args[0]) from error
    producer.flush(_PATIENCE_S + 5)
    if not answers:
        raise BrokerUnavailable(f"{settings.bootstrap_servers} does not answer: whether {topic} has it is not known")
    failure, message = answers[0]
    if failure is not None:
        raise _refused(settings, topic, failure)
    return Given(message.partition(), message.offset(), audit_from)


def await_judgement(settings: Settings, codec: Codec, given: Given, within_s: float) -> Audit | None:
    """Routing's audit record of a verdict: `decided`, `superseded` or `dead`. None when there is none in time."""
    until = time.monotonic() + within_s
    with open_reader(settings, load_topics().physical(settings.environment, "audit")) as reader:
        start = given.audit_from
        while True:
            for message in reader.read({given.partition: start}):
                try:
                    audit = codec.decode_audit(message.value() or b"")
                except DecodeError:
                    continue
                if audit.detail.get(auditing.VERDICT) == given.place:
                    return audit
            start = reader.reached[given.partition]
            if time.monotonic() > until:
                return None
            time.sleep(_LOOK_S)


def _names(headers: Headers) -> Headers:
    """What names the event of the item, and says where it lay first."""
    return tuple(
        header
        for header in headers
        if header[0].startswith(("ce_", "lockgate_origin_")) or header[0] in ("traceparent", "tracestate")
    )


def _refused(settings: Settings, topic: str, error: KafkaError) -> LockgateError:
    if unanswered(error):
        return BrokerUnavailable(f"{settings.bootstrap_servers} did not take the verdict in time: {error.str()}")
    return LockgateError(f"{topic} refused the verdict: {error.str()}")
