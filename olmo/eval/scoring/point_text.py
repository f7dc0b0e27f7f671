"""Reading points and tracks from text.

The unified form is ``<points coords="0.5 1 050 999 2 100 200;2.0 3 500 500">cat</points>``, also
with ``tracks``: groups of a time in seconds (or an image number) and triples of an id, x and y in
thousandths of the frame. Older checkpoints write bare numbers, pairs in per cent, or dictionaries.
Single spaces and the number of digits are part of a form: what has others is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
    blocks = [_block(content.split(), width, height) for content in _BLOCK.findall(text)]
    read = [block for block in blocks if block is not None]
    return [p for block in read for p in block] if len(read) == len(blocks) else []


def read_tracks(text: str, width: float, height: float, fps: float) -> dict[int, dict[str, Point]]:
    """Frame number to object id to point, frame = round(time * fps), half to even. The first
    mention of an object at a time counts; of two times in one frame the later in the text."""
    found = _unified(text, width, height) or list(_time_lines(text, width, height))
    times: dict[float, dict[str, Point]] = {}
    for p in found:
        times.setdefault(p.time, {}).setdefault(p.id, (p.x, p.y))
    return {round(time * fps): objects for time, objects in times.items()}


def _unified(text: str, width: float, height: float) -> list[TimedPoint]:
    """A time that is no number voids its group."""
    return [
        TimedPoint(time, name, int(x) / 1000 * width, int(y) / 1000 * height)
        for coords in _COORDS.findall(text)
        for said, triples in _GROUP.findall(coords)
        if (time := _number(said)) is not None
        for name, x, y in _TRIPLE.findall(triples)
        if max(int(x), int(y)) <= 1000
    ]


def _block(words: list[str], width: float, height: float) -> list[TimedPoint] | None:
    """Points of ``[time, id, x, y, id, x, y, ...]``; None if that is not what the words are."""
    numbers = [n for n in map(_number, words) if n is not None]
    if len(numbers) != len(words) or len(words) % 3 != 1:
        return None
    return [
        TimedPoint(numbers[0], words[i], x / 100 * width, y / 100 * height)
        for i in range(1, len(words), 3)
        if max(x := numbers[i + 1], y := numbers[i + 2]) <= 100
    ]


def _time_lines(text: str, width: float, height: float) -> Iterator[TimedPoint]:
    for said, objects in _TIME_LINE.findall(text):
        if (time := _number(said)) is None:
            continue
        for name, *pair in _TRACKED.findall(objects):
            x, y = map(_number, pair)
            if x is not None and y is not None and max(x, y) <= 100:
                yield TimedPoint(time, name, x / 100 * width, y / 100 * height)


def _number(text: str) -> float | None:
    """A decimal number; None for what only looks like one (``1.5.2``)."""
    return float(text) if _NUMBER.fullmatch(text) else None
