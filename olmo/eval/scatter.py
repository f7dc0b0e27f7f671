"""A scatter plot of a few numbered points, laid out for an SVG; the template draws it, with a
list of their names below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 38, 348, 24, 210
"""Of the plot and of the area between its axes, in units of the SVG: pixels on a phone."""
CHARACTER = 6.2
"""Width of a figure."""
CLOSE = (22, 13)
"""Points nearer than this, across and up, share the place of their numbers."""


Drawn = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """``x`` is better when small, ``y`` when large."""

    number: int
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
    """What the template draws: ticks as (position, text), points with their place and whether they
    are on the front, the front as the points of a line, and the numbers as (x, y, text)."""
    xs, ys = _ticks([p.x for p in points]), _ticks([p.y for p in points])

    def across(value: float) -> float:
        return round(LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (RIGHT - LEFT), 1)

    def up(value: float) -> float:
        return round(BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (BOTTOM - TOP), 1)

    front = pareto(points)
    drawn = [{"point": p, "x": across(p.x), "y": up(p.y), "front": p in front} for p in points]
    return {
        "x_title": x_title,
        "y_title": y_title,
        "x_ticks": [(across(t), f"{t:.6g}") for t in xs],
        "y_ticks": [(up(t), f"{t:.6g}") for t in ys],
        "points": drawn,
        "numbers": [_numbers(group) for group in _groups(drawn)],
        "front": " ".join(f"{across(p.x)},{up(p.y)}" for p in front),
    }


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers, evenly spaced, from one below or at the least value to one above."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * m for m in (1, 2, 5, 10) if power * m * 4 >= high - low)
    return [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _groups(drawn: Sequence[Drawn]) -> list[list[Drawn]]:
    """Points that are close to each other, also by way of others."""
    groups: list[list[Drawn]] = []
    for p in drawn:
        near = [any(_close(p, other) for other in group) for group in groups]
        joined = [q for group, is_near in zip(groups, near, strict=True) if is_near for q in group]
        apart = [group for group, is_near in zip(groups, near, strict=True) if not is_near]
        groups = [*apart, [*joined, p]]
    return groups


def _close(a: Drawn, b: Drawn) -> bool:
    return abs(a["x"] - b["x"]) < CLOSE[0] and abs(a["y"] - b["y"]) < CLOSE[1]


def _numbers(group: Sequence[Drawn]) -> tuple[float, float, str]:
    """Right of the group, or left of it where the plot ends: x of the middle, y, text."""
    text = ", ".join(str(n) for n in sorted(p["point"].number for p in group))
    xs, half = [p["x"] for p in group], CHARACTER * len(text) / 2
    right = max(xs) + 7 + half
    x = right if right + half <= WIDTH else min(xs) - 7 - half
    return round(x, 1), round(sum(p["y"] for p in group) / len(group) + 4, 1), text
