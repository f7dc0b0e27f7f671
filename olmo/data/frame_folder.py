"""A folder of pictures as a video."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from olmo.data.video_error import VideoReadError
from olmo.limits import Limits
from olmo.preprocessing.images import load_image

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
EDGE_S = 1e-6
"""A moment so shortly before a picture counts as its own."""


@dataclass(frozen=True)
class Picture:
    """Frame ``number`` and the time it covers, in seconds."""

    number: int
    start: float
    end: float


class FrameFolder:
    """A folder of pictures, in the order of the numbers in their names, at a fixed rate.

    Raises ``VideoReadError`` without pictures or rate, and for pictures of several sizes.
    """

    def __init__(self, path: str | Path, frame_rate: float | None, limits: Limits) -> None:
        files = [f for f in Path(path).iterdir() if f.suffix.lower() in PICTURES]
        if not files:
            raise VideoReadError(path, "a folder without pictures")
        if frame_rate is None or not frame_rate > 0:
            raise VideoReadError(
                path, f"a folder of pictures needs metadata.frame_rate > 0, got {frame_rate}"
            )
        self.path, self.rate = path, float(frame_rate)
        self._limits, self._n_read = limits, 0
        self._check = limits.clock(partial(VideoReadError, path))
        self._files = sorted(files, key=_natural)
        self.duration = len(files) / self.rate
        self._last: Picture | None = None
        self._size: tuple[int, ...] | None = None

    def close(self) -> None:
        pass

    def frame_at(self, t: float) -> Picture:
        number = min(int(t * self.rate + EDGE_S), len(self._files) - 1)
        if self._last is None or self._last.number != number:
            self._last = Picture(number, number / self.rate, (number + 1) / self.rate)
        return self._last

    def pixels(self, span: Picture) -> np.ndarray:
        self._n_read += 1
        self._check(self._n_read)
        pixels = load_image(self._files[span.number], self._limits)
        self._size = self._size or pixels.shape[:2]
        if pixels.shape[:2] != self._size:
            raise VideoReadError(
                self.path,
                f"{self._files[span.number].name} is {pixels.shape[:2]}, the first {self._size}",
            )
        return pixels


def _natural(file: Path) -> list[int | str]:
    """Sort key by which ``img2`` comes before ``img10``."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
