"""Pointing and tracking: predicted points against the masks and points of objects.

A mask is a bool array [height, width]. A point is inside at its rounded pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from olmo.eval.matching import assign, hota
from olmo.eval.points import TimedPoint

Point = tuple[float, float]


def is_inside(mask: np.ndarray, point: Point) -> bool:
    """Whether ``point`` (x, y), rounded, lies in the frame and in ``mask``."""
    x, y = round(point[0]), round(point[1])
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def precision_recall_f1(hits: int, n_predicted: int, n_gold: int) -> dict[str, float]:
    """Without gold objects: 1 if nothing is predicted, else 0."""
    if n_gold == 0:
        return dict.fromkeys(("precision", "recall", "f1"), float(n_predicted == 0))
    precision = hits / n_predicted if n_predicted else 0.0
    recall = hits / n_gold
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def image_points(
    predicted: Sequence[Point], gold: Sequence[Point], masks: Sequence[np.ndarray]
) -> dict[str, float]:
    """Points of one image, matched to gold points by least distance in pixels; a pair is a hit
    when the predicted point lies in the mask of the gold point's object."""
    pairs = assign(_distances(predicted, gold))
    hits = sum(is_inside(masks[j], predicted[i]) for i, j in pairs)
    return precision_recall_f1(hits, len(predicted), len(gold))


def video_points(
    predicted: Sequence[TimedPoint],
    gold: Sequence[tuple[float, float, float]],
    masks: Sequence[Mapping[float, np.ndarray]],
    duration: float,
    size: tuple[float, float],
) -> dict[str, float]:
    """Points (t, x, y) of one video, in seconds and pixels of a frame of ``size`` (w, h).

    Pairs have the least distance in (t / duration, x / w, y / h), each in per cent and rounded
    to one decimal. A pair is a hit when the predicted time is one at which the object has a mask
    (``masks[j]``: time to mask) and the point lies in it; times are compared exactly.
    """
    scale = 100 / np.array([duration, *size], dtype=np.float64)
    ours = np.array([(p.time, p.x, p.y) for p in predicted]).reshape(-1, 3) * scale
    theirs = np.array(gold, dtype=np.float64).reshape(-1, 3) * scale
    hits = 0
    for i, j in assign(_distances(ours.round(1), theirs.round(1))):
        mask = masks[j].get(predicted[i].time)
        hits += mask is not None and is_inside(mask, (predicted[i].x, predicted[i].y))
    return precision_recall_f1(hits, len(predicted), len(gold))


def tracks(
    predicted: Mapping[int, Mapping[str, Point]],
    gold: Mapping[int, Mapping[str, Point]],
    masks: Mapping[int, Mapping[str, np.ndarray]],
) -> dict[str, float]:
    """Tracks of one video: frame number to object id to point, or to mask.

    Every frame with a gold or a predicted point counts. Its precision, recall and F1 come from
    the least pixel distances, the video's are means over frames; HOTA matches the ids.
    """
    per_frame, similarities = [], []
    for frame in sorted(predicted.keys() | gold.keys()):
        ours, theirs = predicted.get(frame, {}), gold.get(frame, {})
        shapes = masks.get(frame, {})
        similarity = np.array(
            [
                [float(g in shapes and is_inside(shapes[g], p)) for p in ours.values()]
                for g in theirs
            ]
        ).reshape(len(theirs), len(ours))
        pairs = assign(_distances(list(theirs.values()), list(ours.values())))
        hits = int(sum(similarity[g, p] for g, p in pairs))
        per_frame.append(precision_recall_f1(hits, len(ours), len(shapes)))
        similarities.append((list(theirs), list(ours), similarity))
    if not per_frame:
        per_frame = [precision_recall_f1(0, 0, 0)]
    means = {k: float(np.mean([one[k] for one in per_frame])) for k in per_frame[0]}
    return means | hota(similarities)


def _distances(a: Sequence[Point] | np.ndarray, b: Sequence[Point] | np.ndarray) -> np.ndarray:
    """Euclidean, [len(a), len(b)]."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.linalg.norm(x[:, None] - y[None], axis=-1)
