"""Scores as plain values, at the address that other programs import."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from olmo.eval import scoring
from olmo.eval.scoring.score import Metadata


def score_example(prediction: str, metadata: Metadata, metric: str) -> dict[str, Any]:
    """The fields of ``Score`` and ``unparsed``. ``ValueError`` for an unknown metric or without a
    reference."""
    score = scoring.score_example(prediction, metadata, metric)
    return asdict(score) | {"unparsed": int(score.unparsed)}
