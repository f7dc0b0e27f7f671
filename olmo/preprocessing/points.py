"""Points and tracks as text, as the released models write them.

``<points coords="0.5 1 050 999 2 100 200;2.0 3 500 500">cat</points>``: groups of a time in seconds
(or the number of an image) and triples of a running number, x and y in thousandths of the width
and height. Source: the ``html-v2`` form of Molmo2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from olmo.preprocessing.prompts import Wordings

Point = Sequence[float]
"""x and y."""
Scale = float | tuple[float, float]
"""Width and height in the unit of the points; one number for both."""

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
    "point": "point",
    "cosyn_point": "point",
    "point_count": "point_count",
    "count": "count",
    "count_point": "count_point",
    "point_track_per_frame": "track",
    "point_ground_start_end": "ground",
    "single_point_track_per_frame": "single_track",
}
"""What the answer to a pointing style says; styles of videos and of lists of images have the
prefix ``video_`` or ``multi_image_``."""


def point_mode(style: str) -> str | None:
    """What a style asks for, of ``ANSWERS`` or ``TRACKS``; None if it is no pointing style."""
    return POINT_MODES.get(style.removeprefix("video_").removeprefix("multi_image_"))


def points_answer(message: Mapping[str, Any], style: str, sizes: Sequence[tuple[int, int]]) -> str:
    """Points of an image (``[[x, y], ...]``), of each image of a list, or of a video at each of
    ``timestamps``. Tracks have ``{object: [x, y]}`` at each of them.

    They are counted in ``point_scale`` (one number, or width and height), else in pixels of the
    image; those of a video in per cent.
    """
    mode, label, points = point_mode(style), message.get("label", ""), message["points"]
    assert mode is not None
    scale = message.get("point_scale")
    if style.startswith("video_"):
        times, scale = message["timestamps"], 100 if scale is None else scale
        if mode in TRACKS:
            return tracks(_frames(times, points), scale, label, mode == "ground") or NO_TRACKS
        return video_points(times, points, scale, label, mode)
    if scale is not None:
        scales = [scale] * max(len(points), 1)
    elif "width" in message and not sizes:
        scales = [(message["width"], message["height"])]
    else:
        scales = list(sizes)
    if style.startswith("multi_image_"):
        if sizes:
            points = points[: len(sizes)]  # images beyond the limit are left out
        n = len(points)
        return multi_image_points(range(1, n + 1), points, scales[:n], label.lower(), mode)
    if not scales:
        raise ValueError("points without point_scale, and the size of their image is not known")
    return image_points(points, scales[0], label.lower(), message.get("alt"), mode)


def point_prompt(message: Mapping[str, Any], mode: str, wordings: Wordings) -> str:
    """Prompt of a pointing example that brings no question."""
    values = {"label": message.get("label", ""), "fps": message.get("sampling_fps", 1)}
    if mode == "single_track":
        values["point"] = _first_point(message)
    return wordings.text(mode, **values)


def _first_point(message: Mapping[str, Any]) -> str:
    """Where and when the one object of a track is seen first."""
    scale = message.get("point_scale")
    points = [list(objects.values()) for objects in message["points"][:1]]
    times = message["timestamps"][:1]
    return video_points(times, points, 100 if scale is None else scale, message.get("label", ""))


def _frames(times: Sequence[float], points: Sequence[Mapping[str, Point]]) -> list[dict[str, Any]]:
    return [
        {"time": t, "points": {key: {"point": p} for key, p in objects.items()}}
        for t, objects in zip(times, points, strict=True)
    ]


def image_points(
    points: Sequence[Point], scale: Scale, label: str, alt: str | None = None, mode: str = "point"
) -> str:
    """Answer about the points of one image."""
    return grouped_points(["1"], [points], [scale], label, alt, mode)


def video_points(
    times: Sequence[float],
    points: Sequence[Sequence[Point]],
    scale: Scale,
    label: str,
    mode: str = "point",
) -> str:
    """Answer about the points at each of ``times`` (seconds)."""
    stamps = [_time(t) for t in times]
    return grouped_points(stamps, points, [scale] * len(stamps), label, None, mode)


def multi_image_points(
    numbers: Sequence[int],
    points: Sequence[Sequence[Point]],
    scales: Sequence[Scale],
    label: str,
    mode: str = "point",
) -> str:
    """Answer about the points of the images with these ``numbers``, which start at 1."""
    return grouped_points([str(n) for n in numbers], points, scales, label, None, mode)


def grouped_points(
    stamps: Sequence[str],
    points: Sequence[Sequence[Point]],
    scales: Sequence[Scale],
    label: str,
    alt: str | None,
    mode: str,
) -> str:
    """Points of every stamp, sorted by x and y and numbered through; stamps without any are left
    out. ``ValueError`` if the three lists differ in length or ``mode`` is unknown."""
    if mode not in ANSWERS:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(ANSWERS)}")
    groups, n = [], 0
    for stamp, found, scale in zip(stamps, points, scales, strict=True):
        triples = []
        for x, y in sorted(_thousandths(p, scale) for p in found):
            n += 1
            triples.append(f"{n} {x:03d} {y:03d}")
        if triples:
            groups.append(" ".join([stamp, *triples]))
    if not n:
        return NO_POINTS
    named = "" if alt is None else f' alt="{alt}"'
    tag = f'<points{named} coords="{";".join(groups)}">{label}</points>'
    return ANSWERS[mode].format(tag=tag, n=n)


def tracks(
    frames: Sequence[Mapping[str, Any]], scale: Scale, label: str, start_end_only: bool = False
) -> str:
    """Answer about moving objects.

    A frame has a ``time`` in seconds and ``points``, ``{object id: {"point": [x, y], "occluded":
    bool}}``. Hidden objects and frames without points are left out; objects are numbered in the
    order in which they appear, then by x and y. With ``start_end_only`` an object is written where
    it appears first and last.
    """
    if not frames:
        return NO_TRACKS
    seen = [
        (_time(f["time"]), {k: _thousandths(p["point"], scale) for k, p in _visible(f).items()})
        for f in frames
    ]
    number: dict[str, int] = {}
    where: dict[str, list[int]] = {}
    for i, (_, points) in enumerate(seen):
        for key in sorted(points, key=lambda k: (points[k], str(k))):
            number.setdefault(key, len(number) + 1)
            where.setdefault(key, []).append(i)
    groups = []
    for i, (stamp, points) in enumerate(seen):
        triples = [
            f"{number[key]} {points[key][0]:03d} {points[key][1]:03d}"
            for key in sorted(points, key=number.__getitem__)
            if not start_end_only or i in (where[key][0], where[key][-1])
        ]
        if triples:
            groups.append(" ".join([stamp, *triples]))
    return f'<tracks coords="{";".join(groups)}">{label}</tracks>' if groups else ""


def _visible(frame: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {k: p for k, p in frame["points"].items() if not p.get("occluded")}


def _thousandths(point: Point, scale: Scale) -> tuple[int, int]:
    """Whole thousandths, inside the picture."""
    size = scale if isinstance(scale, (tuple, list)) else (scale, scale)
    x, y = (min(max(round(v / s * 1000), 0), 1000) for v, s in zip(point, size, strict=True))
    return x, y


def _time(seconds: float) -> str:
    return str(round(float(seconds), 1))
