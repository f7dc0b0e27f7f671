"""Points and tracks as text, as the released models write them.

``<points coords="0.5 1 050 999 2 100 200;2.0 3 500 500">cat</points>``: groups of a time in seconds
(or the number of an image) and triples of a running number, x and y in thousandths of the width
and height. Source: the ``html-v2`` form of Molmo2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from olmo.preprocessing.prompts import Wordings

Point = Sequence[float] | Mapping[str, float]
"""``[x, y]`` or ``{"x": x, "y": y}``."""
Scale = float | tuple[float, float]
"""Width and height in the unit of the points; one number for both."""
Group = tuple[str, Sequence[Point], Scale]
"""A stamp (a time, or the number of an image) and the points there."""

NO_POINTS, NO_TRACKS = "There are none.", "No tracks available."
ANSWERS = {
    "point": "{tag}",
    "point_count": "Counting the {tag} shows a total of {n}.",
    "count_point": "There are {n} {tag}.",
    "count": "{n}",
}
"""Answer of each mode; ``tag`` is the ``<points>`` element."""
TRACKS = ("track", "ground", "single_track")
"""Modes that are answered with a ``<tracks>`` element; ``ground`` says where objects appear first
and last."""

POINT_MODES = {
    "pointing": "point",
    "cosyn_point": "point",
    "point_count": "point_count",
    "video_point": "point",
    "video_point_count": "point_count",
    "video_count": "count",
    "video_count_point": "count_point",
    "multi_image_pointing": "point",
    "multi_image_point_then_count": "point_count",
    "multi_image_counting": "count",
    "multi_image_count_then_point": "count_point",
    "video_point_track_per_frame": "track",
    "video_point_track_start_end": "ground",
    "video_point_ground_start_end": "ground",
    "video_single_point_track_per_frame": "single_track",
    "video_single_point_track_start_end": "ground",
}
"""What the answer to a pointing style says, of ``ANSWERS`` or ``TRACKS``."""


def point_mode(style: str) -> str | None:
    """The mode of a style, or of the one that it evaluates; None if it is not a pointing style."""
    return POINT_MODES.get(style.removeprefix("eval_"))


def points_answer(message: Mapping[str, Any], style: str, sizes: Sequence[tuple[int, int]]) -> str:
    """Points of an image (``[[x, y], ...]``), of each image of a list, or of a video at each of
    ``timestamps``. Tracks have ``{object: [x, y]}`` at each of them, None where it is hidden.

    They are counted in ``point_scale`` (one number, or width and height), else in pixels of the
    image; those of a video in per cent.
    """
    mode, label, points = point_mode(style), _label(message), message["points"]
    assert mode is not None
    scale = message.get("point_scale")
    if style.startswith("video_"):
        times, scale = message["timestamps"], 100 if scale is None else scale
        if mode in TRACKS:
            return tracks_text(times, points, scale, label, mode == "ground")
        return points_text(_timed(times, points, scale), label, mode)
    if scale is None and "width" in message and not sizes:
        scale = (message["width"], message["height"])
    several = "multi_image_" in style
    if several:
        points = points[: len(sizes)] if sizes else points  # images beyond the limit are left out
    else:
        points = [points]
    scales = list(sizes) if scale is None else [scale] * len(points)
    if len(scales) < len(points):
        raise ValueError("points without point_scale, and the size of their image is not known")
    groups = [(str(i + 1), found, scales[i]) for i, found in enumerate(points)]
    alt = None if several else message.get("alt")
    return points_text(groups, label.lower(), mode, alt)


def _label(message: Mapping[str, Any]) -> str:
    label = message.get("label", "")
    if not isinstance(label, str):
        raise ValueError(f"expected text as the label of points, got {label!r:.80}")
    return label


def point_prompt(message: Mapping[str, Any], mode: str, wordings: Wordings) -> str:
    """Prompt of a pointing example that brings no question."""
    label, scale = _label(message), message.get("point_scale")
    values = {"label": label, "fps": message.get("sampling_fps", 1)}
    if mode == "single_track":  # it is told where and when its object is seen first
        seen = [[p for p in one.values() if p is not None] for one in message["points"]]
        groups = _timed(message["timestamps"], seen, 100 if scale is None else scale)
        values["point"] = points_text([g for g in groups if g[1]][:1], label)
    return wordings.text(mode, **values)


def points_text(
    groups: Sequence[Group], label: str, mode: str = "point", alt: str | None = None
) -> str:
    """Answer about the points of all groups, sorted by x and y in each and numbered through.
    ``ValueError`` if ``mode`` is unknown."""
    if mode not in ANSWERS:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(ANSWERS)}")
    found, n = [], 0
    for stamp, points, scale in groups:
        places = sorted(_thousandths(p, scale) for p in points)
        found.append((stamp, list(enumerate(places, n + 1))))
        n += len(places)
    if not n:
        return NO_POINTS
    named = "" if alt is None else f' alt="{alt}"'
    tag = f'<points{named} coords="{_coords(found)}">{label}</points>'
    return ANSWERS[mode].format(tag=tag, n=n)


def tracks_text(
    times: Sequence[float],
    points: Sequence[Mapping[Hashable, Point | None]],
    scale: Scale,
    label: str,
    ends_only: bool = False,
) -> str:
    """Answer about moving objects, ``{object: [x, y]}`` of those known at each of ``times``; None
    for one that is hidden.

    They are numbered in the order in which they are written, then by x and y. With ``ends_only``
    an object is written where it is known first and last, and not at an end where it is hidden.
    """
    ends: dict[Hashable, list[int]] = {}
    for i, objects in enumerate(points):
        for key in objects:
            ends[key] = [ends.get(key, [i])[0], i]
    number: dict[Hashable, int] = {}
    found = []
    for i, (time, objects) in enumerate(zip(times, points, strict=True)):
        seen = {
            key: _thousandths(point, scale)
            for key, point in objects.items()
            if point is not None and not (ends_only and i not in ends[key])
        }
        for key in sorted(seen, key=lambda k: (seen[k], str(k))):
            number.setdefault(key, len(number) + 1)
        found.append((_time(time), sorted((number[k], place) for k, place in seen.items())))
    coords = _coords(found)
    return f'<tracks coords="{coords}">{label}</tracks>' if coords else NO_TRACKS


def _coords(groups: Sequence[tuple[str, Sequence[tuple[int, tuple[int, int]]]]]) -> str:
    """Stamps with their numbered points; those without any are left out."""
    return ";".join(
        " ".join([stamp, *(f"{n} {x:03d} {y:03d}" for n, (x, y) in points)])
        for stamp, points in groups
        if points
    )


def _timed(times: Sequence[float], points: Sequence[Sequence[Point]], scale: Scale) -> list[Group]:
    return [(_time(t), found, scale) for t, found in zip(times, points, strict=True)]


def _thousandths(point: Point, scale: Scale) -> tuple[int, int]:
    """Whole thousandths, inside the picture."""
    if isinstance(point, Mapping):
        point = point["x"], point["y"]
    size = scale if isinstance(scale, (tuple, list)) else (scale, scale)
    x, y = (min(max(round(v / s * 1000), 0), 1000) for v, s in zip(point, size, strict=True))
    return x, y


def _time(seconds: float) -> str:
    return str(tenths(seconds))


def tenths(seconds: float | str) -> float:
    """A time as it is written, in tenths of a second. ``ValueError`` for NaN and infinity, which
    JSON files may hold."""
    found = float(seconds)  # some files hold them as text
    if not math.isfinite(found):
        raise ValueError(f"{seconds} is not a time in seconds")
    return round(found, 1)
