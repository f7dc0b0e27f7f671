"""Moving pictures: which files are one, and the kind that FFmpeg cannot decode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from olmo.data.video_error import VideoReadError
from olmo.data.video_timeline import Timeline
from olmo.limits import Limits
from olmo.outside import OutsideError, foreign
from olmo.preprocessing.image_files import readable_formats

MOVING = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats (Pillow's names) whose files can hold pictures that follow each other in time."""
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
)
"""Names of pictures, where the content does not tell."""
SHORT_MS, USUAL_MS = 10, 100
"""Frames that are to stay no longer than the first stay for the second, as in browsers."""


def is_video(path: str | Path) -> bool:
    """What a user who gives a file means by it: a moving picture is a video like any other, a
    still one is an image. The content decides, then the name."""
    known = moves(path)
    return Path(path).suffix.lower() not in SUFFIXES if known is None else known


def moves(path: str | Path) -> bool | None:
    """Whether a picture moves. None: no picture, or a damaged one; whoever reads it says so."""
    if not os.path.isfile(path):  # opening a pipe would block
        return None
    try:
        with (
            foreign(partial(VideoReadError, path)),
            Image.open(path, formats=readable_formats()) as image,
        ):
            return image.format in MOVING and bool(getattr(image, "is_animated", False))
    except OutsideError:
        return None


def is_moving_webp(path: str | Path) -> bool:
    """Whether a file is a WebP of several pictures."""
    with open(path, "rb") as file:
        head = file.read(21)
    is_extended = (head[:4], head[8:16]) == (b"RIFF", b"WEBPVP8X")
    return is_extended and any(flags & 2 for flags in head[20:])


@dataclass(frozen=True)
class Picture:
    """Number of a picture of a moving one."""

    number: int


class MovingWebp:
    """A moving WebP through Pillow. What Pillow raises comes as it is."""

    def __init__(self, path: str | Path, limits: Limits) -> None:
        named = partial(VideoReadError, path)
        self._check = limits.clock(named)
        lengths = list(_lengths(path))
        if not lengths:
            raise named("it has no frames")
        stamps = np.cumsum([0, *lengths], dtype=np.int64)
        self._timeline = Timeline(path, stamps[:-1], stamps[:1], int(stamps[-1]), Fraction(1, 1000))
        self.duration = self._timeline.duration
        self._at = Picture(-1)
        self._image = Image.open(path, formats=("WEBP",))
        limits.check_pixels(*self._image.size, named)

    def close(self) -> None:
        self._image.close()

    def frame_at(self, t: float) -> Picture:
        number = self._timeline.number_at(t)
        for i in range(self._at.number + 1, number + 1):
            self._check(i + 1)
            self._image.seek(i)
            self._image.load()
            self._at = Picture(i)
        return self._at

    def pixels(self, picture: Picture) -> np.ndarray:
        """uint8 ``[h, w, 3]`` RGB; transparency is dropped."""
        return np.array(self._image.convert("RGB"))


def _lengths(path: str | Path) -> Iterator[int]:
    """Milliseconds that each picture of a WebP file stays, from its chunks."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            start = file.read(16) if head[:4] == b"ANMF" else b""
            if len(start) == 16:
                length = int.from_bytes(start[12:15], "little")
                yield length if length > SHORT_MS else USUAL_MS
            file.seek(size + size % 2 - len(start), os.SEEK_CUR)
