"""Images and frames to patches and tokens. Pixels stay uint8; the model normalises them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from olmo.limits import Limits
from olmo.preprocessing.image_files import ImageReadError, open_image, upright_rgb
from olmo.tokenizer import MolmoTokenizer

ImageSource = str | Path | bytes | Image.Image | np.ndarray
"""Path, contents of an image file, PIL image, or uint8 ``[h, w, 3]`` RGB."""

CHUNK = 1 << 24
"""Pixels of one colour resized at once; bounds the memory of the float copies."""
DEFAULT_LIMITS = Limits()


def load_image(source: ImageSource, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Pixels uint8 ``[h, w, 3]`` RGB, turned upright as the EXIF data say.

    The first picture of an animation; transparency is dropped; more than 8 bits of grey are
    scaled (:func:`~olmo.preprocessing.image_files.grey_levels`). Raises ``ImageReadError`` for a
    file that is missing, damaged, cut off, of another format than ``FORMATS`` or beyond
    ``limits``, and for arrays of another form.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
            found = f"{source.dtype} {source.shape}"
            raise ImageReadError("(array)", f"expected uint8 [h, w, 3], got {found}")
        return source
    if not isinstance(source, (str, Path, bytes, Image.Image)):
        raise ImageReadError("(object)", f"{type(source).__name__} is not a path or an image")
    with open_image(source, limits) as image:
        pixels = upright_rgb(image)
        if not pixels.size:
            raise ValueError(f"it has {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return pixels


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize as SigLIP does: bilinear, no antialias, no care for the aspect ratio.

    ``frames`` uint8 ``[n, h, w, 3]``; returns uint8 ``[n, size[0], size[1], 3]``, the input
    itself if it has that size already.
    """
    import torch  # imported late: it takes seconds, and only resizing needs it
    import torch.nn.functional as F

    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [n, h, w, 3], got {frames.dtype} {frames.shape}")
    if frames.shape[1:3] == tuple(size):
        return frames
    n, h, w, _ = frames.shape
    out = np.empty((n * 3, *size), dtype=np.uint8)
    # One colour plane at a time: torch's kernel for three channels rounds differently, and
    # only with one thread, so that pixels would depend on the number of threads.
    planes = frames.transpose(0, 3, 1, 2).reshape(n * 3, 1, h, w)
    step = max(1, CHUNK // (h * w + size[0] * size[1]))
    for start in range(0, n * 3, step):
        chunk = torch.from_numpy(planes[start : start + step]).float()
        chunk = F.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
        out[start : start + step] = chunk.round_().clamp_(0, 255).to(torch.uint8)[:, 0].numpy()
    return rearrange(out, "(n c) h w -> n h w c", c=3)


def patchify(frames: np.ndarray, patch: int) -> np.ndarray:
    """Cut uint8 ``[n, h, w, 3]`` into ``[n, N, patch * patch * 3]``: patches in raster order,
    values of a patch by row, column, channel."""
    h, w = frames.shape[1:3]
    if h % patch or w % patch:
        raise ValueError(f"frame size {h}x{w} is not divisible by the patch size {patch}")
    return np.ascontiguousarray(
        rearrange(frames, "n (h p) (w q) c -> n (h w) (p q c)", p=patch, q=patch)
    )


def cell_tokens(
    tokenizer: MolmoTokenizer, kind: str, grid: tuple[int, int], columns: bool = False
) -> list[int]:
    """Token ids of one picture with ``grid`` rows and columns of cells: ``<kind_start>``, row by
    row an ``<im_patch>`` for each cell (and ``<im_col>`` behind it with ``columns``), and the end.
    ``kind``: ``frame``, ``im`` or ``low_res_im``."""
    ids, end = tokenizer.ids, "frame" if kind == "frame" else "im"
    row = [ids["<im_patch>"]] * grid[1] + [ids["<im_col>"]] * columns
    return [ids[f"<{kind}_start>"], *(row * grid[0]), ids[f"<{end}_end>"]]
