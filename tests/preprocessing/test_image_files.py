"""What picture files from outside may hold, and what comes of it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from olmo.limits import Limits
from olmo.preprocessing.image_files import FORMATS, TURNS, ImageReadError, grey_levels, open_image
from olmo.preprocessing.images import DEFAULT_LIMITS, load_image

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(white: float, kind: str) -> np.ndarray:
    values = RAMP * white
    return (values if kind.startswith("<f") else values.round()).astype(kind)


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A grey TIFF file made by hand: ``values`` as they lie in memory."""
    order, (h, w) = (">" if values.dtype.byteorder == ">" else "<"), values.shape
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = tags.get("bits", values.dtype.itemsize * 8)
    data = values.tobytes()
    entries = {
        256: tags.get("width", w),
        257: h,
        258: bits,
        259: 1,
        262: tags.get("photometric", 1),
        273: 8,
        277: 1,
    }
    entries |= {278: h, 279: len(data), 339: sample}
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8 + len(data))
    directory = b"".join(
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value)
        for tag, value in sorted(entries.items())
    )
    return head + data + struct.pack(order + "H", len(entries)) + directory + bytes(4)


def tiff12() -> bytes:
    """Two samples in three bytes."""
    values = ramp(4095, "<u2").ravel().tolist()
    packed = b"".join(
        ((a << 12) | b).to_bytes(3, "big") for a, b in zip(values[::2], values[1::2], strict=True)
    )
    return tiff(np.frombuffer(packed, np.uint8).reshape(16, 24), bits=12, width=16)


