"""Other sources of frames than a file read by PyAV: torchcodec, and folders of pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olmo.data.video_file import VideoReadError
from olmo.preprocessing.images import load_image

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
EDGE_S = 1e-6
"""torchcodec refuses moments at the very end."""


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

    def __init__(self, path: str | Path, frame_rate: float | None) -> None:
        files = [f for f in Path(path).iterdir() if f.suffix.lower() in PICTURES]
        if not files:
            raise VideoReadError(path, "a folder without pictures")
        if frame_rate is None or not frame_rate > 0:
            raise VideoReadError(
                path, f"a folder of pictures needs metadata.frame_rate > 0, got {frame_rate}"
            )
        self.path, self.rate = path, float(frame_rate)
        self._files = sorted(files, key=_natural)
        self.duration = len(files) / self.rate
        self._last: Picture | None = None
        self._size: tuple[int, ...] | None = None

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def frame_at(self, t: float) -> Picture:
        number = min(int(t * self.rate + EDGE_S), len(self._files) - 1)
        if self._last is None or self._last.number != number:
            self._last = Picture(number, number / self.rate, (number + 1) / self.rate)
        return self._last

    def pixels(self, span: Picture) -> np.ndarray:
        pixels = load_image(self._files[span.number])
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


@dataclass(frozen=True)
class TorchcodecSpan:
    """A decoded frame, uint8 ``[h, w, 3]``, and the time it covers, in seconds."""

    image: np.ndarray
    start: float
    end: float


class TorchcodecFile:
    """A video file through torchcodec, in one thread.

    ``ImportError`` where torchcodec does not load. What it raises comes as ``VideoReadError``.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError) as e:  # RuntimeError: no FFmpeg that it can load
            raise ImportError(f"decoder=torchcodec, but torchcodec does not load: {e}") from e

        self.path = path
        self._last: TorchcodecSpan | None = None
        try:
            self._decoder: VideoDecoder = VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
            )
        except (RuntimeError, ValueError) as e:
            raise VideoReadError(path, _first_line(e)) from e
        about = self._decoder.metadata
        if not about.duration_seconds or about.end_stream_seconds is None:
            raise VideoReadError(path, "it has no frames")
        self._start = float(about.begin_stream_seconds or 0.0)
        self.duration = float(about.end_stream_seconds) - self._start

    def __enter__(self) -> TorchcodecFile:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def frame_at(self, t: float) -> TorchcodecSpan:
        if self._last is not None and self._last.start <= t < self._last.end:
            return self._last
        inside = min(max(t, 0.0), self.duration - EDGE_S) + self._start
        try:
            frame = self._decoder.get_frame_played_at(inside)
        except (RuntimeError, IndexError, ValueError) as e:
            raise VideoReadError(self.path, f"at {t:.3f} s: {_first_line(e)}") from e
        start = float(frame.pts_seconds) - self._start
        image = frame.data.numpy()
        self._last = TorchcodecSpan(image, start, start + float(frame.duration_seconds))
        return self._last

    def pixels(self, span: TorchcodecSpan) -> np.ndarray:
        return span.image


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
