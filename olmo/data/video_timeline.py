"""When each frame of a video is on the screen.

The rule: frame ``i`` is shown from its time stamp until that of the next frame, the last one for
as long as its packet says. The video begins with the first frame and ends with the last one;
what a header says about its length is used only to notice a file that was cut off.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from olmo.data.video_error import VideoReadError

EDGE_S = 1e-6
"""Moments so near to the begin or end of the video are moved inside."""


@dataclass(frozen=True)
class Timeline:
    """Times of the shown frames, in ticks of ``base`` seconds."""

    path: str | Path
    stamps: np.ndarray
    """int64 ``[n]``, ascending: when each frame comes on."""
    keys: np.ndarray
    """int64, ascending: time stamps of the frames that need no other."""
    end: int
    """When the last frame goes."""
    base: Fraction
    in_order: bool = False
    """The frames bear no time stamps to go by: the first that is decoded is the first shown."""
    stated: float | None = None
    """Seconds that the header promises, of a file that ends before; None: it is whole."""

    @cached_property
    def begins(self) -> np.ndarray:
        """float64 ``[n]``: ``stamps`` in seconds."""
        return self.stamps * self.base.numerator / self.base.denominator

    @property
    def found(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self.seconds(self.end)

    @property
    def duration(self) -> float:
        return self.found if self.stated is None else self.stated

    def seconds(self, stamp: int) -> float:
        """From the begin of the video to a time stamp."""
        return (stamp - self._first) * self.base.numerator / self.base.denominator

    @cached_property
    def _first(self) -> int:
        return int(self.stamps[0])

    @property
    def has_key_first(self) -> bool:
        """Whether no frame comes before the first key frame, which it may lack."""
        return len(self.keys) > 0 and bool(self.keys[0] <= self.stamps[0])

    def number_at(self, t: float) -> int:
        """Number of the frame that is shown ``t`` seconds after the begin.

        ``VideoReadError`` for a moment that a file which was cut off does not reach.
        """
        if self.stated is not None and t >= self.found:
            found = f"frames end at {self.found:.3f} s of {self.stated:.3f} s"
            raise VideoReadError(self.path, f"truncated: {found}")
        begin = float(self.begins[0])
        wanted = max(min(t + begin, float(self.end * self.base) - EDGE_S), begin)
        return int(self.begins.searchsorted(wanted, side="right")) - 1

    def copies(self, stamp: int) -> int:
        """Number of frames with this time stamp; the last one of them is shown."""
        return int(np.count_nonzero(self.stamps == stamp)) if self._has_copies else 1

    @cached_property
    def _has_copies(self) -> bool:
        return bool((np.diff(self.stamps) == 0).any())

    def distance(self, number: int, last: int) -> int:
        """About how many frames are decoded on the way from frame ``last`` to ``number``."""
        key = self.key_before(int(self.stamps[number]))
        first = 0 if key is None else int(self.stamps.searchsorted(key))
        return number + 1 - max(first, last + 1)

    def key_before(self, stamp: int) -> int | None:
        """Time stamp of the last key frame up to ``stamp``; None if the video begins with it."""
        before = int(self.keys.searchsorted(stamp, side="right")) - 1
        later = before >= 0 and self.keys[before] > self.stamps[0]
        return int(self.keys[before]) if later else None

    def starting_at(self, stamp: int) -> Timeline:
        """Without the frames before ``stamp``: those that lack what they are made from."""
        rest = self.stamps[self.stamps >= stamp]
        return dataclasses.replace(self, stamps=rest if len(rest) else np.array([stamp]))