WIDE = {
    "png16": encoded(Image.fromarray(ramp(65535, "<u2")), "PNG"),
    "tiff16": tiff(ramp(65535, "<u2")),
    "tiff16_big_endian": tiff(ramp(65535, ">u2")),
    "tiff16_white_is_zero": tiff(65535 - ramp(65535, "<u2"), photometric=0),
    "tiff16_signed": tiff(ramp(65535, "<u2").astype("<i4").__sub__(32768).astype("<i2")),
    "tiff32_of_16": encoded(Image.fromarray(ramp(65535, "<i4")), "TIFF"),
    "tiff32_of_8": encoded(Image.fromarray(ramp(255, "<i4")), "TIFF"),
    "tiff32_unsigned": tiff(ramp(2**32 - 1, "<u4")),
    "tiff32_whole": encoded(Image.fromarray(ramp(2**31 - 1, "<i4")), "TIFF"),
    "tiff32_negative": encoded(Image.fromarray(ramp(2000, "<i4") - 1000), "TIFF"),
    "float_white_is_zero": tiff((1 - RAMP).astype(">f4"), photometric=0),
    "float_to_1": encoded(Image.fromarray(ramp(1, "<f4")), "TIFF"),
    "float_to_255": encoded(Image.fromarray(ramp(255, "<f4")), "TIFF"),
    "float_huge": encoded(Image.fromarray(ramp(3e38, "<f4")), "TIFF"),
    "float_negative": encoded(Image.fromarray(ramp(2, "<f4") - 1), "TIFF"),
    "tiff12": tiff12(),
    "pgm16": b"P5\n16 16\n65535\n" + ramp(65535, ">u2").tobytes(),
    "pgm12": b"P5\n16 16\n4095\n" + ramp(4095, ">u2").tobytes(),
    "pfm": b"Pf\n16 16\n-1.0\n" + ramp(1, "<f4")[::-1].tobytes(),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_ramp_of_any_depth_is_a_ramp(name: str) -> None:
    pixels = load_image(WIDE[name])
    assert pixels.shape == (16, 16, 3) and (pixels == pixels[..., :1]).all()
    difference = np.abs(pixels[..., 0].astype(int) - LEVELS)
    assert difference.max() <= (name in ("tiff32_negative", "pgm12"))  # rounded before it is scaled


def test_pil_images_of_any_depth_are_ramps() -> None:
    for kind in ("<u2", "<i4"):
        pixels = load_image(Image.fromarray(ramp(65535, kind)))
        np.testing.assert_array_equal(pixels[..., 0], LEVELS)
    np.testing.assert_array_equal(load_image(Image.fromarray(ramp(1, "<f4")))[..., 0], LEVELS)


def test_levels_by_hand() -> None:
    def levels(values: list[float], kind: str, bits: int | None = None) -> list[int]:
        return grey_levels(np.asarray([values], kind), bits)[0].tolist()

    assert levels([0, 16, 4095], "u2", 12) == [0, 1, 255]
    assert levels([0, 4096, 65535], "u2", 16) == [0, 16, 255], "a dark picture stays dark"
    assert levels([10, 20, 30], "i4") == [10, 20, 30], "8 bits in a wide file"
    assert levels([256, 384, 512], "i4") == [0, 128, 255]
    assert levels([0.25, 0.5, 0.5], "f4") == [64, 128, 128]
    assert levels([-1, 0, 1], "f4") == [0, 128, 255]
    assert levels([np.nan, np.inf, -np.inf, 0.2], "f4") == [0, 255, 0, 51]
    assert levels([np.nan, 5, 7, np.inf], "f4") == [0, 0, 255, 255]
    for same in ([np.nan] * 2, [np.inf, np.inf], [7.0, 7.0], [0.0, 0.0]):
        assert len(set(levels(same, "f4"))) == 1
    assert levels([2**31 - 1, -(2**31)], "i4") == [255, 0]


def test_levels_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    whole = grey_levels(values, None)
    monkeypatch.setattr("olmo.preprocessing.image_files.CHUNK", 1)
    np.testing.assert_array_equal(grey_levels(values, None), whole)


COLOURS = np.random.default_rng(2).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def test_transparency_is_dropped_in_all_modes() -> None:
    alpha = np.random.default_rng(3).integers(0, 256, (8, 6, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([COLOURS, alpha], -1))
    np.testing.assert_array_equal(load_image(encoded(rgba, "PNG")), COLOURS)
    grey = Image.merge("LA", [Image.fromarray(COLOURS[..., 0]), Image.fromarray(alpha[..., 0])])
    for source in (grey, encoded(grey, "PNG")):
        np.testing.assert_array_equal(load_image(source)[..., 1], COLOURS[..., 0])
    opaque = Image.fromarray(COLOURS).convert("RGBA")
    np.testing.assert_array_equal(load_image(opaque.convert("RGBa")), COLOURS)
    opaque_grey = Image.fromarray(COLOURS[..., 0]).convert("LA")
    np.testing.assert_array_equal(load_image(opaque_grey.convert("La"))[..., 2], COLOURS[..., 0])


@pytest.mark.parametrize("transparent", [3, bytes([0, 255, 7, 128])])
def test_palettes_keep_their_colours(transparent: int | bytes) -> None:
    palette = Image.fromarray(COLOURS).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    for kind in ("PNG", "GIF") if isinstance(transparent, int) else ("PNG",):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of transparency that it drops
            pixels = load_image(encoded(palette, kind, transparency=transparent))
        np.testing.assert_array_equal(pixels, expected)


def test_other_modes() -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 20))
    for mode in ("CMYK", "YCbCr"):
        pixels = load_image(encoded(red.convert(mode), "JPEG", quality=95))
        assert np.abs(pixels.astype(int) - (250, 10, 20)).max() <= 4, mode
    assert np.abs(load_image(Image.new("LAB", (4, 4), (137, 128, 128))).astype(int) - 128).max() < 3
    bits = COLOURS[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        pixels = load_image(encoded(Image.fromarray(bits), kind))
        np.testing.assert_array_equal(pixels[..., 0], bits * np.uint8(255))
    assert all(load_image(Image.new(mode, (3, 2))).shape == (2, 3, 3) for mode in Image.MODES)


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(COLOURS)
    upright = turned.transpose(TURNS[orientation]) if orientation in TURNS else turned
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(turned, kind, exif=exif, **options)
        np.testing.assert_array_equal(load_image(data), np.asarray(upright), err_msg=kind)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(load_image(image), np.asarray(upright), err_msg=kind)
    deep = load_image(encoded(Image.fromarray(ramp(65535, "<u2")[:8]), "PNG", exif=exif))
    grey = Image.fromarray(LEVELS[:8])
    expected = grey.transpose(TURNS[orientation]) if orientation in TURNS else grey
    np.testing.assert_array_equal(deep[..., 0], np.asarray(expected))
    with Image.open(io.BytesIO(encoded(turned, "PNG", exif=exif))) as image:
        np.testing.assert_array_equal(ImageOps.exif_transpose(image), np.asarray(upright))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_data_do_not_cost_the_picture() -> None:
    for exif in (
        b"Exif\0\0XX",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ):
        data = encoded(Image.fromarray(COLOURS), "PNG", exif=exif)
        np.testing.assert_array_equal(load_image(data), COLOURS)


def test_every_format_in_the_list_is_read() -> None:
    flat = Image.new("RGB", (32, 24), (200, 100, 50))
    for kind in (*FORMATS, "MPO"):
        extra = {"append_images": [flat, flat], "save_all": True} if kind == "MPO" else {}
        pixels = load_image(encoded(flat, kind, **extra))
        assert pixels.shape == (24, 32, 3)
        assert np.abs(pixels.astype(int) - (200, 100, 50)).max() < 6, kind


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "ICO", "PCX", "DDS", "SGI", "ICNS"])
def test_other_formats_are_refused(kind: str) -> None:
    data = encoded(Image.new("RGB", (32, 32)), kind)
    with pytest.raises(ImageReadError, match="damaged, or none of JPEG, PNG"):
        load_image(data)


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


