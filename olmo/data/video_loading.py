"""Frames of a video: a file, or a folder of pictures, opened by the decoder of one's choice.

Frame for time ``t``: the last one that came on until ``t``; it stays until the next one comes on.
Times count from the first frame, or from ``clip_start``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.animation import FrameFolder, MovingWebp, webp_lengths
from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.data.video_source import Source, VideoReadError
from olmo.limits import Limits
from olmo.outside import foreign
from olmo.preprocessing.prompts import Rng
from olmo.types import VideoFrames

__all__ = ["DECODERS", "Clip", "VideoReadError", "load_video", "open_video"]

Transform = Callable[[np.ndarray], np.ndarray]
Opener = Callable[[str | Path, Limits], Source]


def _pyav() -> Opener:
    from olmo.data.video_file import VideoFile

    return VideoFile


def _torchcodec() -> Opener:
    from olmo.data.video_torchcodec import TorchcodecFile

    return TorchcodecFile


DECODERS: dict[str, Callable[[], Opener]] = {"pyav": _pyav, "torchcodec": _torchcodec}
"""What opens a file, by name; asked for, it loads its library or raises ``ImportError``."""


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
        keys = ("clip_start_time", "clip_end_time", "frame_rate")
        return cls(*map(metadata.get, keys))

    def within(self, source: Source) -> tuple[float, float]:
        """Its begin and end, cut at the end of the video."""
        first = 0.0 if self.start is None else float(self.start)
        last = source.duration if self.end is None else min(float(self.end), source.duration)
        if not 0 <= first < last:
            span = f"clip {first} s to the end"
            if self.end is not None:
                span = f"clip {first} to {self.end} s"
            raise source.named(f"{span} is not inside its {source.duration:.3f} s")
        return first, last


def load_video(
    path: str | Path,
    sampling: FrameSampling,
    rng: Rng | None = None,
    is_training: bool = False,
    clip: Clip | None = None,
    transform: Transform | None = None,
    decoder: str = "pyav",
    limits: Limits | None = None,
) -> VideoFrames:
    """Decode the frames that ``sampling`` asks for.

    ``transform`` maps uint8 ``[1, h, w, 3]`` to ``[1, h', w', 3]`` and is applied to every frame
    as soon as it is decoded (a resize keeps memory low). ``limits`` bound the work. Raises
    :class:`VideoReadError`, and nothing else about the file, for one that is missing, unreadable,
    empty, truncated or beyond the limits, and for a clip outside the video.
    """
    clip = clip or Clip()
    with open_video(path, decoder, clip.frame_rate, limits) as source:
        start, end = clip.within(source)
        times = sample_times(sampling, end - start, rng, is_training)
        numbers = [source.number_at(float(t)) for t in times + start]
        frames, size = _collect(source, numbers, transform)
    return VideoFrames(frames=frames, timestamps=times, duration=end - start, size=size)


@contextlib.contextmanager
def open_video(
    path: str | Path,
    decoder: str = "pyav",
    frame_rate: float | None = None,
    limits: Limits | None = None,
) -> Iterator[Source]:
    """The frames of a file or folder. Nothing is opened that could block, such as a pipe."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
    open_file = DECODERS[decoder]()
    limits = limits or Limits()
    with foreign(lambda reason: VideoReadError(path, reason)):
        try:
            about = os.stat(path)
        except FileNotFoundError as e:
            raise VideoReadError(path, "no such file") from e
        if stat.S_ISDIR(about.st_mode):
            source: Source = FrameFolder(path, limits, frame_rate)
        elif not stat.S_ISREG(about.st_mode):
            raise VideoReadError(path, "neither a file nor a folder")
        elif about.st_size == 0:
            raise VideoReadError(path, "the file is empty")
        elif lengths := webp_lengths(path):  # FFmpeg cannot decode it
            source = MovingWebp(path, limits, lengths)
        else:
            source = open_file(path, limits)
    try:
        yield source
    finally:
        with foreign(source.named):
            source.close()


def _collect(
    source: Source, numbers: list[int], transform: Transform | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Frames uint8 ``[n, h, w, 3]`` with the ascending ``numbers``; width and height of the
    video."""
    out, size = np.empty(0, np.uint8), (0, 0)
    for i, number in enumerate(numbers):
        if i and number == numbers[i - 1]:
            out[i] = out[i - 1]
            continue
        with foreign(source.named):
            pixels = source.frame(number)
        frame = pixels if transform is None else transform(pixels[None])[0]
        if i == 0:
            height, width = frame.shape[:2]
            source.limits.check_output(len(numbers), width, height, source.named)
            size = (pixels.shape[1], pixels.shape[0])
            out = np.empty((len(numbers), *frame.shape), frame.dtype)
        out[i] = frame
    return out, size
