"""What a workflow declares, loaded from its folder and checked before anything starts.

A workflow lives in one folder: `workflow.yaml`, its training file, its rules. The folder as a whole is the
release: change a byte of any file and every record decided from then on carries another digest.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from hashlib import sha256
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import nearest, read_yaml
from pipeline.errors import ConfigError
from pipeline.records import NO_ACTION, Json

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Priority: TypeAlias = Literal["urgent", "high", "normal", "low"]

PRIORITIES: tuple[Priority, ...] = ("urgent", "high", "normal", "low")
ANSWER_FIELDS = ("intent", "queue", "priority", "action")
"""An answer is a JSON object with exactly these fields, each a string."""

SUBJECT = "subject"
"""In a reference: the subject of the event, never a field of its data."""
CONTEXT_NOTES = "context_notes"
"""Where a case keeps what was wrong with optional context. No source may have this name."""

_AGE_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _age(text: Any) -> Any:
    if text == "forever":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8}) ?([smhd])", str(text))
    if not found:
        raise ValueError(f"{text!r} is no age: write 30m, 12h, 30d or forever")
    return int(found[1]) * _AGE_UNITS_MS[found[2]]


def _one_or_more(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Reference = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63})?$")]
"""Where a text is taken from: `subject`, a field of the event's data, or `customer.product_id`, a field of context."""
References = Annotated[tuple[Reference, ...], BeforeValidator(_one_or_more), Field(min_length=1)]


class Check(StrEnum):
    """What every answer must pass before it may become a decision."""

    OUTPUT_SCHEMA = "output_schema"  # exactly the answer's fields, each of its type
    INTENT_KNOWN = "intent_known"  # the intent is declared
    QUEUE_KNOWN = "queue_known"  # somebody works on that queue
    ALLOWED_ACTIONS = "allowed_actions"  # the action is on the list: the control of this name
    CONFIDENCE = "confidence"  # there is one, and it lies in [0, 1]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataField(_Declared):
    """One field of the event's data. A field that is not required may be missing or null."""

    type: Literal["string", "number", "boolean"]
    required: bool = True


class Intent(_Declared):
    """What follows from an intent, as the workflow's owner wants it."""

    queue: Name
    priority: Priority
    action: Name


class RetryRule(_Declared):
    """How often and how long a record is tried. Both ceilings must be stated."""

    attempts: Annotated[int, Field(ge=1, le=1000)]
    """Tries in all, the first one included."""
    ceiling_s: Seconds
    """No try begins later than this after the first failure."""
    base_s: Seconds = 0.2
    """The first pause; each further one is twice as long."""
    cap_s: Seconds = 30.0
    """The longest pause."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of a pause that is left to chance, to either side."""

    @model_validator(mode="after")
    def _pauses_fit(self) -> Self:
        if not self.base_s <= self.cap_s <= self.ceiling_s:
            raise ValueError("base_s, cap_s and ceiling_s must not fall: base_s <= cap_s <= ceiling_s")
        return self


class ContextRule(_Declared):
    """What must be known around an event, and how well. One record is looked up by its key in one source."""

    name: Name
    """What the case calls it."""
    source: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    """`customers` is the topic context-customers."""
    key: Reference
    required: bool
    """Without it, people judge the case. What is not required may be missing: that is noted, and the case goes on."""
    max_age: Annotated[int | None, BeforeValidator(_age)]
    """In ms; None: however old. Counted from the timestamp that the owner of the record gave it."""
    fields: Annotated[tuple[FieldName, ...], Field(min_length=1)]
    """All that reaches the case, the model and the people. A record that lacks one of them is incomplete."""
    same: Annotated[Mapping[FieldName, References], AfterValidator(MappingProxyType)] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    """Fields of the record that must equal what is referred to, so that nobody is judged by another one's record."""

    @property
    def topic(self) -> str:
        """The source's topic, as topics.yaml names it."""
        return f"context-{self.source}"

    @property
    def references(self) -> tuple[str, ...]:
        """Every reference, the key first."""
        return (self.key, *(reference for references in self.same.values() for reference in references))


