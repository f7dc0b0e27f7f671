"""Image files: a few decoders in one boundary, bounded by their headers, made upright RGB."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from olmo.limits import Limits
from olmo.outside import OutsideError, foreign

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may open (MPO comes as JPEG). Nothing here starts a program or reads another file."""
MAX_SCANS = 100
"""Passes over a picture that one JPEG file may ask for; encoders make about ten."""
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Where a segment begins, or the file ends; the others stand alone."""
JPEG_END, JPEG_SCAN = 0xD9, 0xDA

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright."""

WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes with more than 8 bits of grey."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1
"""Tags of TIFF, and values of the last two."""
CHUNK = 1 << 22
"""Pixels scaled at once; bounds the memory of the float copies."""

# A file can give thousands of remarks on its metadata, and on its size ``limits`` is the rule.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageReadError(OutsideError, OSError):
    """An image that cannot be used. ``name`` and ``reason`` are kept as attributes. One in no file
    of its own has the name of its kind, in brackets."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read image {name}: {reason}")
        self.name, self.reason = name, reason

    @property
    def is_file(self) -> bool:
        """Whether ``name`` tells the image from all others."""
        return not self.name.startswith("(")

    def __reduce__(self) -> tuple[type[ImageReadError], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # so that it crosses worker processes


@contextlib.contextmanager
def open_image(source: str | Path | bytes | Image.Image, limits: Limits) -> Iterator[Image.Image]:
    """The picture in a file (path or contents), not decoded yet; a PIL image is passed through.

    What is raised while the picture is in use, by whatever decoder, is an ``ImageReadError``.
    """
    name = str(source) if isinstance(source, (str, Path)) else f"({type(source).__name__})"
    name = name.encode(errors="backslashreplace").decode()  # of a file name that is not UTF-8
    named = functools.partial(ImageReadError, name)
    with foreign(named), contextlib.ExitStack() as stack:
        if isinstance(source, Image.Image):
            image = source
        else:
            data = source if isinstance(source, bytes) else _contents(source, limits, named)
            file = _TimedFile(data, limits.clock(named))
            try:
                image = stack.enter_context(Image.open(file, formats=readable_formats()))
            except UnidentifiedImageError as e:  # its message names an object in memory
                raise named(f"it is damaged, or none of {', '.join(FORMATS)}") from e
            if image.format in ("JPEG", "MPO") and _n_scans(data) > MAX_SCANS:
                raise named(f"more than {MAX_SCANS} passes over the picture")
        limits.check_pixels(*image.size, named)
        yield image


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Pixels uint8 ``[h, w, 3]``, turned as the EXIF data say. Transparency is dropped, and more
    than 8 bits of grey are scaled, see :func:`grey_levels`."""
    image.load()
    orientation = _orientation(image)
    if image.mode in WIDE:
        image = Image.fromarray(_eight_bits(image))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def grey_levels(values: np.ndarray, bits: int | None, inverted: bool = False) -> np.ndarray:
    """Grey values ``[h, w]`` of any type to uint8: black is 0 and white ``2 ** bits - 1``.

    Where the file does not state ``bits``, its values decide: floats from 0 to 1 have 1 as white,
    integers from 0 to 255 stay as they are, all others reach from their least value, black, to
    their greatest. NaN is black; infinities are black and white and do not count for the range.
    """
    if bits is not None:
        low, high = 0.0, 2.0**bits - 1
    else:
        low, high = _value_range(values)
        white = 1.0 if values.dtype.kind == "f" else 255.0
        if low >= 0 and high <= white:
            low, high = 0.0, white
    out = np.empty(values.shape, np.uint8)
    step = max(1, CHUNK // max(values.shape[1], 1))
    for start in range(0, len(values), step):
        scaled = (values[start : start + step].astype(np.float64) - low) / ((high - low) or 1.0)
        scaled = np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        out[start : start + step] = (scaled.clip(0, 1) * 255).round()
    return 255 - out if inverted else out


def _value_range(values: np.ndarray) -> tuple[float, float]:
    """Least and greatest finite value; zeros where there is none."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Levels of a picture in one of the modes ``WIDE``."""
    values, bits = np.asarray(image), None
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
    elif image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000"):
        bits = 16
    elif image.mode == "I" and tags and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED:
        values = values.view(np.uint32)
    # Pillow turns only 8 bits of grey round where a TIFF file says that 0 is white.
    return grey_levels(values, bits, inverted=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where it is absent or the data are damaged: the picture can be
    shown without them."""
    try:
        with foreign(OutsideError):
            return int(image.getexif().get(ORIENTATION, 1))
    except OutsideError as e:
        log.debug("EXIF data left out: %s", e)
        return 1


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow can read."""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


def _n_scans(data: bytes) -> int:
    """Passes over the picture in a JPEG file, up to ``MAX_SCANS`` + 1. What stands in its segments
    (a thumbnail) or behind its end (the film of a phone's picture) does not count."""
    n, at = 0, 2
    while n <= MAX_SCANS and (found := JPEG_MARKER.search(data, at)):
        at, kind = found.end(), found[0][-1]
        if kind == JPEG_END:
            break
        n += kind == JPEG_SCAN
        at += int.from_bytes(data[at : at + 2], "big")
    return n


def _contents(path: str | Path, limits: Limits, named: Callable[[str], OutsideError]) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):
        raise named("it is not a regular file")  # opening a pipe would block
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.max_image_bytes:
            raise named(f"{size} bytes are more than limits.max_image_bytes")
        return file.read()


class _TimedFile(io.BytesIO):
    """A file in memory that ``check`` guards: whatever loop a decoder is in, it reads on."""

    def __init__(self, data: bytes, check: Callable[[int], None]) -> None:
        super().__init__(data)
        self._check = check

    def read(self, size: int | None = -1) -> bytes:
        self._check(0)
        return super().read(size)
