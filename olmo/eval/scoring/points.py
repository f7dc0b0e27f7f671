"""Answers that count or point: points and tracks read from text, and their scores.

The unified form is ``<points coords="0.5 1 050 999 2 100 200;2.0 3 500 500">cat</points>``, also
with ``tracks``: groups of a time in seconds (or an image number) and triples of an id, x and y in
thousandths of the frame. Older checkpoints write bare numbers, pairs in per cent, or dictionaries.
Single spaces and the number of digits are part of a form: what has others is not read.

A point is (x, y) in pixels, a mask a bool array [height, width].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.eval.scoring.score import Metadata, Score, needed, scorer

Point = tuple[float, float]

_COORDS = re.compile(r'<(?:points|tracks).*? coords="([0-9\t:;,. ]*)"/?>')
_GROUP = re.compile(r"(?:^|[\t:,;])([0-9.]+) ([0-9. ]+)")
_TRIPLE = re.compile(r"([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})")

_DECIMAL = r"([0-9]+\.[0-9])"
_LOOSE = r'"([0-9]+(?:\.[0-9]+)?)"'
_OLDER = (
    ((re.compile(rf"Click\({_DECIMAL}, ?{_DECIMAL}\)"), 100),),
    ((re.compile(r"[0-9] ([0-9]{3}) ([0-9]{3})"), 1000),),
    ((re.compile(rf"[0-9] {_DECIMAL} {_DECIMAL}"), 100),),
    (
        (re.compile(rf"\({_DECIMAL}(?:, ?| ){_DECIMAL}\)"), 100),
        (re.compile(rf"x[0-9]*={_LOOSE}\s+y[0-9]*={_LOOSE}"), 100),
        (re.compile(r"[p0-9]\s*=\s*([0-9]{3})\s*,\s*([0-9]{3})"), 1000),
    ),
)
"""Forms of pairs, in the order in which they are tried, and what stands for the whole frame; those
of one form are all collected."""

_BLOCK = re.compile(r"<points ([^/>]+)/>")
_TIME_LINE = re.compile(r"^[ \t]*time ([0-9.]+)[ \t]*\n[ \t]*\{(.*)\}", re.MULTILINE)
_TRACKED = re.compile(r"([0-9]+): ?\[([0-9.]+), ?([0-9.]+)\]")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]*)?|\.[0-9]+")
"""``1.5.2`` only looks like one."""


@dataclass(frozen=True)
class TimedPoint:
    """A point in pixels at ``time`` (seconds, or the 1-based number of an image)."""

    time: float
    id: str
    x: float
    y: float


def read_points(text: str, width: float, height: float) -> list[Point]:
    """All points (x, y) of an answer, in pixels, by the first form that yields any in the frame;
    those outside are left out."""
    if timed := _unified(text, width, height):
        return [(p.x, p.y) for p in timed]
    for form in _OLDER:
        found = [
            (float(x) / scale * width, float(y) / scale * height)
            for pattern, scale in form
            for x, y in pattern.findall(text)
            if max(float(x), float(y)) <= scale
        ]
        if found:
            return found
    return []


def read_timed_points(text: str, width: float, height: float) -> list[TimedPoint]:
    """Points of a video with their times, in the order of the text; those outside the frame are
    left out. The older form is ``<points 0.5 1 10.0 20.5 2 30.0 40.0/>``, in per cent; if one such
    block is malformed, none is read."""
    if found := _unified(text, width, height):
        return found
    blocks = [content.split() for content in _BLOCK.findall(text)]
    if not all(len(block) % 3 == 1 and all(map(_NUMBER.fullmatch, block)) for block in blocks):
        return []
    groups = ((time, zip(p[::3], p[1::3], p[2::3], strict=True)) for time, *p in blocks)
    return _placed(groups, 100, width, height)


def read_tracks(text: str, width: float, height: float, fps: float) -> dict[int, dict[str, Point]]:
    """Frame number to object id to point, frame = round(time * fps), half to even. The first
    mention of an object at a time counts; of two times in one frame the later in the text."""
    lines = ((time, _TRACKED.findall(objects)) for time, objects in _TIME_LINE.findall(text))
    found = _unified(text, width, height) or _placed(lines, 100, width, height)
    times: dict[float, dict[str, Point]] = {}
    for p in found:
        times.setdefault(p.time, {}).setdefault(p.id, (p.x, p.y))
    return {round(time * fps): objects for time, objects in times.items()}


def _unified(text: str, width: float, height: float) -> list[TimedPoint]:
    found = (group for coords in _COORDS.findall(text) for group in _GROUP.findall(coords))
    groups = ((time, _TRIPLE.findall(triples)) for time, triples in found)
    return _placed(groups, 1000, width, height)


def _placed(
    groups: Iterable[tuple[str, Iterable[tuple[str, ...]]]], scale: int, width: float, height: float
) -> list[TimedPoint]:
    """The points of groups of a time and (id, x, y), of which ``scale`` is the whole frame; without
    those outside, and those whose time or place is no number."""
    return [
        TimedPoint(float(time), name, float(x) / scale * width, float(y) / scale * height)
        for time, triples in groups
        for name, x, y in triples
        if all(map(_NUMBER.fullmatch, (time, x, y))) and max(float(x), float(y)) <= scale
    ]


# --- counting ----------------------------------------------------------------------------------

_TOTALS = (
    re.compile(r"a total of\s*([0-9]+)"),
    re.compile(r"the total number(?: of .*?)? is:\s*([0-9]+)"),
)
_NONE = re.compile(r"\bnone\b")
_BIN, _LAST_BIN = 5, 25
"""Width of the categories by the right number, and where the last begins."""


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
    hits = sum(is_inside(masks[j], found[i]) for i, j in nearest(found, gold))
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
    shares = [(np.reshape(p, (-1, 3)) * 100 / (duration, w, h)).round(1) for p in (parsed, gold)]
    pairs = ((found[i], masks[j]) for i, j in nearest(*shares))
    hits = sum(is_inside(mask.get(p.time), (p.x, p.y)) for p, mask in pairs)
    return point_score(precision_recall_f1(hits, len(found), len(gold)), parsed, _lists(gold))


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
    right = any(inside[:1])
    if category == "counting":
        right = everyone and metadata.get("count") in (None, len(found))
    parsed = [list(p) for p in found] or None
    return Score(float(right), parsed, None, {"molmo2": float(everyone)})


# --- common ------------------------------------------------------------------------------------


def frame_size(metadata: Metadata, masks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Width and height that gold points refer to: those of the masks, as a video may have been
    resized since; without masks ``image_size``."""
    for mask in masks:
        return float(mask.shape[1]), float(mask.shape[0])
    (size,) = needed(metadata, "image_size")
    return float(size[0]), float(size[1])


def is_inside(mask: np.ndarray | None, point: Point) -> bool:
    """Whether the nearest pixel (half to even) lies in the frame and in the mask, if any."""
    return mask is not None and _covers(mask, round(point[0]), round(point[1]))


def _covers(mask: np.ndarray, x: int, y: int) -> bool:
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total ``cost`` [n, m], min(n, m) of them, sorted by row."""
    from scipy.optimize import linear_sum_assignment  # imported late: other scorers do without

    rows, columns = linear_sum_assignment(cost)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def nearest(a: Sequence[Any] | np.ndarray, b: Sequence[Any] | np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) of least total distance between points of as many coordinates."""
    if not len(a) or not len(b):
        return []
    return assign(np.linalg.norm(np.asarray(a)[:, None] - np.asarray(b), axis=-1))


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
