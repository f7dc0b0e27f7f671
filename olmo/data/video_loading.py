"""Frames of a video: a file, or a folder of pictures, opened by the decoder of one's choice.

Frame for time ``t``: the first one that ends after ``t``; past the last frame, the last one.
Times count from the start of the video stream, or from ``clip_start``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.data.video_backends import FrameFolder, TorchcodecFile
from olmo.data.video_file import VideoFile, VideoReadError
from olmo.preprocessing.chat import Rng
from olmo.types import VideoFrames

Transform = Callable[[np.ndarray], np.ndarray]


class Reader(Protocol):
    """Frames of one video in the order of time; a context manager."""

    duration: float

    def frame_at(self, t: float) -> Any:
        """What is shown at ``t`` seconds; the same object as long as the frame is the same."""
        ...

    def pixels(self, span: Any) -> np.ndarray:
        """uint8 ``[h, w, 3]`` of what ``frame_at`` gave."""
        ...

    def __enter__(self) -> Reader: ...

    def __exit__(self, *exc: object) -> None: ...


DECODERS: dict[str, Callable[[str | Path], Reader]] = {
    "pyav": VideoFile,
    "torchcodec": TorchcodecFile,
}


@dataclass(frozen=True)
class Clip:
    """The part of a video to show, in seconds (None: from its start, to its end), and the frame
    rate of a folder of pictures."""

    start: float | None = None
    end: float | None = None
    frame_rate: float | None = None

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> Clip:
        """The clip that an example's metadata name."""
        return cls(
            metadata.get("clip_start_time"),
            metadata.get("clip_end_time"),
            metadata.get("frame_rate"),
        )


def load_video(
    path: str | Path,
    sampling: FrameSampling,
    rng: Rng | None = None,
    is_training: bool = False,
    clip: Clip | None = None,
    transform: Transform | None = None,
    decoder: str = "pyav",
) -> VideoFrames:
    """Decode the frames that ``sampling`` asks for.

    ``transform`` maps uint8 ``[1, h, w, 3]`` to ``[1, h', w', 3]`` and is applied to every frame
    as soon as it is decoded (a resize keeps memory low). Raises :class:`VideoReadError` for a
    missing, unreadable, empty or truncated file and for a clip outside the video.
    """
    clip = clip or Clip()
    try:
        with open_video(path, decoder, clip.frame_rate) as reader:
            start, end = _bounds(path, reader.duration, clip)
            times = sample_times(sampling, end - start, rng, is_training)
            frames, size = _collect(reader, times + start, transform)
    except av.FFmpegError as e:
        raise VideoReadError(path, f"{type(e).__name__}: {e.strerror or e}") from e
    return VideoFrames(frames=frames, timestamps=times, duration=end - start, size=size)


def open_video(path: str | Path, decoder: str = "pyav", frame_rate: float | None = None) -> Reader:
    """The reader of a file or folder. Nothing is opened that could block, such as a pipe."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as e:
        raise VideoReadError(path, "no such file") from e
    except (OSError, ValueError) as e:  # ValueError: a path with a zero byte
        raise VideoReadError(path, getattr(e, "strerror", None) or str(e)) from e
    if stat.S_ISDIR(mode):
        return FrameFolder(path, frame_rate)
    if not stat.S_ISREG(mode):
        raise VideoReadError(path, "neither a file nor a folder")
    return DECODERS[decoder](path)


def _bounds(path: str | Path, duration: float, clip: Clip) -> tuple[float, float]:
    first = 0.0 if clip.start is None else float(clip.start)
    last = duration if clip.end is None else min(float(clip.end), duration)
    if not 0 <= first < last:
        span = f"clip {clip.start} to {clip.end} s"
        raise VideoReadError(path, f"{span} is not inside its {duration:.3f} s")
    return first, last


def _collect(
    reader: Reader, wanted: np.ndarray, transform: Transform | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Frames uint8 ``[n, h, w, 3]`` for the ascending stream times ``wanted``; width and height
    of the video."""
    out: list[np.ndarray] = []
    shown, size = None, (0, 0)
    for t in wanted:
        span = reader.frame_at(float(t))
        if span is shown:
            out.append(out[-1])
            continue
        shown, pixels = span, reader.pixels(span)
        size = size if out else (pixels.shape[1], pixels.shape[0])
        out.append(pixels if transform is None else transform(pixels[None])[0])
    return np.stack(out), size


__all__ = ["DECODERS", "Clip", "VideoReadError", "load_video", "open_video"]
