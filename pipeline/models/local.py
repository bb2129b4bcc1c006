"""The local model: scikit-learn on words and pieces of words, trained from the workflow's own examples.

Trained once per training file and kept in the cache folder as plain arrays: nothing is ever unpickled. The same
file, parameters and scikit-learn give the same model, and `model` is the digest of the three.
"""

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.errors import ConfigError, StepError
from pipeline.models.batch import Batches
from pipeline.models.port import text_of
from pipeline.records import ContextField, Event, Inference
from pipeline.workflow import Example, Workflow, canonical, read_training

_log = logging.getLogger(__name__)
_WORD = re.compile(r"\w+|[?!]")

# Bounds of what one message can cost. Customers say what they want well before.
_TEXT_CHARS = 4_000
_WORD_CHARS = 30


@dataclass(frozen=True, slots=True)
class Parameters:
    """All that shapes a model besides its examples."""

    features: int = 1
    """Raised whenever `features` changes: an older model in the cache does not fit it."""
    regularisation: float = 20.0
    """Inverse strength, scikit-learn's C."""
    iterations: int = 1_000
    seed: int = 77


PARAMETERS = Parameters()


class Guess(NamedTuple):
    """The likeliest intent and its probability."""

    intent: str
    confidence: float


def features(text: str) -> list[str]:
    """Words, and pieces of three and four letters within them, so that a typo leaves most of a word in place."""
    found: list[str] = []
    for word in _WORD.findall(text[:_TEXT_CHARS].lower()):
        found += _pieces(word[:_WORD_CHARS])
    return found


@lru_cache(maxsize=65_536)  # language repeats its words: this halves the cost of a message
def _pieces(word: str) -> tuple[str, ...]:
    edged = f"<{word}>"
    return (word, *(edged[at : at + size] for size in (3, 4) for at in range(len(edged) - size + 1)))


class Classifier:
    """A trained model. Answers depend on the text alone, not on the batch it came in."""

    def __init__(self, terms: Sequence[str], idf: Any, weights: Any, bias: Any, intents: Sequence[str]) -> None:
        self.terms, self.idf, self.weights, self.bias, self.intents = terms, idf, weights, bias, intents
        self._vectorizer = _vectorizer(vocabulary=terms)
        self._vectorizer.idf_ = idf
        self._regression = LogisticRegression()
        self._regression.coef_ = weights
        self._regression.intercept_ = bias
        self._regression.classes_ = np.array(intents)

    def guess(self, texts: Sequence[str]) -> list[Guess | None]:
        """One guess for each text; None where the model knows nothing of what it holds, or it is empty."""
        counted = self._vectorizer.transform(texts)
        probabilities = self._regression.predict_proba(counted)
        best = probabilities.argmax(axis=1)
        known = np.diff(counted.indptr) > 0
        return [
            # Six digits: the last ones are the processor's own.
            Guess(self.intents[choice], round(float(row[choice]), 6)) if any_known else None
            for row, choice, any_known in zip(probabilities, best, known, strict=True)
        ]


def train(examples: Sequence[Example], parameters: Parameters = PARAMETERS) -> Classifier:
    """A model of these examples: the same for the same arguments, in about half a second for a thousand."""
    vectorizer = _vectorizer()
    counted = vectorizer.fit_transform([example.text for example in examples])
    regression = LogisticRegression(
        C=parameters.regularisation, max_iter=parameters.iterations, random_state=parameters.seed
    )
    # One thread: on vectors this small the others only spin, which costs seconds on a busy machine, and how many
    # there are would decide the last digits.
    with threadpool_limits(limits=1, user_api="blas"):
        regression.fit(counted, [example.intent for example in examples])
    return Classifier(
        terms=vectorizer.get_feature_names_out().tolist(),
        idf=vectorizer.idf_,
        weights=regression.coef_,
        bias=regression.intercept_,
        intents=regression.classes_.tolist(),
    )


class LocalModel:
    """The workflow's own classifier behind the port. An empty or wholly unknown text gets the fallback intent
    without confidence: validation abstains on it and people decide.
    """

    name = "local"

    def __init__(self, workflow: Workflow, classifier: Classifier, model: str) -> None:
        self.model = model
        self._workflow = workflow
        self._batches: Batches[str, Guess | None] = Batches(classifier.guess)

    @classmethod
    def start(cls, workflow: Workflow, cache_dir: Path, parameters: Parameters = PARAMETERS) -> "LocalModel":
        """Loads the workflow's model from the cache, or trains it and keeps it there.

        Takes up to a few seconds, so: before the event loop runs. A cache that cannot be read or written costs
        time and a warning, never the start.
        """
        model = model_digest(workflow, parameters)
        file = cache_dir / "models" / f"{model}.npz"
        classifier = _load(file)
        if classifier is None:
            classifier = train(read_training(workflow), parameters)
            _save(classifier, file)
        return cls(workflow, classifier, model)

    async def predict(self, event: Event, context: tuple[ContextField, ...]) -> Inference:  # noqa: ARG002 - reads text only
        """The declared answer for the likeliest intent. StepError (permanent) when the model cannot take the text."""
        began = time.perf_counter()
        text = text_of(event, self._workflow.model_input)
        try:
            guess = await self._batches.ask(text)
        except StepError:
            raise
        except Exception as error:
            # Not its message: it may quote the text, and the cause is written to headers and logs.
            raise StepError(f"local_model: {type(error).__name__}") from error
        return Inference(
            provider=self.name,
            model=self.model,
            answer=self._workflow.answer(guess.intent if guess else self._workflow.fallback_intent),
            confidence=guess.confidence if guess else None,
            confidence_source="probability" if guess else "nothing_recognised",
            latency_ms=round((time.perf_counter() - began) * 1e3, 3),
        )

    async def close(self) -> None:
        """Answers what was asked, refuses what comes later, ends the thread."""
        await self._batches.close()


def model_digest(workflow: Workflow, parameters: Parameters = PARAMETERS) -> str:
    """Names the model that this training file, these parameters and this scikit-learn make: 16 hex digits."""
    shape = json.dumps({"parameters": asdict(parameters), "sklearn": sklearn.__version__}, sort_keys=True)
    file = workflow.folder / workflow.training
    try:
        return sha256(shape.encode() + b"\0" + canonical(file.read_bytes())).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def _vectorizer(vocabulary: Sequence[str] | None = None) -> Any:
    return TfidfVectorizer(analyzer=features, sublinear_tf=True, vocabulary=vocabulary)


def _load(file: Path) -> Classifier | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            terms = kept["terms"].tobytes().decode().split("\n")
            arrays = [kept[name] for name in ("idf", "weights", "bias")]
            intents = kept["intents"].tolist()
        idf, weights, bias = arrays
        if (len(terms),) != idf.shape or weights.shape != (len(intents), len(terms)) or len(bias) != len(intents):
            raise ValueError("its arrays do not fit together")
        return Classifier(terms, idf, weights, bias, intents)
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - a damaged file fails in any of four libraries
        _log.warning("the kept model %s cannot be used (%s): training again", file, error)
        return None


def _save(classifier: Classifier, file: Path) -> None:
    """Writes beside and renames: a reader sees a whole model or none, however many processes start at once."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                np.savez_compressed(
                    out,
                    terms=np.frombuffer("\n".join(classifier.terms).encode(), dtype=np.uint8),
                    idf=classifier.idf,
                    weights=classifier.weights,
                    bias=classifier.bias,
                    intents=np.array(classifier.intents),
                )
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        _log.warning("the model cannot be kept in %s (%s): the next start trains again", file.parent, error)
