"""How many pooled tokens of a video are removed: the one rule that everything calls.

The preprocessor writes it into an example, the packer counts with it and the vision backbone
removes exactly as many. It depends on the number of frames alone, never on the scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np


@dataclass(frozen=True)
class Budget:
    """How much the videos of one model lose. ``ValueError`` for a ``topk`` outside [0, 1).

    Attributes:
        cells_per_frame: pooled tokens of a frame.
        topk: share of a video's pooled tokens to remove; 0 for a dense model.
        prune_from_frame: this many frames of each video do not count.
    """

    cells_per_frame: int
    topk: float = 0.0
    prune_from_frame: int = 0

    def __post_init__(self) -> None:
        check_topk(self.topk)

    def at(self, topk: float | None) -> Budget:
        """The same at another ``topk``; None changes nothing."""
        return self if topk is None else replace(self, topk=check_topk(topk))

    def total(self, n_frames: int) -> int:
        """Pooled tokens of a video of ``n_frames`` frames."""
        return n_frames * self.cells_per_frame

    def removed(self, n_frames: int) -> int:
        """Those that leave."""
        return n_removed_tokens(n_frames, self.cells_per_frame, self.topk, self.prune_from_frame)

    def kept(self, n_frames: int) -> int:
        """Those that stay."""
        return self.total(n_frames) - self.removed(n_frames)


def n_removed_tokens(
    n_frames: int, cells_per_frame: int, topk: float, prune_from_frame: int = 0
) -> int:
    """Number of pooled tokens to remove from one video of ``n_frames`` frames.

    ``int(float32(cells * topk) * float32(n_frames - prune_from_frame))``: a float32 product,
    truncated, as published checkpoints were trained with (81 cells, topk 0.7, 30 frames: 1701).
    At least 0, and at most ``cells * (n_frames - 1)`` because the first frame stays whole.
    """
    share = np.float32(cells_per_frame * topk)
    budget = int(share * np.float32(n_frames - prune_from_frame))
    return min(max(budget, 0), cells_per_frame * max(n_frames - 1, 0))


def check_topk(topk: object) -> float:
    """``topk`` as a number. ``ValueError`` for anything but a number in [0, 1)."""
    if isinstance(topk, (bool, str, bytes)) or not isinstance(topk, SupportsFloat):
        raise ValueError(f"topk is a number, the share to remove: got {topk!r}")
    if not 0 <= float(topk) < 1:
        raise ValueError(f"topk is the share to remove, in [0, 1): got {topk}")
    return float(topk)
