"""A video as tokens: a time stamp and the visual tokens of every frame, then the subtitles."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from olmo.config import Config
from olmo.patch_grid import POOL, join_pooling, pooling_windows
from olmo.preprocessing.images import cell_tokens
from olmo.token_budget import check_topk
from olmo.tokenizer import MolmoTokenizer

Subtitle = str | dict[tuple[float, float], str]
"""Plain text, or ``{(start, end): text}`` in seconds from the start of the clip."""

FrameMode = Literal["uniform_last_frame", "uniform", "fps"]
TIME_FORMS = {
    "per-frame-compact": "{time:.1f} ",
    "per-frame": "time {time:.2f} ",
    "numbered-frames": "{number}: ",
    "none": "",
}
"""``time_mode`` -> text before a frame; all but the first also begin with a space."""


@dataclass
class VideoPreprocessorConfig(Config):
    """How frames are chosen and written into the token row."""

    max_frames: int = 64
    frame_sample_mode: FrameMode = "uniform_last_frame"
    max_fps: list[float] | None = dataclasses.field(default_factory=lambda: [2.0])
    time_sampling: bool = True
    time_mode: Literal["per-frame-compact", "per-frame", "numbered-frames", "none"] = (
        "per-frame-compact"
    )
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    """What reads video files; ``torchcodec`` has to be installed."""
    subtitle_mode: str = "frame_1"
    """``frame_N`` (entries within N seconds of a frame), ``all``, ``truncate_N`` (all, cut to N
    tokens) or ``ignore``."""
    max_subtitle_tokens: int | None = None
    pooling_w: int = 3
    pooling_h: int = 3
    use_frame_special_tokens: bool = True
    """``<frame_start>``/``<frame_end>``; otherwise ``<im_start>``/``<im_end>``."""
    per_frame_special_token: bool = True
    """Start and end tokens around every frame; otherwise one pair around the video."""
    topk: float | None = None
    """Share of pooled tokens that the vision backbone removes; None follows the ViT's."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"all|ignore|frame_\d+(\.\d+)?|truncate_\d+", self.subtitle_mode):
            raise ValueError(
                f"subtitle_mode {self.subtitle_mode!r} is not frame_N, all, truncate_N or ignore"
            )
        self.at_least(1, "max_frames")
        self.in_range(POOL, "pooling_h", "pooling_w")
        self.at_least(0, "max_subtitle_tokens")
        if self.max_fps is not None and min(self.max_fps, default=0.0) <= 0:
            raise ValueError(f"max_fps must hold rates above 0, got {self.max_fps}")
        if self.topk is not None:
            check_topk(self.topk)

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """A single ``max_fps`` becomes a list of one."""
        value = data.get("max_fps")
        if isinstance(value, (int, float, str)) and not str(value).startswith("["):
            data["max_fps"] = [value]
        return data


def video_token_ids(
    config: VideoPreprocessorConfig,
    tokenizer: MolmoTokenizer,
    timestamps: np.ndarray,
    cells_per_frame: int,
) -> list[int]:
    """Token ids of a video whose frames are shown at ``timestamps`` (seconds)."""
    kind = "frame" if config.use_frame_special_tokens else "im"
    start, *cells, end = cell_tokens(tokenizer, kind, (1, cells_per_frame))
    frame = [start, *cells, end] if config.per_frame_special_token else cells
    ids: list[int] = []
    form = TIME_FORMS[config.time_mode]
    for i, time in enumerate(timestamps):
        text = (" " if i and form else "") + form.format(time=float(time), number=i + 1)
        ids += tokenizer.encode(text) + frame
    return ids if config.per_frame_special_token else [start, *ids, end]


def video_token_pooling(
    config: VideoPreprocessorConfig, n_frames: int, hp: int, wp: int
) -> np.ndarray:
    """Patches behind every ``<im_patch>`` of a video with frames of ``hp x wp`` patches.

    Returns int64 ``[n_frames * cells, pooling_h * pooling_w]``, -1 for a slot outside the frame;
    patch ids run through all frames.
    """
    windows = pooling_windows(hp, wp, config.pooling_h, config.pooling_w)
    return join_pooling([windows] * n_frames, [hp * wp] * n_frames)


def subtitle_token_ids(
    config: VideoPreprocessorConfig,
    tokenizer: MolmoTokenizer,
    subtitle: Subtitle | None,
    timestamps: np.ndarray,
) -> list[int]:
    """Token ids of the subtitles, cut to the configured length; empty if none are to be shown."""
    limits = [config.max_subtitle_tokens]
    if config.subtitle_mode.startswith("truncate_"):
        limits.append(int(config.subtitle_mode.removeprefix("truncate_")))
    ids = tokenizer.encode(subtitle_text(config.subtitle_mode, subtitle, timestamps))
    return ids[: min((n for n in limits if n is not None), default=None)]


def subtitle_text(mode: str, subtitle: Subtitle | None, timestamps: np.ndarray) -> str:
    """Subtitle text before any cut; entries whose time does not fit ``mode`` are left out."""
    if not subtitle or mode == "ignore":
        return ""
    if isinstance(subtitle, str):
        return "subtitle\n" + subtitle
    times = np.asarray(timestamps, dtype=np.float64)
    reach = float(mode.removeprefix("frame_")) if mode.startswith("frame_") else math.inf
    lines = [
        f"{start:.1f} - {end:.1f} {text}\n"
        for (start, end), text in subtitle.items()
        if ((times >= start - reach) & (times <= end + reach)).any()
    ]
    return "subtitle\n" + "".join(lines) if lines else ""
