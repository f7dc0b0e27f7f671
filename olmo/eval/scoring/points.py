"""Scores of answers that count or point.

A mask is a bool array [height, width], a point (x, y) in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from olmo.eval.scoring.point_text import Point, TimedPoint, read_points, read_timed_points
from olmo.eval.scoring.score import Metadata, Score, needed, scorer

_TOTALS = (
    re.compile(r"a total of\s*([0-9]+)"),
    re.compile(r"the total number(?: of .*?)? is:\s*([0-9]+)"),
)
_NONE = re.compile(r"\bnone\b")
_BIN, _LAST_BIN = 5, 25
"""Width of the categories by the right number, and where the last begins."""


# --- counting ----------------------------------------------------------------------------------


def read_number(text: str) -> int | None:
    """The number that an answer is, as Python reads it, or that it gives as a total."""
    text = _plain(text)
    totals = (found[1] for pattern in _TOTALS if (found := pattern.search(text)))
    for said in (text, *totals):
        try:
            return int(said)
        except ValueError:  # no number, or one of thousands of digits
            continue
    return None


def _plain(text: str) -> str:
    return text.lower().strip().removesuffix(".").strip()


@scorer("video_count")
def video_count(prediction: str, metadata: Metadata) -> Score:
    """The number in the text. ``none`` is zero if there is no number; the reference never reads
    it, by a slip in a pattern."""
    gold = int(needed(metadata, "count")[0])
    number = read_number(prediction)
    found = 0 if number is None and _NONE.search(prediction.lower()) else number
    low = gold // _BIN * _BIN
    name = f"{low}-{low + _BIN}" if low < _LAST_BIN else f"{_LAST_BIN} and more"
    return _counted(found, number, gold, 1 + int(0.05 * gold), name)


@scorer("image_count")
def image_count(prediction: str, metadata: Metadata) -> Score:
    """The number of points. An answer without points may say that there are none, or give the
    number; the reference takes it for zero."""
    gold = int(needed(metadata, "count")[0])
    n_points = len(read_points(prediction, 100, 100))
    found: int | None = n_points
    if not n_points and _plain(prediction) not in ("none", "there are none"):
        found = read_number(prediction)
    return _counted(found, n_points, gold, 1, str(gold))


def _counted(found: int | None, molmo2: int | None, gold: int, near: int, name: str) -> Score:
    """``molmo2`` is the number that the reference reads; ``near`` the difference that is close."""

    def values(number: int | None) -> list[float]:
        close = number is not None and abs(number - gold) <= near
        return [float(number == gold), float(close), float(number is not None)]

    names = ("close", "valid", "molmo2", "molmo2_close", "molmo2_valid")
    correct, *ours = values(found)
    scores = dict(zip(names, [*ours, *values(molmo2)], strict=True))
    return Score(correct, found, gold, scores, (f"count/{name}",))


# --- pointing ----------------------------------------------------------------------------------


@scorer("image_points")
def image_points(prediction: str, metadata: Metadata) -> Score:
    """Pointing in one image: F1 of points. They are matched to ``points`` by least distance; a pair
    is a hit where the predicted point lies in the mask of the other, one in ``masks``."""
    gold, masks = needed(metadata, "points", "masks")
    found = read_points(prediction, *frame_size(metadata, masks))
    pairs = assign(distances(found, gold))
    hits = sum(is_inside(masks[j], found[i]) for i, j in pairs)
    parsed = [list(p) for p in found]
    return point_score(precision_recall_f1(hits, len(found), len(gold)), parsed, _lists(gold))


@scorer("video_points")
def video_points(prediction: str, metadata: Metadata) -> Score:
    """Pointing in a video: F1 of points (t, x, y), in seconds and pixels.

    Pairs of predicted and gold ones have the least distance in (t / duration, x / width,
    y / height), each in per cent and rounded to one decimal. A pair is a hit where the predicted
    time is one at which the object has a mask (``gt_abs_masks``: for each object, time to mask) and
    the point lies in it; times are compared exactly.
    """
    gold, masks, duration = needed(metadata, "gt_abs_triplets", "gt_abs_masks", "duration")
    w, h = frame_size(metadata, (mask for one in masks for mask in one.values()))
    found = read_timed_points(prediction, w, h)
    parsed = [[p.time, p.x, p.y] for p in found]
    shares = [(_points(p, 3) * 100 / (duration, w, h)).round(1) for p in (parsed, gold)]
    hits = sum(_is_hit(masks[j], found[i]) for i, j in assign(distances(*shares)))
    return point_score(precision_recall_f1(hits, len(found), len(gold)), parsed, _lists(gold))


def _is_hit(masks: Mapping[float, np.ndarray], point: TimedPoint) -> bool:
    mask = masks.get(point.time)
    return mask is not None and is_inside(mask, (point.x, point.y))


@scorer("point_bench")
def point_bench(prediction: str, metadata: Metadata) -> Score:
    """Point-Bench by PointArena's rule: the first point lies in the mask; where the ``category`` is
    counting all do, and there are ``count`` of them, if that is known. The reference wants them
    all in the mask in any category. Points are those of the image, whatever the mask's size, and
    fall into the pixel in which they lie."""
    mask, category = needed(metadata, "mask", "category")
    w, h = metadata.get("image_size") or mask.shape[::-1]
    found = read_points(prediction, w, h)
    inside = [x < w and y < h and _covers(mask, int(x), int(y)) for x, y in found]
    everyone = bool(found) and all(inside)
    if category == "counting":
        right = everyone and metadata.get("count") in (None, len(found))
    else:
        right = bool(found) and inside[0]
    scores = {"molmo2": float(everyone)}
    return Score(float(right), [list(p) for p in found] or None, None, scores)


# --- common ------------------------------------------------------------------------------------


def frame_size(metadata: Metadata, masks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Width and height that gold points refer to: those of the masks, as a video may have been
    resized since; without masks ``image_size``."""
    for mask in masks:
        return float(mask.shape[1]), float(mask.shape[0])
    (size,) = needed(metadata, "image_size")
    return float(size[0]), float(size[1])


