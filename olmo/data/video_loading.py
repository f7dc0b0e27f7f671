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
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from olmo.data.animation import MovingWebp, is_moving_webp
from olmo.data.frame_folder import FrameFolder
from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.data.video_error import VideoReadError
from olmo.limits import Limits
from olmo.outside import foreign
from olmo.preprocessing.chat import Rng
from olmo.types import VideoFrames

Transform = Callable[[np.ndarray], np.ndarray]


class Reader(Protocol):
    """Frames of one video in the order of time; a context manager."""

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        ...

    def frame_at(self, t: float) -> Any:
        """What is shown at ``t`` seconds; the same object as long as the frame is the same."""
        ...

    def pixels(self, span: Any) -> np.ndarray:
        """uint8 ``[h, w, 3]`` of what ``frame_at`` gave."""
        ...

    def close(self) -> None: ...


Opener = Callable[[str | Path, Limits], Reader]


def _pyav() -> Opener:
    from olmo.data.video_file import VideoFile

    return VideoFile


def _torchcodec() -> Opener:
    from olmo.data.video_torchcodec import TorchcodecFile, check_torchcodec

    check_torchcodec()
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
    limits: Limits | None = None,
) -> VideoFrames:
    """Decode the frames that ``sampling`` asks for.

    ``transform`` maps uint8 ``[1, h, w, 3]`` to ``[1, h', w', 3]`` and is applied to every frame
    as soon as it is decoded (a resize keeps memory low). ``limits`` bound the work. Raises
    :class:`VideoReadError`, and nothing else about the file, for one that is missing, unreadable,
    empty, truncated or beyond the limits, and for a clip outside the video.
    """
    clip, limits = clip or Clip(), limits or Limits()
    with open_video(path, decoder, clip.frame_rate, limits) as reader:
        start, end = _bounds(path, reader.duration, clip)
        times = sample_times(sampling, end - start, rng, is_training)
        frames, size = _collect(path, reader, times + start, transform, limits)
    return VideoFrames(frames=frames, timestamps=times, duration=end - start, size=size)


@contextlib.contextmanager
def open_video(
    path: str | Path,
    decoder: str = "pyav",
    frame_rate: float | None = None,
    limits: Limits | None = None,
) -> Iterator[Reader]:
    """The reader of a file or folder. Nothing is opened that could block, such as a pipe."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
    open_file = DECODERS[decoder]()
    limits = limits or Limits()
    named = partial(VideoReadError, path)
    with foreign(named):
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            reader: Reader = FrameFolder(path, frame_rate, limits)
        elif not stat.S_ISREG(mode):
            raise VideoReadError(path, "neither a file nor a folder")
        elif os.path.getsize(path) == 0:
            raise VideoReadError(path, "the file is empty")
        elif is_moving_webp(path):  # which FFmpeg cannot decode
            reader = MovingWebp(path, limits)
        else:
            reader = open_file(path, limits)
    try:
        yield reader
    finally:
        with foreign(named):
            reader.close()


def _mode(path: str | Path) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError as e:
        raise VideoReadError(path, "no such file") from e
    except (OSError, ValueError) as e:  # ValueError: a path with a zero byte
        raise VideoReadError(path, getattr(e, "strerror", None) or str(e)) from e


def _bounds(path: str | Path, duration: float, clip: Clip) -> tuple[float, float]:
    first = 0.0 if clip.start is None else float(clip.start)
    last = duration if clip.end is None else min(float(clip.end), duration)
    if not 0 <= first < last:
        span = f"clip {clip.start} to {clip.end} s"
        raise VideoReadError(path, f"{span} is not inside its {duration:.3f} s")
    return first, last


def _collect(
    path: str | Path,
    reader: Reader,
    wanted: np.ndarray,
    transform: Transform | None,
    limits: Limits,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Frames uint8 ``[n, h, w, 3]`` for the ascending times ``wanted``; width and height of the
    video."""
    named = partial(VideoReadError, path)
    out: list[np.ndarray] = []
    shown, size = None, (0, 0)
    for t in wanted:
        with foreign(named):
            at = reader.frame_at(float(t))
            pixels = None if at is shown else reader.pixels(at)
        if pixels is None:
            out.append(out[-1])
            continue
        frame = pixels if transform is None else transform(pixels[None])[0]
        if not out:
            size = (pixels.shape[1], pixels.shape[0])
            limits.check_output(len(wanted), frame.shape[1], frame.shape[0], named)
        shown = at
        out.append(frame)
    return np.stack(out), size


__all__ = ["DECODERS", "Clip", "VideoReadError", "load_video", "open_video"]