SMALL_PNG = encoded(Image.new("RGB", (4, 4)), "PNG")
SMALL_GIF = encoded(Image.new("L", (4, 4)), "GIF")


def png_of_size(width: int, height: int) -> bytes:
    """A file whose header alone is right."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SMALL_PNG[:8] + chunk(b"IHDR", header) + SMALL_PNG[33:]


def passes(n: int) -> bytes:
    data = encoded(Image.new("L", (64, 64), 7), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * n + data[end:]


def test_what_is_no_pass_over_the_picture_does_not_count() -> None:
    """A film behind the picture, as phones write it, and a thumbnail in a segment before it."""
    data = encoded(Image.new("L", (64, 64), 7), "JPEG", progressive=True)
    segment = b"\xff\xe5" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200
    for odd in (data + b"\xff\xda" * 5000, data[:2] + segment + data[2:]):
        assert np.array_equal(load_image(odd), load_image(data))


BOMBS = {
    "pixels": (png_of_size(13_000, 13_000), Limits(), "13000 x 13000 pixels"),
    "pixels beyond Pillow's own limit": (png_of_size(60_000, 60_000), Limits(), "pixels"),
    "bytes": (SMALL_PNG, Limits(max_image_bytes=50), "max_image_bytes"),
    "passes": (passes(200), Limits(), "passes"),
    "profile": (
        SMALL_PNG[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20))) + SMALL_PNG[33:],
        Limits(),
        "MAX_TEXT_CHUNK",
    ),
    "texts": (
        SMALL_PNG[:33]
        + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 100
        + SMALL_PNG[33:],
        Limits(),
        "MAX_TEXT_MEMORY",
    ),
    "comments": (
        SMALL_GIF[: SMALL_GIF.index(b"\x2c\0\0\0\0")] + b"\x21\xfe\x01a\0" * 500_000,
        Limits(max_seconds=0.2),
        "max_seconds",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_the_work_per_file_is_bounded(name: str, tmp_path: Path) -> None:
    data, limits, message = BOMBS[name]
    (tmp_path / "a.png").write_bytes(data)
    started = time.process_time()
    with pytest.raises(ImageReadError, match=message):
        load_image(tmp_path / "a.png", limits)
    assert time.process_time() - started < 5


LOAD = """
import sys
from olmo.limits import Limits
from olmo.preprocessing.images import load_image
try:
    load_image(sys.argv[1], Limits(max_pixels=int(sys.argv[2])))
except ValueError as e:
    print(e)
"""


@pytest.mark.slow
def test_remarks_of_the_decoders_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of_size(13_000, 13_000))
    command = [sys.executable, "-W", "error", "-c", LOAD, str(tmp_path / "a.png"), str(10**8)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "more than limits.max_pixels=100000000" in out.stdout, out.stderr
    assert "Bomb" not in out.stdout + out.stderr


def test_a_limit_can_be_raised() -> None:
    assert load_image(SMALL_PNG, Limits(max_pixels=16)).shape == (4, 4, 3)
    with pytest.raises(ImageReadError, match="max_pixels=15"):
        load_image(Image.new("RGB", (4, 4)), Limits(max_pixels=15))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageReadError, match="not a regular file"):
            load_image(path)
    for path in ("a\0.png", "x" * 5000 + ".png", "\udc80.png"):
        with pytest.raises(ImageReadError):
            load_image(path)


@pytest.mark.parametrize(
    "error", [RuntimeError, NotImplementedError, AttributeError, RecursionError, MemoryError]
)
def test_whatever_a_decoder_raises_is_named(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error("odd")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", fail)
    with pytest.raises(ImageReadError, match=f"{error.__name__}: odd"):
        load_image(SMALL_PNG)
    with pytest.raises(ImageReadError), open_image(SMALL_PNG, DEFAULT_LIMITS):
        raise error("in the body, too")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    for share in (0.1, 0.5, 0.8):
        with pytest.raises(ImageReadError):
            load_image(whole[: int(len(whole) * share)])


SEEDS = {kind: encoded(Image.fromarray(COLOURS), kind) for kind in FORMATS}
SEEDS |= {
    name: encoded(Image.fromarray(COLOURS), kind)
    for name, kind in {"DDS": "DDS", "TGA": "TGA", "SGI": "SGI"}.items()
}
SEEDS["SPIDER"] = encoded(Image.fromarray(COLOURS).convert("F"), "SPIDER")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_damaged_files_of_any_format_give_one_kind_of_error(kind: str, data: Any) -> None:
    contents = bytearray(SEEDS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(contents) - 1))
        new = data.draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80", b""]))
        contents[at : at + max(1, len(new))] = new
        contents = contents or bytearray(b"x")
    try:
        pixels = load_image(bytes(contents), Limits(max_pixels=1 << 20))
    except ImageReadError:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
