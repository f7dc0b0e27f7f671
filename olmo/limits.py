"""The most work that one file from outside may cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from olmo.config import Config
from olmo.outside import OutsideError


@dataclass
class Limits(Config):
    """The most that one media file may cost. What asks for more is skipped, and the message names
    the limit.

    The defaults let through everything that the published data sets hold.
    """

    max_pixels: int = 89_478_485
    """Width x height of an image or of a video's frames; Pillow warns from here on."""
    max_image_bytes: int = 256 << 20
    """Size of an image file."""
    max_frames_decoded: int = 100_000
    """Frames of one video that are decoded on the way to those that are shown."""
    max_seconds: float = 120.0
    """Time to read one video or image."""
    max_output_pixels: int = 1_500_000_000
    """Pixels of all frames of one video that are kept together, in the size that is asked for."""
    max_subtitle_bytes: int = 4 << 20
    """Subtitles of one example, as UTF-8."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    def check_pixels(self, width: int, height: int, named: Callable[[str], OutsideError]) -> None:
        if width * height > self.max_pixels:
            found = f"{width} x {height} pixels"
            raise named(f"{found} are more than limits.max_pixels={self.max_pixels}")

    def check_output(
        self, n: int, width: int, height: int, named: Callable[[str], OutsideError]
    ) -> None:
        if n * width * height > self.max_output_pixels:
            found = f"{n} frames of {width} x {height} pixels"
            raise named(f"{found} are more than limits.max_output_pixels={self.max_output_pixels}")

    def check_subtitle(self, subtitle: str | Mapping[Any, str] | None) -> None:
        """``OutsideError`` for too much text: a string, or the values of a table."""
        texts = [subtitle] if isinstance(subtitle, str) else (subtitle or {}).values()
        n = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if n > self.max_subtitle_bytes:
            limit = f"limits.max_subtitle_bytes={self.max_subtitle_bytes}"
            raise OutsideError(f"subtitles of {n} bytes are more than {limit}")

    def clock(self, named: Callable[[str], OutsideError]) -> Callable[[int], None]:
        """A function that is told the number of frames decoded so far, and raises past a limit."""
        until = time.monotonic() + self.max_seconds

        def check(n_frames: int) -> None:
            if n_frames > self.max_frames_decoded:
                found = f"limits.max_frames_decoded={self.max_frames_decoded}"
                raise named(f"more frames to decode than {found}")
            if time.monotonic() > until:
                raise named(f"it takes longer than limits.max_seconds={self.max_seconds}")

        return check
