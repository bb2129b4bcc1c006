"""Sends drafts to a topic: idempotent, acknowledged by all replicas, in order, with bounded memory.

The partition is murmur2 of the key, as every Java client has it by default: whoever else publishes for a subject
comes to the same partition, which is what the order of the subject rests on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from agents.cli.drafting import Draft
from agents.cli.output import say
from pipeline.config import Settings, client_config
from pipeline.errors import BrokerUnavailable, ConfigError, LockgateError
from pipeline.stream.reading import unanswered

PATIENCE_S = 60
"""How long a record may wait for its acknowledgement, retries included."""
_BUFFER_KB = 32 * 1024


@dataclass(slots=True)
class _Count:
    """What the broker has answered so far."""

    advance: Callable[[int], None]
    acknowledged: int = 0
    failure: KafkaError | None = None
    line: int = 0

    def hear(self, line: int) -> Callable[[KafkaError | None, Message], None]:
        """What the producer calls with the answer for the record of a line."""

        def on_delivery(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self.acknowledged += 1
                self.advance(1)
            elif self.failure is None:
                self.failure, self.line = error, line

        return on_delivery


def require_topic(settings: Settings, topic: str) -> None:
    """ConfigError when the topic is not there, so that nothing is sent to nowhere."""
    producer = Producer({**client_config(settings), "log_level": 0})
    try:
        found = producer.list_topics(topic, 10).topics[topic]
    except KafkaException as error:
        raise BrokerUnavailable(f"{settings.bootstrap_servers} does not answer: {error.args[0].str()}") from error
    if found.error is not None:
        raise ConfigError(
            f"no topic {topic} ({found.error.str()}): make the topics with `lockgate topics apply`, "
            "or name the right --environment"
        )


def send(
    settings: Settings, topic: str, drafts: Iterable[Draft], max_bytes: int, advance: Callable[[int], None]
) -> int:
    """Sends all and returns how many were acknowledged, which is all of them.

    At the first record that is not, or at Ctrl-C, nothing more is sent, and it is said how many were (in the error,
    or on stderr). Sending the same events again is safe: the pipeline recognises a repeat by source and id.
    """
    producer = Producer(_config(settings, max_bytes))
    count = _Count(advance)
    try:
        for number, draft in enumerate(drafts):
            _produce(producer, topic, draft, count)
            if number % 256 == 0:
                producer.poll(0)
            if count.failure is not None:
                break
        while len(producer) and count.failure is None:
            producer.flush(0.2)
    except KeyboardInterrupt:
        _give_up(producer)
        say(f"lockgate: stopped. {_so_far(count)}")
        raise
    if count.failure is not None:
        _give_up(producer)
        raise _failure(settings, topic, count)
    return count.acknowledged


def _config(settings: Settings, max_bytes: int) -> dict[str, Any]:
    return client_config(
        settings,
        **{
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.timeout.ms": PATIENCE_S * 1000,
            "message.max.bytes": max_bytes,
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": _BUFFER_KB,
            "log_level": 0,  # what matters arrives as a delivery report
        },
    )


def _produce(producer: Producer, topic: str, draft: Draft, count: _Count) -> None:
    on_delivery = count.hear(draft.line)
    while count.failure is None:
        try:
            producer.produce(
                topic,
                key=draft.key,
                value=draft.value,
                headers=list(draft.headers),
                timestamp=draft.timestamp_ms,
                on_delivery=on_delivery,
            )
        except BufferError:
            producer.poll(0.1)  # full: the broker sets the pace
        except KafkaException as error:
            count.failure, count.line = error.args[0], draft.line
        else:
            return


def _give_up(producer: Producer) -> None:
    """What the broker has in hand may still be acknowledged; what waits here is dropped, not sent behind our back."""
    producer.purge(in_flight=False)
    producer.flush(5)
    producer.purge()
    producer.flush(0)


def _failure(settings: Settings, topic: str, count: _Count) -> LockgateError:
    error = count.failure
    assert error is not None
    if unanswered(error):
        return BrokerUnavailable(
            f"{settings.bootstrap_servers} took longer than {PATIENCE_S} s ({error.str()}): {_so_far(count)}"
        )
    return LockgateError(f"line {count.line} was refused by {topic} ({error.str()}): {_so_far(count)}")


def _so_far(count: _Count) -> str:
    return (
        f"{count.acknowledged:,} events are published. Publish the same file again when the cause is gone: "
        "what is published already will be recognised as a repeat"
    )
