"""Assignment, and the tracking measure HOTA (Luiten et al. 2021, arXiv 2009.07736)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total ``cost`` [n, m], min(n, m) of them, sorted by row.

    The Hungarian algorithm by shortest augmenting paths, O(n^2 m).
    """
    cost = np.asarray(cost, dtype=np.float64)
    if cost.size == 0:
        return []
    if cost.shape[0] > cost.shape[1]:
        return sorted((i, j) for j, i in assign(cost.T))
    n, m = cost.shape
    of_row, of_column = np.zeros(n + 1), np.zeros(m + 1)  # potentials; index 0 is a sentinel
    row_of = np.zeros(m + 1, dtype=int)
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        least, used = np.full(m + 1, np.inf), np.zeros(m + 1, dtype=bool)
        came_from = np.zeros(m + 1, dtype=int)
        while row_of[column]:
            used[column] = True
            i = row_of[column]
            reduced = cost[i - 1] - of_row[i] - of_column[1:]
            better = ~used[1:] & (reduced < least[1:])
            least[1:][better], came_from[1:][better] = reduced[better], column
            free = np.flatnonzero(~used[1:]) + 1
            nearest = int(free[np.argmin(least[free])])
            delta = least[nearest]
            of_row[row_of[used]] += delta
            of_column[used] -= delta
            least[~used] -= delta
            column = nearest
        while column:
            row_of[column] = row_of[came_from[column]]
            column = int(came_from[column])
    return sorted((int(row_of[j]) - 1, j - 1) for j in range(1, m + 1) if row_of[j])


def hota(
    similarities: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]],
) -> dict[str, float]:
    """HOTA, DetA and AssA at alpha 0.5.

    Per frame: gold ids, predicted ids and their similarity [gold, predicted] in 0..1. Without any
    object or prediction all three are 1.
    """
    gold = sorted({g for ids, _, _ in similarities for g in ids})
    predicted = sorted({p for _, ids, _ in similarities for p in ids})
    if not gold and not predicted:
        return {"HOTA": 1.0, "DetA": 1.0, "AssA": 1.0}
    potential = np.zeros((len(gold), len(predicted)))
    n_gold, n_predicted = np.zeros(len(gold)), np.zeros(len(predicted))
    frames = []
    for gold_ids, predicted_ids, similarity in similarities:
        g = np.array([gold.index(i) for i in gold_ids], dtype=int)
        p = np.array([predicted.index(i) for i in predicted_ids], dtype=int)
        n_gold[g] += 1
        n_predicted[p] += 1
        total = similarity.sum(0, keepdims=True) + similarity.sum(1, keepdims=True) - similarity
        potential[np.ix_(g, p)] += np.divide(
            similarity, total, out=np.zeros_like(total), where=total > 0
        )
        frames.append((g, p, similarity))
    alignment = potential / np.maximum(n_gold[:, None] + n_predicted - potential, 1e-12)
    matches, n_true = np.zeros_like(potential), 0
    for g, p, similarity in frames:
        pairs = assign(-(alignment[np.ix_(g, p)] * similarity))
        for i, j in pairs:
            if similarity[i, j] >= 0.5:
                matches[g[i], p[j]] += 1
                n_true += 1
    n_missed, n_false = n_gold.sum() - n_true, n_predicted.sum() - n_true
    detection = n_true / (n_true + n_missed + n_false)
    shared = matches / np.maximum(n_gold[:, None] + n_predicted - matches, 1)
    association = float((matches * shared).sum() / max(n_true, 1))
    return {
        "HOTA": float(np.sqrt(detection * association)),
        "DetA": float(detection),
        "AssA": association,
    }
