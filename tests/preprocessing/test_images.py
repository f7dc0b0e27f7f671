import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from olmo.preprocessing.images import patchify, resize_frames

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
