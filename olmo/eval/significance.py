"""Whether two results on the same questions differ: paired interval and paired test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.eval.metrics import bootstrap_interval

N_PERMUTATIONS, BLOCK = 10_000, 100
"""Draws of the permutation test, in all and at once."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of one result minus that of another in percentage points, over ``n`` questions,
    with its 95% bootstrap interval."""

    points: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.points:+.1f} points (95% interval {self.low:+.1f} to {self.high:+.1f}, "
            f"paired over {self.n} questions)"
        )


def paired_difference(
    rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> Difference:
    """Difference of two lists of scored rows (``index``, ``correct``).

    Whole questions are resampled, so that their difficulty does not widen the interval. Raises
    ``ValueError`` unless both lists answer the same questions.
    """
    gaps = [100.0 * gap for gap in paired_gaps(rows, baseline)]
    return Difference(sum(gaps) / len(gaps), *bootstrap_interval(gaps), len(gaps))


def paired_gaps(
    rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Score minus the baseline's, per question, in the order of the data set. ``ValueError``
    unless both lists answer the same questions (``index`` and ``example_id``)."""
    ours, theirs = (
        {(row["index"], row.get("example_id")): row["correct"] for row in part}
        for part in (rows, baseline)
    )
    if ours.keys() != theirs.keys() or not ours:
        raise ValueError(f"cannot pair {len(ours)} answers with {len(theirs)} to other questions")
    return [ours[key] - theirs[key] for key in sorted(ours, key=lambda key: key[0])]


def p_value(gaps: Sequence[float], seed: int = 0) -> float:
    """Two-sided probability of a mean gap at least this large if neither result were better.

    Gaps of -1, 0 and 1 get the exact McNemar test (a binomial of the questions that differ),
    other ones a sign-flip permutation test of ``N_PERMUTATIONS`` draws.
    """
    differing = [gap for gap in gaps if gap]
    if not differing:
        return 1.0
    n = len(differing)
    if all(abs(gap) == 1 for gap in differing):
        fewer = min(sum(gap > 0 for gap in differing), sum(gap < 0 for gap in differing))
        tail = sum(math.comb(n, k) for k in range(fewer + 1))
        return float(min(1.0, 2 * tail / 2**n))
    values, rng = np.asarray(differing), np.random.default_rng(seed)
    observed, hits = abs(values.sum()), 0
    for _ in range(0, N_PERMUTATIONS, BLOCK):
        signs = rng.integers(0, 2, size=(BLOCK, n)) * 2 - 1
        hits += int((abs(signs @ values) >= observed - 1e-9).sum())
    return (hits + 1) / (N_PERMUTATIONS + 1)
