"""Rules as the last resort: the workflow's own phrases behind the port of a model. No training, no thread, no doubt."""

import re
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import nearest, read_yaml
from pipeline.errors import ConfigError
from pipeline.models.port import text_of
from pipeline.records import ContextField, Event, Inference
from pipeline.workflow import Workflow, canonical

_TEXT_CHARS = 4_000


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    intent: str
    any: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)]
    """Phrases: one of them in the text is enough. Whole words, in any case, with any space between."""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    """What the owner vouches for; without it the answer always goes to people."""


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: Annotated[tuple[_Rule, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class _Matcher:
    intent: str
    confidence: float | None
    pattern: re.Pattern[str]


class RulesModel:
    """The first rule that matches answers. Where none does: the fallback intent, without confidence."""

    name = "rules"

    def __init__(self, workflow: Workflow, matchers: tuple[_Matcher, ...], model: str) -> None:
        self.model = model
        self._workflow = workflow
        self._matchers = matchers

    @classmethod
    def start(cls, workflow: Workflow) -> "RulesModel":
        """The rules of a workflow. ConfigError when it has none, or a rule names an intent that is not declared."""
        if workflow.rules is None:
            raise ConfigError(f"{workflow.folder / 'workflow.yaml'}: no rules are named; add `rules: rules.yaml`")
        file = workflow.folder / workflow.rules
        content = read_yaml(file)
        try:
            declared = _Declared.model_validate(content)
        except ValidationError as error:
            lines = [
                f"{file}: {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)
            ]
            raise ConfigError("\n".join(lines)) from None
        for rule in declared.rules:
            if rule.intent not in workflow.intents:
                raise ConfigError(f"{file}: unknown intent {rule.intent!r}; {nearest(rule.intent, workflow.intents)}")
        matchers = tuple(_Matcher(rule.intent, rule.confidence, _pattern(rule.any)) for rule in declared.rules)
        return cls(workflow, matchers, sha256(canonical(file.read_bytes())).hexdigest()[:16])

    async def predict(self, event: Event, context: tuple[ContextField, ...]) -> Inference:  # noqa: ARG002 - reads text only
        """The declared answer for the intent of the first rule that matches."""
        began = time.perf_counter()
        text = text_of(event, self._workflow.model_input)[:_TEXT_CHARS].casefold()
        match = next((matcher for matcher in self._matchers if matcher.pattern.search(text)), None)
        return Inference(
            provider=self.name,
            model=self.model,
            answer=self._workflow.answer(match.intent if match else self._workflow.fallback_intent),
            confidence=match.confidence if match else None,
            confidence_source="declared" if match and match.confidence is not None else "none",
            latency_ms=round((time.perf_counter() - began) * 1e3, 3),
        )

    async def close(self) -> None:
        """Nothing is held."""


def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    spelt = (r"\s+".join(re.escape(word) for word in phrase.casefold().split()) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelt)})(?!\w)")
