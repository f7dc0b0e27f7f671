"""Which moments of a video become frames: pure functions of its duration.

All modes work on time (seconds), never on frame indices, so that the result does not depend on
the frame rate of the file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np

from olmo.preprocessing.prompts import Rng
from olmo.preprocessing.video import FrameMode, VideoPreprocessorConfig

log = logging.getLogger(__name__)

MODES: tuple[str, ...] = get_args(FrameMode)
CANDIDATE_FPS = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 16.0)
"""Rates that the mode ``fps`` chooses from."""


@dataclass(frozen=True)
class FrameSampling:
    """Settings of :func:`sample_times`.

    ``uniform_last_frame``: first and last moment included; at most ``max_frames``, and at most
    ``max_fps`` frames per second (training draws one of several rates, evaluation takes the
    first). ``uniform``: ``max_frames`` equal steps, the end left out. ``fps``: the highest
    candidate rate at which the whole video fits in ``max_frames``.
    """

    max_frames: int
    mode: str = "uniform_last_frame"
    max_fps: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"frame_sample_mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}")
        if self.max_fps is not None:
            if self.mode != "uniform_last_frame":
                raise ValueError(
                    f"frame_sample_mode {self.mode!r} takes no max_fps: set it to null"
                )
            if not self.max_fps or min(self.max_fps) <= 0:
                raise ValueError(f"max_fps must hold positive rates, got {self.max_fps}")

    @classmethod
    def from_config(cls, config: VideoPreprocessorConfig) -> FrameSampling:
        """Sampling that a preprocessor config asks for."""
        if not config.time_sampling:
            _say_ignored()
        max_fps = None if config.max_fps is None else tuple(config.max_fps)
        return cls(config.max_frames, config.frame_sample_mode, max_fps)


@cache
def _say_ignored() -> None:
    """Once, not for every video."""
    log.warning("time_sampling=False is ignored: frames are chosen by time")


def sample_times(
    sampling: FrameSampling, duration: float, rng: Rng | None = None, is_training: bool = False
) -> np.ndarray:
    """Moments to show, float64 ``[n]`` in seconds, ascending, within ``[0, duration]``.

    ``rng`` is used only in training with several ``max_fps``.
    """
    if not duration > 0:
        raise ValueError(f"a video needs a positive duration, got {duration} s")
    n = sampling.max_frames
    if sampling.mode == "uniform":
        return np.arange(n) * (duration / n)
    if sampling.mode == "fps":
        fitting = [c for c in CANDIDATE_FPS if n / c >= duration]
        times = np.arange(n) / (fitting[-1] if fitting else CANDIDATE_FPS[0])
        return times[times < duration]
    fps = None if sampling.max_fps is None else sampling.max_fps[0]
    if is_training and sampling.max_fps is not None and len(sampling.max_fps) > 1:
        if rng is None:
            several = f"several max_fps {sampling.max_fps}"
            raise ValueError(f"training with {several} needs a random generator")
        fps = float(rng.choice(sampling.max_fps))
    if fps is None or (n - 1) / fps < duration:
        return np.linspace(0.0, duration, n)
    times = np.arange(n) / fps
    return np.append(times[times < duration], duration)
