"""Frames to patches: resize and cut. Pixels stay uint8; the model normalises them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

CHUNK = 8
"""Frames resized at once; bounds the memory of the float copies."""


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize as SigLIP does: bilinear, no antialias, no care for the aspect ratio.

    ``frames`` uint8 ``[n, h, w, 3]``; returns uint8 ``[n, size[0], size[1], 3]``, the input
    itself if it has that size already.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [n, h, w, 3], got {frames.dtype} {frames.shape}")
    if frames.shape[1:3] == tuple(size):
        return frames
    out = np.empty((len(frames), *size, 3), dtype=np.uint8)
    for start in range(0, len(frames), CHUNK):
        chunk = torch.from_numpy(np.ascontiguousarray(frames[start : start + CHUNK]))
        # One colour plane at a time: torch's kernel for three channels rounds differently, and
        # only with one thread, so that pixels would depend on the number of threads.
        planes = rearrange(chunk.float(), "n h w c -> (n c) 1 h w")
        planes = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
        pixels = planes.round_().clamp_(0, 255).to(torch.uint8)
        out[start : start + CHUNK] = rearrange(pixels.numpy(), "(n c) 1 h w -> n h w c", c=3)
    return out


def patchify(frames: np.ndarray, patch: int) -> np.ndarray:
    """Cut uint8 ``[n, h, w, 3]`` into ``[n, N, patch * patch * 3]``: patches in raster order,
    values of a patch by row, column, channel."""
    h, w = frames.shape[1:3]
    if h % patch or w % patch:
        raise ValueError(f"frame size {h}x{w} is no multiple of the patch size {patch}")
    return np.ascontiguousarray(
        rearrange(frames, "n (h p) (w q) c -> n (h w) (p q c)", p=patch, q=patch)
    )
