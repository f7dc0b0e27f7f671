"""Reading points and tracks from text.

The unified form is ``<points coords="0.5 1 050 999 2 100 200;2.0 3 500 500">cat</points>``, also
with ``tracks``: groups of a time in seconds (or an image number) and triples of an id, x and y in
thousandths of the frame. Older checkpoints write coordinates in per cent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_COORDS = re.compile(r'<(?:points|tracks)\b[^>]*?\bcoords="([0-9\t:,;. ]+)"')
_GROUP = re.compile(r"(?:^|[\t:,;])\s*([0-9.]+)((?: [0-9]+ [0-9]{3,4} [0-9]{3,4})+)")
_OLD_COMPACT = re.compile(r"<(?:points|tracks)\s+([0-9\t:,;. ]+?)\s*/?>")
_OLD_GROUP = re.compile(r"(?:^|[\t:,;])\s*([0-9.]+)((?: [0-9]+ [0-9.]+ [0-9.]+)+)")
_OLD_PAIRS = (
    re.compile(r"Click\(\s*([0-9.]+)\s*,\s*([0-9.]+)\s*\)"),
    re.compile(r'\bx\d*="\s*([0-9.]+)"\s+y\d*="\s*([0-9.]+)"'),
)


@dataclass(frozen=True)
class TimedPoint:
    """A point in pixels at ``time`` (seconds, or the 1-based number of an image)."""

    time: float
    id: str
    x: float
    y: float


def read_points(text: str, width: float, height: float) -> list[tuple[float, float]]:
    """All points (x, y) of an answer, in pixels; those outside the frame are left out."""
    if timed := read_timed_points(text, width, height):
        return [(p.x, p.y) for p in timed]
    for pattern in _OLD_PAIRS:
        pairs = [(_number(x), _number(y)) for x, y in pattern.findall(text)]
        found = [(x / 100 * width, y / 100 * height) for x, y in pairs if max(x, y) <= 100]
        if found:
            return found
    return []


def read_timed_points(text: str, width: float, height: float) -> list[TimedPoint]:
    """Points with their times, in the order of the text; those outside the frame are left out."""
    found = [p for c in _COORDS.findall(text) for p in _groups(c, _GROUP, 1000, width, height)]
    return found or [
        p for c in _OLD_COMPACT.findall(text) for p in _groups(c, _OLD_GROUP, 100, width, height)
    ]


def read_tracks(
    text: str, width: float, height: float, fps: float
) -> dict[int, dict[str, tuple[float, float]]]:
    """Frame number to object id to point, frame = round(time * fps); the first mention of an
    object in a frame counts."""
    frames: dict[int, dict[str, tuple[float, float]]] = {}
    for p in read_timed_points(text, width, height):
        frames.setdefault(round(p.time * fps), {}).setdefault(p.id, (p.x, p.y))
    return frames


def _groups(
    coords: str, group: re.Pattern[str], scale: int, width: float, height: float
) -> Iterator[TimedPoint]:
    for time, triples in group.findall(coords):
        numbers = triples.split()
        for i in range(0, len(numbers), 3):
            x, y = _number(numbers[i + 1]), _number(numbers[i + 2])
            if max(x, y) <= scale:
                yield TimedPoint(_number(time), numbers[i], x / scale * width, y / scale * height)


def _number(text: str) -> float:
    """A float; infinite, and so out of range, for what only looks like one (``1.2.3``)."""
    try:
        return float(text)
    except ValueError:
        return float("inf")
