"""The interface of every video reader: frames by number, and the times at which they are shown.

Frame ``i`` is on the screen from its time stamp until that of the next frame, the last one for as
long as its packet says. The video begins with the first frame and ends with the last one; the
length in a header serves only to notice a file that was cut off.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from olmo.limits import Limits
from olmo.outside import OutsideError

EDGE_S = 1e-6
"""Times that differ by less are the same."""


class VideoReadError(OutsideError, OSError):
    """A video that cannot be used. ``path``, as it can be written, and ``reason`` are kept as
    attributes."""

    def __init__(self, path: str | Path, reason: str) -> None:
        name = str(path).encode(errors="backslashreplace").decode()  # it may be no UTF-8
        super().__init__(f"cannot read video {name}: {reason}")
        self.path, self.reason = name, reason

    def __reduce__(self) -> tuple[type[VideoReadError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # so that it crosses worker processes


@dataclass(frozen=True)
class Timeline:
    """Times of the shown frames, in ticks of ``base`` seconds."""

    stamps: np.ndarray
    """int64 ``[n]``, ascending: when each frame appears."""
    keys: np.ndarray
    """int64, ascending: time stamps of the key frames."""
    end: int
    """When the last frame disappears."""
    base: Fraction
    in_order: bool = False
    """The file has no usable time stamps: frames are shown in the order of decoding."""
    stated: float | None = None
    """Seconds that the header promises, if the file ends earlier; None for a whole file."""

    @cached_property
    def begins(self) -> np.ndarray:
        """float64 ``[n]``: ``stamps`` in seconds."""
        return self.stamps * self.base.numerator / self.base.denominator

    @property
    def found(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float((self.end - int(self.stamps[0])) * self.base)

    @property
    def has_key_first(self) -> bool:
        """Whether the video begins with a key frame; frames before the first one may not decode."""
        return len(self.keys) > 0 and bool(self.keys[0] <= self.stamps[0])

    def number_at(self, t: float) -> int:
        """Number of the frame that is shown ``t`` seconds after the start."""
        begin = float(self.begins[0])
        wanted = max(min(t + begin, float(self.end * self.base) - EDGE_S), begin)
        return int(self.begins.searchsorted(wanted, side="right")) - 1

    def copies(self, stamp: int) -> int:
        """Number of frames with this time stamp; the last one of them is shown."""
        first, after = self.stamps.searchsorted((stamp, stamp + 1))
        return int(after - first)

    def key_before(self, stamp: int) -> int | None:
        """Time stamp of the last key frame up to ``stamp``; None if the video begins with it."""
        before = int(self.keys.searchsorted(stamp, side="right")) - 1
        later = before >= 0 and self.keys[before] > self.stamps[0]
        return int(self.keys[before]) if later else None

    def starting_at(self, stamp: int) -> Timeline:
        """Without the frames before ``stamp``, which cannot be decoded."""
        rest = self.stamps[self.stamps >= stamp]
        return dataclasses.replace(self, stamps=rest if len(rest) else np.array([stamp]))


class Source:
    """Frames of one video; callers ask for them by number, in ascending order.

    A reader sets ``timeline`` and writes ``frame``. It calls ``check`` with the number of frames
    decoded so far, which raises past a limit. Errors of foreign decoders pass through.
    """

    timeline: Timeline

    def __init__(self, path: str | Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.named = partial(VideoReadError, path)
        self.check = limits.clock(self.named)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self.timeline.found if self.timeline.stated is None else self.timeline.stated

    def number_at(self, t: float) -> int:
        """Number of the frame that is shown at ``t`` seconds. ``VideoReadError`` if the file was
        cut off before that."""
        line = self.timeline
        if line.stated is not None and t >= line.found:
            found = f"frames end at {line.found:.3f} s of {line.stated:.3f} s"
            raise self.named(f"truncated: {found}")
        return line.number_at(t)

    def frame(self, number: int) -> np.ndarray:
        """uint8 ``[h, w, 3]`` RGB, upright; all frames have the size of the first one."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
