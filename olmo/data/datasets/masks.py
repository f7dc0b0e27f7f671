"""Masks of objects: run lengths of the COCO tools, and picture files.

``{"size": [height, width], "counts": ...}`` holds the lengths of alternating runs, outside first,
down the columns: as a list of numbers, or as the text in which the COCO tools write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from olmo.outside import OutsideError
from olmo.preprocessing.image_files import WIDE, open_image
from olmo.preprocessing.images import DEFAULT_LIMITS

FIVE_BITS, MORE, SIGN = 0x1F, 0x20, 0x10
MAX_BITS = 60
"""Of a number in a mask's counts."""


def run_lengths(text: str | bytes) -> list[int]:
    """Numbers of the text form: five bits per character, low ones first, and from the fourth
    number on the difference to the last but one."""
    data = text.encode("ascii") if isinstance(text, str) else bytes(text)
    counts: list[int] = []
    value = shift = 0
    for byte in data:
        code = byte - 48
        if not 0 <= code < 64:
            raise ValueError(f"a mask's counts hold the character {chr(byte)!r}")
        value |= (code & FIVE_BITS) << shift
        shift += 5
        if shift > MAX_BITS:
            raise ValueError("a mask's counts hold a number without end")
        if code & MORE:
            continue
        if code & SIGN:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("a mask's counts break off")
    return counts


def rle_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask, bool ``[height, width]``. ``ValueError`` if the runs do not fill its size, or it
    has more pixels than a frame may have."""
    height, width = (int(n) for n in rle["size"])
    DEFAULT_LIMITS.check_pixels(width, height, OutsideError)
    counts = rle["counts"]
    lengths = run_lengths(counts) if isinstance(counts, (str, bytes)) else list(counts)
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise ValueError(f"runs of {sum(lengths)} pixels for a mask of {height} x {width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def file_mask(path: str | Path, value: int | None = None) -> np.ndarray:
    """Pixels of a picture file that are ``value`` (of a palette picture: the number of the
    colour), or that are not black: bool ``[height, width]``. ``ImageReadError`` as for images."""
    with open_image(path, DEFAULT_LIMITS) as image:
        as_stored = value is not None or image.mode in ("L", *WIDE)
        pixels = np.asarray(image if as_stored else image.convert("L"))
        if pixels.ndim != 2:
            raise ValueError(f"expected one number per pixel, got {pixels.shape}")
    return pixels > 0 if value is None else pixels == value


def mask_point(mask: np.ndarray) -> tuple[float, float] | None:
    """A pixel (x, y) of the mask: the one nearest to its centre. None for an empty mask."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return None
    nearest = int(np.argmin((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2))
    return float(xs[nearest]), float(ys[nearest])