class Example(NamedTuple):
    """One message of the training file, and what it is about."""

    text: str
    intent: str


class Workflow(_Declared):
    """A workflow as declared, with the digest of its folder. Consistent in itself, and unchangeable."""

    name: Name
    owner: Annotated[str, Field(min_length=1)]
    event_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
    """`ce_type` of the events that are its own."""
    event_schema: Name
    """Name of the schema of its events' data, as under schemas/."""
    data: Annotated[Mapping[Name, DataField], Field(min_length=1), AfterValidator(MappingProxyType)]
    model_input: Name
    """The field of the data that a model reads."""
    context: tuple[ContextRule, ...] = ()
    """In the order of the lookups: a key may be taken from what was found before."""
    intents: Annotated[Mapping[Name, Intent], Field(min_length=2), AfterValidator(MappingProxyType)]
    fallback_intent: Name
    """The answer of a provider that recognises nothing: without confidence, so that it is never automatic."""
    allowed_actions: Annotated[tuple[Name, ...], Field(min_length=1)]
    safe_action: Name = NO_ACTION
    """What is decided when nobody answered a review in time: `none`, or one of the allowed actions."""
    threshold: Share
    """Least confidence of an automatic decision."""
    deadline_s: Seconds
    """For one event: enrichment, calls and repeats together."""
    retry: RetryRule
    training: FileName
    rules: FileName | None = None
    folder: Path
    release: str

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> Self:
        faults = []
        if len(set(self.allowed_actions)) < len(self.allowed_actions):
            faults.append("allowed_actions names an action twice")
        faults += [
            f"intent {name} asks for the action {intent.action}, which allowed_actions does not hold"
            for name, intent in self.intents.items()
            if intent.action not in self.allowed_actions
        ]
        if self.safe_action not in (NO_ACTION, *self.allowed_actions):
            faults.append(f"safe_action {self.safe_action} is neither {NO_ACTION} nor among the allowed_actions")
        if self.fallback_intent not in self.intents:
            faults.append(f"fallback_intent {self.fallback_intent} is not among the intents")
        read = self.data.get(self.model_input)
        if read is None or read.type != "string" or not read.required:
            faults.append(f"model_input {self.model_input} must be a required string among the data fields")
        faults += _context_faults(self.context, self.data)
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def queues(self) -> frozenset[str]:
        """Every queue that an intent leads to."""
        return frozenset(intent.queue for intent in self.intents.values())

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks that must have passed before an answer may become a decision."""
        return tuple(Check)

    def answer(self, intent: str) -> dict[str, Json]:
        """The declared answer for a declared intent; KeyError for any other."""
        route = self.intents[intent]
        return {
            "intent": intent,
            "queue": route.queue,
            "priority": route.priority,
            "action": route.action,
        }


def _context_faults(rules: tuple[ContextRule, ...], data: Mapping[str, DataField]) -> Iterator[str]:
    before: dict[str, ContextRule] = {}
    for rule in rules:
        if rule.name in before:
            yield f"context {rule.name} is declared twice"
        if rule.name in (SUBJECT, CONTEXT_NOTES):
            yield f"context {rule.name} must have another name: this one has a meaning of its own"
        if len(set(rule.fields)) < len(rule.fields):
            yield f"context {rule.name} names a field twice"
        for reference in rule.references:
            if fault := _reference_fault(rule, reference, before, data):
                yield f"context {rule.name}: {reference}: {fault}"
        before[rule.name] = rule


def _reference_fault(
    rule: ContextRule, reference: str, before: Mapping[str, ContextRule], data: Mapping[str, DataField]
) -> str | None:
    name, dot, field = reference.partition(".")
    if not dot:
        if name != SUBJECT and (name not in data or data[name].type != "string"):
            return f"must be {SUBJECT}, or a string among the data fields"
        return None
    if name not in before:
        return f"no context {name} is declared above it"
    if field not in before[name].fields:
        return f"{field} is not among the fields of {name}"
    if rule.required and not before[name].required:
        return f"required, but {name} is not: one of them must change"
    return None


def load_workflow(folder: Path) -> Workflow:
    """The workflow in a folder. ConfigError names the file and every fault that was found."""
    file = folder / "workflow.yaml"
    declared = read_yaml(file)
    if not isinstance(declared, dict):
        raise ConfigError(f"{file}: expected `name: value` pairs, not {type(declared).__name__}")
    if computed := sorted({"folder", "release"} & declared.keys()):
        raise ConfigError(f"{file}: {', '.join(computed)} is worked out by Lockgate; remove it")
    try:
        workflow = Workflow.model_validate({**declared, "folder": folder, "release": _release(folder)})
    except ValidationError as error:
        raise ConfigError("\n".join(_faults(file, error))) from None
    if workflow.name != folder.name:
        raise ConfigError(f"{file}: name {workflow.name} must equal the folder's, {folder.name}")
    if workflow.rules is not None and not (folder / workflow.rules).is_file():
        raise ConfigError(f"{file}: rules names {workflow.rules}, which is not in {folder}")
    read_training(workflow)
    return workflow


def load_workflows(root: Path) -> Mapping[str, Workflow]:
    """Every workflow under a folder, by event type. ConfigError when two claim one type, or none is there."""
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder: it must hold one folder for each workflow")
    found: dict[str, Workflow] = {}
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith((".", "_")):
            continue
        workflow = load_workflow(folder)
        other = found.setdefault(workflow.event_type, workflow)
        if other is not workflow:
            raise ConfigError(
                f"{folder / 'workflow.yaml'}: event_type {workflow.event_type} belongs to {other.name} "
                "already; give one of them another type"
            )
    if not found:
        raise ConfigError(f"{root} holds no workflow: add a folder with a workflow.yaml")
    return MappingProxyType(found)


def read_training(workflow: Workflow) -> tuple[Example, ...]:
    """The training file's messages, in order. ConfigError when it teaches something else than is declared."""
    file = workflow.folder / workflow.training
    try:
        rows = csv.DictReader(StringIO(file.read_text("utf-8")), strict=True)
        if rows.fieldnames != ["text", "intent"]:
            raise ConfigError(f"{file}: the first line must be text,intent")
        taught: dict[str, str] = {}
        for row in rows:
            _learn(taught, row, workflow, f"{file}:{rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if untaught := sorted(workflow.intents.keys() - set(taught.values())):
        raise ConfigError(f"{file}: no message for {', '.join(untaught)}; a model could never answer that")
    return tuple(Example(text, intent) for text, intent in taught.items())


def _learn(taught: dict[str, str], row: dict[Any, Any], workflow: Workflow, place: str) -> None:
    text, intent = row["text"], row["intent"]
    if None in row or not text or not text.strip() or intent is None:
        raise ConfigError(f"{place}: expected a message and its intent, two values")
    if intent not in workflow.intents:
        raise ConfigError(f"{place}: unknown intent {intent!r}; {nearest(intent, workflow.intents)}")
    if text in taught:
        raise ConfigError(f"{place}: this message stands here already, as {taught[text]}; keep one")
    taught[text] = intent


def canonical(content: bytes) -> bytes:
    """The bytes that digests are made of: line ends as on every other machine."""
    return content.replace(b"\r\n", b"\n")


def _release(folder: Path) -> str:
    digest = sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        # What editors, file systems and interpreters leave behind is no part of the workflow.
        if not path.is_file() or any(part.startswith((".", "__pycache__")) for part in name.parts):
            continue
        content = canonical(path.read_bytes())
        digest.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _faults(file: Path, error: ValidationError) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
            known = Workflow.model_fields.keys() - {"folder", "release"}
            what = f"unknown key; {nearest(where, known)}"
        elif fault["type"] == "extra_forbidden":
            what = "unknown key"
        elif fault["type"] == "missing":
            what = "must be stated"
        lines.append(f"{file}: {where}: {what}" if where else f"{file}: {what}")
    return lines
