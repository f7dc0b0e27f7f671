"""Videos made of pictures: picture files that move, and folders of pictures."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from olmo.data.video_source import EDGE_S, Source, Timeline, VideoReadError
from olmo.limits import Limits
from olmo.outside import OutsideError, foreign
from olmo.preprocessing.image_files import readable_formats
from olmo.preprocessing.images import load_image

MOVING = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats (Pillow's names) whose files can hold pictures that follow each other in time."""
IN_FOLDERS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
"""Names of the pictures that a folder counts as its frames."""
SUFFIXES = IN_FOLDERS | {".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
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


def webp_lengths(path: str | Path) -> list[int]:
    """Milliseconds that each picture of a moving WebP stays; empty for any other file."""
    lengths = []
    with open(path, "rb") as file:
        head = file.read(12)
        while head[:4] == b"RIFF" and head[8:] == b"WEBP" and len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            start = file.read(16) if chunk[:4] == b"ANMF" else b""
            if len(start) == 16:
                length = int.from_bytes(start[12:15], "little")
                lengths.append(length if length > SHORT_MS else USUAL_MS)
            file.seek(size + size % 2 - len(start), os.SEEK_CUR)
    return lengths


class MovingWebp(Source):
    """A moving WebP through Pillow. Transparency is dropped."""

    def __init__(self, path: str | Path, limits: Limits, lengths: list[int]) -> None:
        super().__init__(path, limits)
        stamps = np.cumsum([0, *lengths], dtype=np.int64)
        self.timeline = Timeline(stamps[:-1], stamps[:1], int(stamps[-1]), Fraction(1, 1000))
        self._image, self._at = Image.open(path, formats=("WEBP",)), -1
        limits.check_pixels(*self._image.size, self.named)

    def close(self) -> None:
        self._image.close()

    def frame(self, number: int) -> np.ndarray:
        for i in range(self._at + 1, number + 1):
            self.check(i + 1)
            self._image.seek(i)
            self._image.load()
        self._at = number
        return np.array(self._image.convert("RGB"))


class FrameFolder(Source):
    """A folder of pictures, in the order of the numbers in their names, at a fixed rate.

    Raises ``VideoReadError`` without pictures or rate, and for pictures of several sizes.
    """

    def __init__(self, path: str | Path, limits: Limits, frame_rate: float | None) -> None:
        super().__init__(path, limits)
        self._files = [f for f in Path(path).iterdir() if f.suffix.lower() in IN_FOLDERS]
        self._files.sort(key=_natural)
        if not self._files:
            raise self.named("a folder without pictures")
        if frame_rate is None or not frame_rate > 0:
            raise self.named(
                f"a folder of pictures needs metadata.frame_rate > 0, got {frame_rate}"
            )
        self._rate, self._n_read = float(frame_rate), 0
        self._size: tuple[int, ...] | None = None

    @property
    def duration(self) -> float:
        return len(self._files) / self._rate

    def number_at(self, t: float) -> int:
        return min(int(t * self._rate + EDGE_S), len(self._files) - 1)

    def frame(self, number: int) -> np.ndarray:
        self._n_read += 1
        self.check(self._n_read)
        file = self._files[number]
        pixels = load_image(file, self.limits)
        self._size = self._size or pixels.shape[:2]
        if pixels.shape[:2] != self._size:
            raise self.named(f"{file.name} is {pixels.shape[:2]}, the first {self._size}")
        return pixels


def _natural(file: Path) -> list[int | str]:
    """Sort key by which ``img2`` comes before ``img10``."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
