"""A scatter plot of a few labelled points, laid out for an SVG; the template draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 38, 348, 24, 210
"""Of the plot and of the area between its axes, in units of the SVG: pixels on a phone."""
CHARACTER, LINE, LONGEST = 6.9, 13, 26
"""Width and height of a label's characters, and the most of them that are shown."""

LINES = (-0.5, -1.5, 0.5, -2.5, 1.5, -3.5, 2.5)
"""Tops of a label that are tried, in lines from its point."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """``x`` is better when small, ``y`` when large."""

    label: str
    x: float
    y: float


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats (at least as good in both, better in one), by ``x``."""

    def beats(a: Point, b: Point) -> bool:
        return a.x <= b.x and a.y >= b.y and (a.x, a.y) != (b.x, b.y)

    front = [p for p in points if not any(beats(other, p) for other in points)]
    return sorted(front, key=lambda p: p.x)


def scatter(x_title: str, y_title: str, points: Sequence[Point]) -> dict[str, Any]:
    """What the template draws: ticks as (position, text), points with their label's place and
    whether they are on the front, and the front as the points of a line."""
    xs, ys = _ticks([p.x for p in points]), _ticks([p.y for p in points])

    def across(value: float) -> float:
        return round(LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (RIGHT - LEFT), 1)

    def up(value: float) -> float:
        return round(BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (BOTTOM - TOP), 1)

    front = pareto(points)
    boxes: list[Box] = [_dot(across(p.x), up(p.y)) for p in points]
    drawn = []
    for p in points:
        x, y = across(p.x), up(p.y)
        text = p.label if len(p.label) <= LONGEST else p.label[: LONGEST - 1] + "…"
        box = _label_box(x, y, CHARACTER * len(text), boxes)
        boxes.append(box)
        at = {"text": text, "left": round(box[0], 1), "base": round(box[3] - 3, 1)}
        drawn.append({"point": p, "x": x, "y": y, "front": p in front, **at})
    return {
        "x_title": x_title,
        "y_title": y_title,
        "x_ticks": [(across(t), f"{t:.6g}") for t in xs],
        "y_ticks": [(up(t), f"{t:.6g}") for t in ys],
        "points": drawn,
        "front": " ".join(f"{across(p.x)},{up(p.y)}" for p in front),
    }


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers, evenly spaced, from one below or at the least value to one above."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * m for m in (1, 2, 5, 10) if power * m * 4 >= high - low)
    return [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _dot(x: float, y: float) -> Box:
    return x - 5, y - 5, x + 5, y + 5


def _label_box(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    """Beside the point, or above or below it: the first place that covers least."""
    lefts = (x + 7, x - 7 - width, x - width / 2)
    places = [(left, y + LINE * k) for k in LINES for left in lefts]
    boxes = [(left, top, left + width, top + LINE) for left, top in places]
    return min(boxes, key=lambda box: _outside(box) + sum(_overlap(box, b) for b in taken))


def _overlap(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)


def _outside(box: Box) -> float:
    """Area outside the plot, weighed so that a label is rather covered than cut off."""
    return 9 * ((box[2] - box[0]) * LINE - _overlap(box, (LEFT, 0, WIDTH, BOTTOM)))
