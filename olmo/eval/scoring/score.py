"""The table of scorers, and what a scorer returns."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Metadata = Mapping[str, Any]

QUESTION_ANSWERING = "question_answering"
PREDICTIONS_ONLY = "predictions_only"
OWN_DATA = "own_data"
MAX_VALUE = 1e100
"""Of a user's further values."""


@dataclass(frozen=True)
class Score:
    """What an answer is worth.

    Attributes:
        correct: 0 to 1, the headline; None where there is no public answer.
        parsed: what was read, as JSON; None for an answer that cannot be read.
        reference: what is right, as JSON.
        scores: further values by name, averaged over a task. ``molmo2`` is the headline, and
            ``molmo2_<name>`` another value, as the reference implementation computes it, where
            that is not the benchmark's own rule.
        labels: further categories of the example.
    """

    correct: float | None
    parsed: Any = None
    reference: Any = None
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @property
    def unparsed(self) -> bool:
        return self.parsed is None


Scorer = Callable[[str, Metadata], Score]
"""From a prediction and its example's metadata; ``ValueError`` without a reference. A user's own
may return whatever ``as_score`` reads."""

SCORERS: dict[str, Scorer] = {}


def scorer(name: str) -> Callable[[Scorer], Scorer]:
    """Register a scorer under the ``metric`` name of a task. A module may define
    its scorer anew, but take no other's name."""

    def register(function: Scorer) -> Scorer:
        of = SCORERS.get(name, function).__module__
        if of != function.__module__:
            raise ValueError(f"scorer {name!r} is that of {of}: take another name")
        SCORERS[name] = function
        return function

    return register


def needed(metadata: Metadata, *names: str) -> list[Any]:
    """These fields; ``ValueError`` if one is missing or None."""
    missing = [name for name in names if metadata.get(name) is None]
    if missing:
        raise ValueError(f"no reference: the metadata lack {', '.join(missing)}")
    return [metadata[name] for name in names]


class BadScore(ValueError):
    """What a user's scorer returned is no score."""


def as_score(found: Any, prediction: str, metadata: Metadata) -> Score:
    """What a user's scorer returned: a ``Score``, the headline from 0 to 1, or a dict with that as
    ``correct`` (None: it cannot be told) and further numbers. ``BadScore`` for anything else."""
    if found is None:
        raise BadScore("expected a number, a dict or a Score, got None")
    if not isinstance(found, Score):
        scores = dict(found) if isinstance(found, Mapping) else {"correct": found}
        if "correct" not in scores:
            raise BadScore(f"expected 'correct' and further numbers, got {list(scores)!r:.80}")
        reference = next((metadata[k] for k in ("answer", "answers") if k in metadata), None)
        found = Score(scores.pop("correct"), prediction or None, reference, scores)
    correct, labels = _plain(found.correct), found.labels
    if correct is not None and not (_is_number(correct) and 0 <= correct <= 1):
        raise BadScore(f"expected a number from 0 to 1 as 'correct', got {correct!r:.80}")
    for key, value in found.scores.items():
        if not isinstance(key, str) or not _is_number(value):
            raise BadScore(f"expected numbers by name, got {key!r:.80}: {value!r:.80}")
    try:  # as it is written
        if isinstance(labels, str):
            raise TypeError(f"expected labels in a list, got {labels!r:.80}")
        labels = tuple(map(str, labels))
        rest = (found.parsed, found.reference, labels)
        json.dumps(rest, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as e:
        raise BadScore(f"expected what JSON can hold: {e}") from e
    scores = {key: float(value) for key, value in found.scores.items()}
    headline = None if correct is None else float(correct)
    return replace(found, correct=headline, scores=scores, labels=labels)


def _plain(value: Any) -> Any:
    """A number of numpy's or torch's as one of Python's."""
    return value.item() if hasattr(value, "item") else value


def _is_number(value: object) -> bool:
    """Of a size whose sums are finite."""
    return isinstance(value, numbers.Real) and abs(float(value)) < MAX_VALUE
