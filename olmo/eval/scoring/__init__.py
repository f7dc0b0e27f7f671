"""From a prediction and an example's metadata to a score, by the name of the metric."""

from __future__ import annotations

from olmo.eval.scoring import letters, open, own, points, tracking  # noqa: F401 (fill the table)
from olmo.eval.scoring.score import SCORERS, Metadata, Score


def score_example(prediction: str, metadata: Metadata, metric: str) -> Score:
    """Score one answer. ``ValueError`` for an unknown metric or without a reference."""
    if metric not in SCORERS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(sorted(SCORERS))}")
    return SCORERS[metric](prediction, metadata)