def is_inside(mask: np.ndarray, point: Point) -> bool:
    """Whether the nearest pixel (half to even) lies in the frame and in ``mask``."""
    return _covers(mask, round(point[0]), round(point[1]))


def _covers(mask: np.ndarray, x: int, y: int) -> bool:
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total ``cost`` [n, m], min(n, m) of them, sorted by row."""
    from scipy.optimize import linear_sum_assignment  # imported late: other scorers do without

    rows, columns = linear_sum_assignment(cost)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def distances(a: Sequence[Any] | np.ndarray, b: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Euclidean, between points of as many coordinates: [len(a), len(b)]."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    n = len(a[0])
    return np.linalg.norm(_points(a, n)[:, None] - _points(b, n)[None], axis=-1)


def _points(points: Sequence[Any] | np.ndarray, n: int) -> np.ndarray:
    return np.asarray(points, dtype=np.float64).reshape(-1, n)


def precision_recall_f1(hits: int, n_predicted: int, n_gold: int) -> dict[str, float]:
    """Without gold objects all are 1 if nothing is predicted, else 0. F1 has the reference's 1e-10
    in its denominator, and nine digits, so that an answer without fault is worth 1."""
    if n_gold == 0:
        return dict.fromkeys(("precision", "recall", "f1"), float(n_predicted == 0))
    precision = hits / n_predicted if n_predicted else 0.0
    recall = hits / n_gold
    f1 = round(2 * precision * recall / (precision + recall + 1e-10), 9)
    return {"precision": precision, "recall": recall, "f1": f1}


def point_score(scores: Mapping[str, float], parsed: Any, reference: Any) -> Score:
    """A score whose headline is ``f1``. Nothing at all is an answer only where nothing is right."""
    found = parsed or (None if reference else parsed)
    return Score(scores["f1"], found, reference, {**scores, "valid": float(bool(parsed))})


def _lists(points: Iterable[Iterable[float]]) -> list[list[float]]:
    return [[float(v) for v in point] for point in points]
