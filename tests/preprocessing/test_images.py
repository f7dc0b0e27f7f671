import contextlib
import hashlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from olmo.limits import Limits
from olmo.preprocessing import images
from olmo.preprocessing.images import ImageReadError, load_image, patchify, resize_frames

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"


def test_resize_reference_pixels():
    reference = json.loads((FIXTURES / "siglip_resize.json").read_text())
    row, col = np.mgrid[:48, :64]
    frame = np.stack([row * 5, col * 3, (row + col) * 2], -1).astype(np.uint8)
    frames = resize_frames(np.stack([frame] * 9), (378, 378))  # more than one chunk
    assert frames.dtype == np.uint8 and frames.shape == (9, 378, 378, 3)
    for out in frames:
        for key, pixel in reference["samples"].items():
            y, x = map(int, key.split(","))
            assert out[y, x].tolist() == pixel
        assert int(out.sum()) == reference["sum"]
        assert hashlib.sha256(out.tobytes()).hexdigest() == reference["sha256"]


def plain(frames, size):
    """``resize_frames`` as torch says it, colour by colour."""
    planes = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).flatten(0, 1)[:, None]
    resized = F.interpolate(planes.float(), size, mode="bilinear", align_corners=False)
    levels = resized.round().clamp(0, 255).to(torch.uint8)
    return levels.unflatten(0, (-1, 3))[:, :, 0].permute(0, 2, 3, 1).numpy()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


SIDES = st.integers(1, 4) | st.integers(50, 80) | st.integers(1, 200)


@settings(max_examples=300)
@given(st.integers(1, 3), SIDES, SIDES, st.tuples(SIDES, SIDES), st.booleans())
def test_resize_has_the_bits_of_torch(n, h, w, size, extremes):
    frames = noise(n, h, w, 3)
    frames = (frames & 1) * np.uint8(255) if extremes else frames
    np.testing.assert_array_equal(resize_frames(frames, size), plain(frames, size))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(378, 378), (378, 910), (64, 64), (64, 65)])
@pytest.mark.parametrize("shape", [(240, 320), (360, 640), (720, 1280), (377, 379), (756, 189)])
def test_resize_has_the_bits_of_torch_at_sizes_in_use(shape, size, threads):
    before, frames = torch.get_num_threads(), noise(2, *shape, 3)
    try:
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(resize_frames(frames, size), plain(frames, size))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(511, 777), (200, 777), (300, 512), (255, 256)])
def test_all_pairs_of_levels(size):
    one, other = np.mgrid[:256, :256].astype(np.uint8)
    rows = np.stack([one, other], -1).reshape(256, 512)
    frames = np.stack([rows, rows[::-1], 255 - rows], -1)[None]
    for turned in (frames, np.ascontiguousarray(frames.transpose(0, 2, 1, 3))):
        np.testing.assert_array_equal(resize_frames(turned, size), plain(turned, size))


@pytest.mark.parametrize("size", [(28, 42), (40, 100), (90, 100)])
def test_resize_does_not_depend_on_chunks_and_memory(monkeypatch, size):
    frames = noise(3, 50, 37, 3)
    whole = plain(frames, size)
    wide = np.zeros((3, 100, 111, 5), np.uint8)
    wide[:, ::2, 1::3, 1:4] = frames
    fixed = frames.copy()
    fixed.setflags(write=False)
    layouts = [
        wide[:, ::2, 1::3, 1:4],
        np.ascontiguousarray(frames[:, ::-1, ::-1])[:, ::-1, ::-1],
        np.ascontiguousarray(frames.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1),
        fixed,
    ]
    for chunk in (images.CHUNK, 1):
        monkeypatch.setattr(images, "CHUNK", chunk)
        for same in (frames, *layouts):
            np.testing.assert_array_equal(resize_frames(same, size), whole)
            np.testing.assert_array_equal(resize_frames(same[1:2], size), whole[1:2])
    assert resize_frames(frames[:0], size).shape == (0, *size, 3)


def test_target_size_is_passed_through():
    frames = np.zeros((2, 28, 42, 3), np.uint8)
    assert resize_frames(frames, (28, 42)) is frames


def test_patches_by_hand():
    frames = np.arange(2 * 28 * 42 * 3).reshape(2, 28, 42, 3)
    patches = patchify(frames, 14)
    reference = json.loads((FIXTURES / "video_tokens.json").read_text())
    expected = reference["patchify_2x28x42x3_patch14"]
    assert list(patches.shape) == expected["shape"]
    assert patches[0, 0, :6].tolist() == expected["patch0_first6"]
    assert patches[0, 1, :6].tolist() == expected["patch1_first6"]
    assert patches[0, 3, :6].tolist() == expected["patch3_first6"]
    assert patches[0, 0, 42:48].tolist() == expected["patch0_at_42"]
    digest = hashlib.sha256(patches.astype("<i8").tobytes()).hexdigest()
    assert digest == expected["sha256_int64"]


def test_bad_frames():
    with pytest.raises(ValueError, match="float32"):
        resize_frames(np.zeros((1, 4, 4, 3), np.float32), (8, 8))
    with pytest.raises(ValueError, match=r"30x42.* 14"):
        patchify(np.zeros((1, 30, 42, 3), np.uint8), 14)


def picture(h=12, w=10):
    return np.random.default_rng(1).integers(0, 256, (h, w, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_sources_of_an_image(tmp_path):
    pixels = picture()
    file = tmp_path / "a.png"
    file.write_bytes(encoded(pixels))
    for source in (pixels, Image.fromarray(pixels), file, str(file), file.read_bytes()):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, pixels)


def test_modes_and_orientation():
    pixels = picture()
    grey = Image.fromarray(pixels[..., 0])
    np.testing.assert_array_equal(load_image(grey), np.repeat(pixels[..., :1], 3, axis=2))
    alpha = Image.fromarray(np.concatenate([pixels, pixels[..., :1]], -1))
    np.testing.assert_array_equal(load_image(alpha), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    np.testing.assert_array_equal(load_image(encoded(pixels, exif=exif)), np.rot90(pixels, -1))
    frames = [Image.fromarray(picture(8, 8)), Image.fromarray(255 - picture(8, 8))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(buffer.getvalue()), picture(8, 8))


def test_unreadable_images(tmp_path):
    whole = encoded(picture(40, 40))
    for name, data in [("cut.png", whole[:-300]), ("text.jpg", b"hello"), ("empty.gif", b"")]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageReadError, match=f"cannot read image .*{name}: ") as e:
            load_image(tmp_path / name)
        assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ImageReadError, match=r"bytes\): 40 x 40 pixels .*max_pixels=1599"):
        load_image(whole, Limits(max_pixels=1599))
    for bad in [picture().astype(np.float32), picture()[..., 0], picture()[:0], 7]:
        with pytest.raises(ImageReadError, match=r"expected uint8|is not a path"):
            load_image(bad)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_files_give_one_kind_of_error(kind, data):
    contents = bytearray(encoded(picture(24, 20), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageReadError):
        load_image(bytes(contents[: data.draw(st.integers(1, len(contents)))]))
