"""How many pooled tokens of a video are removed: the one rule that everything calls.

The preprocessor writes it into an example, the packer counts with it and the vision backbone
removes exactly as many. It depends on the number of frames alone, never on the scores.
"""

from __future__ import annotations

import numpy as np


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
