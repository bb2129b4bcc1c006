"""Every error that Lockgate raises on purpose, and the class of every failure.

LockgateError                     base: its text says what to do
    ├── ConfigError               a setting or declaration is wrong; nothing was started
    ├── BrokerUnavailable         no Kafka answers and none can be started here
    ├── TopicPlanRefused          a topic change that would lose data or break order
    ├── DecodeError               bytes that are not what their topic promises (poison)
    ├── EncodeError               a value that does not fit its schema
    ├── StageStopped              a stage cannot go on without an operator
    └── StepError                 raised in a step to choose the class of its failure
"""

from enum import StrEnum


class FailureClass(StrEnum):
    """What kind of failure it was. The class chooses the outcome; people set the table."""

    TRANSIENT = "transient"  # may pass by itself: retried, then dead
    PERMANENT = "permanent"  # will fail again however often it is tried
    POISON = "poison"  # the bytes themselves cannot be read
    BUDGET = "budget"  # a limit of tokens, money, rate or time is used up
    POLICY = "policy"  # a control forbids it
    AMBIGUOUS = "ambiguous"  # it worked, and the answer cannot be trusted


class LockgateError(Exception):
    """Base of every error raised on purpose. Its text is written for the person who reads it."""


class ConfigError(LockgateError):
    """A setting or declaration is wrong. Raised before anything starts."""


class BrokerUnavailable(LockgateError):
    """No Kafka answers, and none can be started on this machine."""


class TopicPlanRefused(LockgateError):
    """A topic change that would lose data or break the order of keys."""


class DecodeError(LockgateError):
    """Bytes that are not what their topic promises. The record is poison; its bytes are kept."""


class EncodeError(LockgateError):
    """A value that does not fit the schema of the topic it was meant for."""


class StageStopped(LockgateError):
    """A stage cannot go on without an operator: the text names the cause and the remedy."""


class StepError(LockgateError):
    """Raised inside a step to choose the class of its failure; any other exception is permanent."""

    def __init__(self, cause: str, failure: FailureClass = FailureClass.PERMANENT) -> None:
        super().__init__(cause)
        self.cause = cause
        self.failure = failure
