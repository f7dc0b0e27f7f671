"""Scores of answers that count, point or track."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from olmo.eval import answer_rules as rules
from olmo.eval import point_metrics
from olmo.eval.points import read_points, read_timed_points, read_tracks
from olmo.eval.score import Metadata, Score, score_of, scorer


def _count(prediction: str, metadata: Metadata, pointed: bool) -> Score:
    """``pointed``: the number of points counts, not the number in the text."""
    gold = metadata.get("count")
    if gold is None:
        raise ValueError("the metadata of a counting question hold no count")
    gold = int(gold)
    if pointed:
        n_points = len(read_points(prediction, 100, 100))
        found = n_points or (0 if rules.read_count(prediction) == 0 else None)
        tolerance, label = 1, f"count/{gold}"
    else:
        found, low = rules.read_count(prediction), gold // 5 * 5
        tolerance = 1 + int(0.05 * gold)
        label = f"count/{low}-{low + 5}" if low < 25 else "count/25 and more"
    close = found is not None and abs(found - gold) <= tolerance
    return score_of(
        int(found == gold),
        found,
        gold,
        scores={"close": float(close), "valid": float(found is not None)},
        labels=[label],
    )


scorer("video_count")(partial(_count, pointed=False))
scorer("image_count")(partial(_count, pointed=True))


def _needed(metadata: Metadata, *names: str) -> list[Any]:
    missing = [name for name in names if metadata.get(name) is None]
    if missing:
        raise ValueError(f"the metadata lack {', '.join(missing)}")
    return [metadata[name] for name in names]


def _size(metadata: Metadata, masks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Width and height that gold points refer to: those of the masks, as a video may have been
    resized since; without masks ``image_size``."""
    for mask in masks:
        return float(mask.shape[1]), float(mask.shape[0])
    (size,) = _needed(metadata, "image_size")
    return float(size[0]), float(size[1])


def _point_score(scores: dict[str, float], parsed: Any, reference: Any, headline: str) -> Score:
    valid = float(bool(parsed))
    found = parsed or (None if reference else [])
    return score_of(scores[headline], found, reference, scores={**scores, "valid": valid})


@scorer("video_points")
def video_points(prediction: str, metadata: Metadata) -> Score:
    """Molmo2 video pointing: F1 of points in the objects' masks at the very time."""
    gold, masks, duration = _needed(metadata, "gt_abs_triplets", "gt_abs_masks", "duration")
    w, h = _size(metadata, (mask for one in masks for mask in one.values()))
    found = read_timed_points(prediction, w, h)
    scores = point_metrics.video_points(found, gold, masks, duration, (w, h))
    parsed = [[p.time, p.x, p.y] for p in found]
    return _point_score(scores, parsed, [list(map(float, g)) for g in gold], "f1")


@scorer("image_points")
def image_points(prediction: str, metadata: Metadata) -> Score:
    """Pointing in one image: F1 of points in the objects' masks."""
    gold, masks = _needed(metadata, "points", "masks")
    w, h = _size(metadata, masks)
    found = read_points(prediction, w, h)
    scores = point_metrics.image_points(found, gold, masks)
    parsed = [list(p) for p in found]
    return _point_score(scores, parsed, [list(map(float, g)) for g in gold], "f1")


@scorer("point_bench")
def point_bench(prediction: str, metadata: Metadata) -> Score:
    """Point-Bench: right when there are points and all of them lie in the mask."""
    (mask,) = _needed(metadata, "mask")
    found = read_points(prediction, *_size(metadata, [mask]))
    right = bool(found) and all(point_metrics.is_inside(mask, p) for p in found)
    return score_of(int(right), [list(p) for p in found] or None, None)


@scorer("tracking")
def tracking(prediction: str, metadata: Metadata) -> Score:
    """F1 of the points per frame, with HOTA. ``points`` and ``masks`` map frame numbers to object
    ids to points (x, y), or masks."""
    gold, masks, fps = _needed(metadata, "points", "masks", "video_fps")
    w, h = _size(metadata, (mask for one in masks.values() for mask in one.values()))
    found = read_tracks(prediction, w, h, fps)
    scores = point_metrics.tracks(found, gold, masks)
    parsed = {str(f): {i: list(p) for i, p in ids.items()} for f, ids in found.items()}
    reference = {str(f): {i: list(p) for i, p in ids.items()} for f, ids in gold.items()}
    return _point_score(scores, parsed, reference, "f1")
