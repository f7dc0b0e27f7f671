"""Averages and intervals. Pure functions: no randomness beyond a fixed seed, no I/O.

An answer that cannot be read counts as wrong and is counted as unparsed: it is neither left out
of the average nor replaced by a guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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


def aggregate(rows: Sequence[Mapping[str, Any]], macro: str = "") -> dict[str, Any]:
    """Micro-averages over scored rows (``correct``, ``unparsed``, optionally ``scores`` and the
    ``labels`` of their categories, or one ``category``).

    Accuracy is a fraction of ``n``, ``interval`` its 95% bootstrap interval, ``unparsed`` a
    count, ``scores`` the means of further values; ``categories`` maps each label, sorted by name,
    to the first four. ``macro_average`` is the plain mean over the categories whose label begins
    with ``macro``; of ``molmo2``, the headline by Molmo2's rule, it is the score
    ``molmo2_macro_average``. Without a scored row accuracy, interval and macro average are None.
    """
    by_label: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        for label in labels_of(row):
            by_label[label].append(row)
    categories = {name: _average(by_label[name]) for name in sorted(by_label)}
    names = [name for name in categories if name.startswith(macro)]
    counted = [a for name in names if (a := categories[name]["accuracy"]) is not None]
    scores = _scores(rows)
    theirs = [s["molmo2"] for name in names if "molmo2" in (s := _scores(by_label[name]))]
    if theirs:
        scores["molmo2_macro_average"] = sum(theirs) / len(theirs)
    out = _average(rows) | ({"scores": dict(sorted(scores.items()))} if scores else {})
    average = sum(counted) / len(counted) if counted else None
    return {**out, "macro_average": average, "categories": categories}


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of the further values of ``rows``."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in (row.get("scores") or {}).items():
            found[name].append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}


def labels_of(row: Mapping[str, Any]) -> list[str]:
    """Categories of a row."""
    if row.get("labels") is not None:
        return [str(label) for label in row["labels"]]
    return [] if row.get("category") is None else [str(row["category"])]


def _average(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    correct = [float(row["correct"]) for row in rows if row["correct"] is not None]
    return {
        "accuracy": sum(correct) / len(correct) if correct else None,
        "interval": list(bootstrap_interval(correct)) if correct else None,
        "n": len(rows),
        "unparsed": sum(int(row["unparsed"]) for row in rows),
    }
