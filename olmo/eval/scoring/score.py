"""The table of scorers, and what a scorer returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Metadata = Mapping[str, Any]

QUESTION_ANSWERING = "question_answering"
PREDICTIONS_ONLY = "predictions_only"
OWN_DATA = "own_data"


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
"""From a prediction and its example's metadata; ``ValueError`` without a reference."""

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
