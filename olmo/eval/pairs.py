"""What differs between two results on the same questions: gaps, their interval, and a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from olmo.eval.metrics import bootstrap_interval
from olmo.eval.prediction import Prediction

PERMUTATIONS = 9_999
"""Draws of the permutation test."""


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


def paired_difference(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> Difference:
    """Difference of two lists of predictions to the same questions.

    Whole questions are resampled, so that their difficulty does not widen the interval.
    ``ValueError`` for other questions.
    """
    gaps = [100.0 * gap for gap in paired_gaps(ours, theirs)]
    return Difference(sum(gaps) / len(gaps), *bootstrap_interval(gaps), len(gaps))


def paired_gaps(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> list[float]:
    """Our score minus theirs, per scored question, in the order of the data set. ``ValueError``
    unless both lists answer the same questions (``index``, ``example_id`` and ``fingerprint``)."""
    mine, other = ({(one.index, one.example_id): one for one in part} for part in (ours, theirs))
    if mine.keys() != other.keys():
        raise ValueError(f"cannot pair {len(mine)} answers with {len(other)} to other questions")
    changed = sum(mine[key].fingerprint != other[key].fingerprint for key in mine)
    if changed:
        raise ValueError(f"cannot pair: {changed} of {len(mine)} examples changed in between")
    pairs = [(mine[key].correct, other[key].correct) for key in sorted(mine)]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    if not gaps:
        raise ValueError(f"cannot pair answers: none of {len(pairs)} has a score")
    return gaps


def p_value(gaps: Sequence[float]) -> float:
    """Two-sided probability of a mean gap at least this large if neither result were better.

    Gaps of -1, 0 and 1 get the exact McNemar test (a binomial of the questions that differ),
    other ones a sign-flip test, exact where there are few.
    """
    from scipy import stats  # late: it takes a second, and only comparisons need it

    differing = [gap for gap in gaps if gap]
    if not differing:
        return 1.0
    if all(abs(gap) == 1 for gap in differing):
        better = sum(gap > 0 for gap in differing)
        return float(stats.binomtest(better, len(differing)).pvalue)
    found = stats.permutation_test(
        (differing,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=100,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
