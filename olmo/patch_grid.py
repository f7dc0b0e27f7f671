"""Geometry of patches and pooling windows, shared by preprocessing and model.

A frame is a grid of ``hp x wp`` patches in raster order. Pooling joins windows of
``pool_h x pool_w`` patches into cells, also in raster order. A grid that the window
does not divide is padded, ``floor(pad / 2)`` before and the rest after, with empty slots (-1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_POOL = 128
POOL = f"[1, {MAX_POOL}]"
"""Sides of a pooling window, far above any model's: a wrong one must not fill the memory."""


def pooled_grid(hp: int, wp: int, pool_h: int, pool_w: int) -> tuple[int, int]:
    """Cells per column and per row: ``ceil(grid / window)`` in each direction."""
    return -(-hp // pool_h), -(-wp // pool_w)


def n_cells(hp: int, wp: int, pool_h: int, pool_w: int) -> int:
    """Cells of a frame."""
    return math.prod(pooled_grid(hp, wp, pool_h, pool_w))


def pooling_windows(hp: int, wp: int, pool_h: int, pool_w: int) -> np.ndarray:
    """Patch indices of every cell.

    Returns int64 ``[cells, pool_h * pool_w]``: the raster patch index of every slot of the
    window, row by row, or -1 for a slot outside the grid.
    """
    return group_windows(np.arange(hp * wp, dtype=np.int64).reshape(hp, wp), pool_h, pool_w)


def group_windows(grid: np.ndarray, pool_h: int, pool_w: int) -> np.ndarray:
    """Cells of any ``[hp, wp]`` grid of patch ids: int64 ``[cells, pool_h * pool_w]``, -1 for a
    slot outside the grid."""
    hp, wp = grid.shape
    ch, cw = pooled_grid(hp, wp, pool_h, pool_w)
    pad_h, pad_w = ch * pool_h - hp, cw * pool_w - wp
    grid = np.pad(
        grid.astype(np.int64),
        ((pad_h // 2, pad_h - pad_h // 2), (pad_w // 2, pad_w - pad_w // 2)),
        constant_values=-1,
    )
    windows = grid.reshape(ch, pool_h, cw, pool_w).transpose(0, 2, 1, 3)
    return windows.reshape(ch * cw, pool_h * pool_w)


def join_pooling(parts: Sequence[np.ndarray], n_patches: Sequence[int]) -> np.ndarray:
    """Pooling windows of several inputs behind each other, int64 ``[cells, window]``.

    Every part counts its own patches from 0; there are ``n_patches`` of them, and those of later
    parts are moved behind. A narrower window gets empty slots (-1).
    """
    width = max(part.shape[1] for part in parts)
    out = np.full((sum(map(len, parts)), width), -1, dtype=np.int64)
    row = first_patch = 0
    for part, n in zip(parts, n_patches, strict=True):
        place = out[row : row + len(part), : part.shape[1]]
        np.add(part, first_patch, out=place, where=part >= 0)
        row, first_patch = row + len(part), first_patch + n
    return out
