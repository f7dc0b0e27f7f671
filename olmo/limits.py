"""The most work that one file from outside may cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from olmo.config import Config
from olmo.outside import OutsideError

Named = Callable[[str], OutsideError]
"""Makes the error out of its reason: it names the file."""


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
        self.require("above 0", lambda value: value > 0, *vars(self))

    def check_pixels(self, width: int, height: int, named: Named) -> None:
        self._check("max_pixels", width * height, f"{width} x {height} pixels", named)

    def check_output(self, n: int, width: int, height: int, named: Named) -> None:
        found = f"{n} frames of {width} x {height} pixels"
        self._check("max_output_pixels", n * width * height, found, named)

    def check_subtitle(self, subtitle: str | Mapping[Any, str] | None) -> None:
        """``OutsideError`` for too much text: a string, or the values of a table."""
        texts = [subtitle] if isinstance(subtitle, str) else (subtitle or {}).values()
        n = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        self._check("max_subtitle_bytes", n, f"subtitles of {n} bytes", OutsideError)

    def _check(self, name: str, value: int, found: str, named: Named) -> None:
        if value > (most := getattr(self, name)):
            raise named(f"{found} are more than limits.{name}={most}")

    def clock(self, named: Named) -> Callable[[int], None]:
        """A function that is told the number of frames decoded so far, and raises past a limit."""
        until = time.monotonic() + self.max_seconds

        def check(n_frames: int) -> None:
            self._check("max_frames_decoded", n_frames, "frames to decode", named)
            if time.monotonic() > until:
                raise named(f"it takes longer than limits.max_seconds={self.max_seconds}")

        return check
