"""A prediction, from its birth to the report: an example is asked, answered or skipped, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olmo.eval.scoring import Score
    from olmo.eval.tasks import Task

OPTIONAL = ("id", "error", "scores", "pruning")
"""Fields that a row has only where there is something in them."""


@dataclass(frozen=True)
class Asked:
    """An example that was read: its ``question`` (the whole prompt where the data set has none),
    the tokens of its prompt before pruning, and the seconds of loading."""

    index: int
    metadata: dict[str, Any]
    question: str
    n_tokens: int
    load: float


@dataclass(frozen=True)
class Skipped:
    """An example without an answer."""

    index: int
    error: str


@dataclass(frozen=True)
class Answered:
    """The ``text`` up to its end, tokens of the prompt after pruning, ``seconds`` of each stage,
    and the vision backbone's figures about ``pruning``."""

    asked: Asked
    text: str
    n_prompt_tokens: int
    seconds: dict[str, float]
    pruning: dict[str, float]

    @property
    def index(self) -> int:
        return self.asked.index


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The fields are the keys of a row of ``predictions.json``, in its order.

    Attributes:
        index: of the example in its data set.
        example_id: the data set's own id, else one made of the question's id or the index.
        id: of a line of own data that has one.
        question: as the data set words it, or the whole prompt where it has none.
        options: texts of the options; None for an open question.
        prediction: the answer up to its end.
        error: why the scorer refused the example, which then counts as skipped.
        correct, parsed, reference, scores: see ``Score``; ``unparsed`` is 1 for an answer that
            cannot be read.
        category, labels: those that the example is counted under.
        n_tokens_before, n_tokens_after: of the prompt, before and after pruning.
        pruning: figures of the vision backbone.
        fingerprint: hash of the example (``olmo.eval.store``).
        seconds: of each stage.
    """

    index: int
    example_id: str
    id: str | None = None
    question: str
    options: list[Any] | None = None
    prediction: str
    error: str | None = None
    correct: float | None
    unparsed: int = 0
    parsed: Any = None
    reference: Any = None
    scores: dict[str, float] = field(default_factory=dict)
    category: Any = None
    labels: list[str] = field(default_factory=list)
    n_tokens_before: int
    n_tokens_after: int
    pruning: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        found: Answered,
        score: Score,
        task: Task,
        fingerprint: str,
        error: str | None = None,
    ) -> Prediction:
        """An answer with what it is worth, or the ``error`` of the scorer."""
        asked = found.asked
        metadata = asked.metadata
        options = metadata.get("options") or metadata.get("option_names")
        return cls(
            index=asked.index,
            example_id=example_id(metadata, asked.index),
            id=None if metadata.get("id") is None else str(metadata["id"]),
            question=asked.question,
            options=list(options) if options else None,
            prediction=found.text,
            error=error,
            correct=score.correct,
            unparsed=int(score.unparsed),
            parsed=score.parsed,
            reference=score.reference,
            scores=dict(score.scores),
            category=metadata.get("category"),
            labels=[*labels(task.categories, metadata), *score.labels],
            n_tokens_before=asked.n_tokens,
            n_tokens_after=found.n_prompt_tokens,
            pruning=found.pruning,
            fingerprint=fingerprint,
            seconds=found.seconds,
        )

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return {k: v for k, v in asdict(self).items() if v or k not in OPTIONAL}

    @property
    def is_failure(self) -> bool:
        """Whether it was scored and is not wholly right."""
        return self.correct is not None and self.correct < 1


def example_id(metadata: Mapping[str, Any], index: int) -> str:
    """The data set's own id, else one made of the question's id or the index."""
    for key in ("example_id", "question_id"):
        if metadata.get(key) is not None:
            return str(metadata[key])
    return str(index)


def labels(names: Sequence[str], metadata: Mapping[str, Any]) -> list[str]:
    """Categories of an example: the values of these fields, with the field's name where there are
    several fields."""
    found = []
    for name in names:
        value = metadata.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        prefix = f"{name}/" if len(names) > 1 else ""
        found += [f"{prefix}{v}" for v in values if v is not None]
    return found
