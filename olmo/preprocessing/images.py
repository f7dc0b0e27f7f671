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
"""Float values at once, of a frame and its resized form; a larger one takes a colour at a time."""
SMALL = 128
"""Up to this sum of height and width torch adds the four pixels in another order."""
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
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [n, h, w, 3], got {frames.dtype} {frames.shape}")
    if frames.shape[1:3] == tuple(size):
        return frames
    (n, h, w, _), (rows, columns) = frames.shape, size
    step = 3 if 3 * (h * w + rows * columns) <= CHUNK else 1
    pixels = np.empty((h, w, step), np.float32)
    # The colours of a row side by side: torch works in the order of memory, and so reads a row
    # for all colours while it is in the cache.
    resized = np.empty((rows, step, columns), np.float32)
    out = np.empty((n, rows, columns, 3), np.uint8)
    for frame, result in zip(frames, out, strict=True):
        for colour in range(0, 3, step):
            pixels[:] = frame[..., colour : colour + step]
            _interpolate(pixels, resized)
            # No clamp: rounding errors alone carry a mean of uint8 values out of their range.
            np.rint(resized, out=resized)
            for i in range(step):  # three times as fast as all colours in one go
                result[..., colour + i] = resized[:, i]
    return out


def _interpolate(pixels: np.ndarray, resized: np.ndarray) -> None:
    """Fill ``resized`` ``[rows, c, columns]`` from ``pixels`` ``[h, w, c]``, both float32: the same
    bits as ``F.interpolate(mode="bilinear", align_corners=False)`` of every colour by itself."""
    import torch  # imported late: it takes seconds, and only resizing needs it

    ops, source, target = torch.ops.aten, torch.from_numpy(pixels), torch.from_numpy(resized)
    h, (rows, colours, columns) = source.shape[0], target.shape
    if h < rows and rows + columns > SMALL:
        # torch mixes columns, then rows. One after the other, a row is mixed once for all the
        # rows made from it, and whole rows are mixed with vector instructions.
        wide = torch.empty((h, colours, columns), dtype=torch.float32, device="cpu")
        ops.upsample_linear1d.out(source.transpose(1, 2), [columns], False, out=wide)
        wide, target = (x.flatten(1).T[None] for x in (wide, target))
        ops.upsample_linear1d.out(wide, [rows], False, out=target)
    else:
        # Colours as images of one channel: torch's kernel for three channels rounds differently,
        # and only with one thread, so that pixels would depend on the number of threads.
        source, target = source.permute(2, 0, 1)[:, None], target.transpose(0, 1)[:, None]
        ops.upsample_bilinear2d.out(source, [rows, columns], False, out=target)


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
