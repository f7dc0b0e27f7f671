"""Averages and intervals. Pure functions: no randomness beyond a fixed seed, no I/O.

An answer that cannot be read counts as wrong and is counted as unparsed: it is neither left out
of the average nor replaced by a guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from olmo.eval.prediction import Prediction

_DRAWS_AT_ONCE = 1 << 20
"""Bounds the memory of the bootstrap."""


def bootstrap_interval(
    scores: Sequence[float], level: float = 0.95, n: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``scores`` from ``n`` resamples.

    Raises ``ValueError`` without scores and for a ``level`` outside (0, 1).
    """
    if not len(scores):
        raise ValueError("no scores to resample")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    values = np.asarray(scores, dtype=np.float64)
    rng = np.random.default_rng(seed)
    size = len(values)
    rows = max(_DRAWS_AT_ONCE // size, 1)
    means = [
        values[rng.integers(size, size=(min(rows, n - done), size))].mean(1)
        for done in range(0, n, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def aggregate(predictions: Sequence[Prediction], macro: str = "") -> dict[str, Any]:
    """Micro-averages over scored predictions.

    Accuracy is a fraction of ``n``, or of ``scored`` where some answers have no score (else that
    key is absent), ``interval`` its 95% bootstrap interval, ``unparsed`` a count, ``scores`` the
    means of further values; ``categories`` maps each label, sorted by name, to the same but
    ``scores``. ``macro_average`` is the plain mean over the categories whose label begins with
    ``macro``; of ``molmo2``, the headline by Molmo2's rule, it is the score
    ``molmo2_macro_average``. Without a scored one accuracy, interval and macro average are None.
    """
    by_label: dict[str, list[Prediction]] = defaultdict(list)
    for one in predictions:
        for label in one.labels:
            by_label[label].append(one)
    categories = {name: _average(by_label[name]) for name in sorted(by_label)}
    names = [name for name in categories if name.startswith(macro)]
    counted = [a for name in names if (a := categories[name]["accuracy"]) is not None]
    scores = _scores(predictions)
    theirs = [s["molmo2"] for name in names if "molmo2" in (s := _scores(by_label[name]))]
    if theirs:
        scores["molmo2_macro_average"] = sum(theirs) / len(theirs)
    out = _average(predictions) | ({"scores": dict(sorted(scores.items()))} if scores else {})
    average = sum(counted) / len(counted) if counted else None
    return {**out, "macro_average": average, "categories": categories}


def scored_count(average: Mapping[str, Any]) -> int:
    """How many answers the accuracy of a task or a category is about."""
    return int(average.get("scored", average["n"]))


def count_text(scored: int, n: int) -> str:
    """Such a number of all ``n`` answers."""
    return str(n) if scored == n else f"{scored} of {n}"


def columns(dicts: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Dicts as lists by their keys."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in dicts:
        for name, value in one.items():
            found[name].append(float(value))
    return dict(found)


def _scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Means of the further values."""
    found = columns(one.scores for one in predictions)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _average(predictions: Sequence[Prediction]) -> dict[str, Any]:
    correct = [float(one.correct) for one in predictions if one.correct is not None]
    return {
        "accuracy": sum(correct) / len(correct) if correct else None,
        "interval": list(bootstrap_interval(correct)) if correct else None,
        "n": len(predictions),
        **({"scored": len(correct)} if len(correct) < len(predictions) else {}),
        "unparsed": sum(one.unparsed for one in predictions),
    }
