import hashlib
import json
import math
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.config import ConfigError
from olmo.preprocessing.images import resize_frames
from olmo.preprocessing.multicrop import (
    ImagePreprocessorConfig,
    image_crops,
    image_layout,
    image_token_ids,
    select_tiling,
    tile_patches,
)
from olmo.tokenizer import TokenizerConfig

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "image_multicrop.json").read_text())
GRID, PATCH = (27, 27), 14
CONFIGS = {
    "sft: max_crops=8, 2x2, single_crop_start, no single_crop_col": {},
    "max_crops=24": {"max_crops": 24},
    "max_crops=8, single-crop col tokens and <im_start> for both": {
        "use_single_crop_col_tokens": None,
        "use_single_crop_start_token": False,
    },
    "crop_mode=resize": {"crop_mode": "resize"},
}


@pytest.fixture(scope="module")
def tokenizer():
    return TokenizerConfig(str(FIXTURES / "byte_tokenizer")).build(151936)


def layout(config, h, w, multi=False):
    return image_layout(config, (h, w), GRID, PATCH, config.max_crops, multi)


def n_crops(layout):
    return 1 + math.prod(layout.tiles)


def run_lengths(ids):
    return [[i, len(list(run))] for i, run in groupby(ids)]


def test_reference_tilings():
    tilings = ImagePreprocessorConfig().tilings
    for h, w, max_crops, rows, cols in REFERENCE["tilings"]:
        assert select_tiling((h - 112, w - 112), (266, 266), tilings(max_crops)) == (rows, cols), (
            h,
            w,
        )


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"{c['height']}x{c['width']}")
def test_reference_tokens(tokenizer, case):
    config = ImagePreprocessorConfig(**CONFIGS[case["config"]])
    out = layout(config, case["height"], case["width"])
    ids = image_token_ids(config, tokenizer, out)
    assert len(ids) == case["n_tokens"]
    assert ids.count(tokenizer.ids["<im_patch>"]) == case["n_patch_tokens"] == len(out.pooling)
    assert ids.count(tokenizer.ids["<im_col>"]) == case["n_col_tokens"]
    runs = run_lengths(ids)
    if "tokens_run_length" in case:
        assert runs == case["tokens_run_length"]
    else:
        assert runs[:6] == case["tokens_run_length_first6"]
        assert runs[-3:] == case["tokens_run_length_last3"]
    assert [n_crops(out), 729, 588] == case["images_shape"]
    assert list(out.pooling.shape) == case["token_pooling_shape"] and out.pooling.dtype == np.int64
    digest = hashlib.sha256(np.ascontiguousarray(out.pooling.astype("<i8")).tobytes()).hexdigest()
    assert digest == case["token_pooling_sha256_int64"]
    if "token_pooling_rows_first_highres_20" in case:
        rows = case["token_pooling_rows_first_highres_20"]
        assert out.pooling[196 : 196 + len(rows)].tolist() == rows
        low = case["token_pooling_low_res_first2"]
        assert out.pooling[: len(low)].tolist() == low


def test_reference_bounds(tokenizer):
    config = ImagePreprocessorConfig(max_images=None, high_res_max_crops=8)
    tall = layout(config, 10000, 100)
    n_tokens = len(image_token_ids(config, tokenizer, tall))
    shapes = REFERENCE["image_output_shapes_8crops"]
    assert [config.most_crops(), n_tokens] == [shapes["images"][0][0], shapes["tokens"][0][0]]
    shapes = REFERENCE["multi_image"]["multi_image_output_shapes_5x8crops_byte_tokenizer"]
    n_tokens += len("Image 1")
    config = ImagePreprocessorConfig(max_images=5)
    assert [config.most_crops(), 5 * n_tokens] == [shapes["images"][0][0], shapes["tokens"][0][0]]
    assert 5 * len(tall.pooling) == shapes["token_pooling"][0][0]


@pytest.mark.parametrize("settings", [{}, {"crop_mode": "resize"}])
def test_most_crops(settings):
    """What the largest tilings have, of one image or of a list."""
    sizes = [(90, 1900), (1900, 90), (700, 900), (30, 30), (2000, 2000), (9, 9999)]
    for most in (5, 8):
        config = ImagePreprocessorConfig(max_images=3, max_multi_image_crops=most, **settings)
        single = [image_layout(config, size, GRID, PATCH, 24) for size in sizes]
        multi = [image_layout(config, size, GRID, PATCH, most, True) for size in sizes]
        found = max(*map(n_crops, single), *(3 * n_crops(out) for out in multi))
        assert found == config.most_crops()


@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    grid=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    margins=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_every_place_of_the_canvas_has_its_own_pixels(rows, cols, grid, margins):
    """The patch that a place names shows that place, and lies in no margin with a neighbour."""
    ids = tile_patches((rows, cols), grid, margins)
    window = [g - sum(margins) for g in grid]
    assert ids.shape == (rows * window[0] + sum(margins), cols * window[1] + sum(margins))
    tile, inside = np.divmod(ids, grid[0] * grid[1])
    tile_row, tile_col = np.divmod(tile, cols)
    row, col = np.divmod(inside, grid[1])
    here = np.indices(ids.shape)
    for n, axis in enumerate([(tile_row, row, rows), (tile_col, col, cols)]):
        t, place, count = axis
        np.testing.assert_array_equal(t * window[n] + place, here[n])
        assert (place[t > 0] >= margins[0]).all()
        assert (place[t < count - 1] < grid[n] - margins[1]).all()


def test_pooling_reads_the_whole_image_and_the_canvas():
    """Pixels reached through the pooling ids are those of the resized images."""
    config = ImagePreprocessorConfig(overlap_margins=(2, 1))
    crop, patch = (7, 9), 4
    size = (crop[0] * patch, crop[1] * patch)
    image = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    out = image_layout(config, (61, 90), crop, patch, 8)
    assert min(out.tiles) > 1
    crops = image_crops(image, out, size, patch)
    assert crops.shape == (n_crops(out), *size, 3) and crops.dtype == np.uint8
    corners = crops[:, ::patch, ::patch].reshape(-1, 3)  # first pixel of every patch
    canvas = tuple(n * s * patch + 3 * patch for n, s in zip(out.tiles, out.step, strict=True))
    low, high = np.split(out.pooling, [out.low[0] * out.low[1]])
    for rows, grid, shown in [(low, out.low, size), (high, out.high, canvas)]:
        want = resize_frames(image[None], shown)[0, ::patch, ::patch]
        for k, slots in enumerate(rows):
            r, c = divmod(k, grid[1])
            window = want[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(-1, 3)
            np.testing.assert_array_equal(corners[slots[slots >= 0]], window)


def test_windows_of_images_in_a_list():
    config = ImagePreprocessorConfig(multi_image_pooling_h=4, multi_image_pooling_w=4)
    assert layout(config, 300, 300).pooling.shape[1] == 4
    many = layout(config, 300, 300, True)
    assert many.pooling.shape == (49 + 49, 16) and many.low == (7, 7)


def test_tilings_are_all_there_once():
    tilings = ImagePreprocessorConfig().tilings(8)
    assert len(set(tilings)) == len(tilings) == sum(8 // r for r in range(1, 9))
    assert tilings[:5] == [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1)]


def test_bad_settings():
    with pytest.raises(ValueError, match=r"overlap_margins \(4, 4\) .* 8 x 20 patches"):
        image_layout(ImagePreprocessorConfig(), (50, 50), (8, 20), 14, 8)
    resize = ImagePreprocessorConfig(crop_mode="resize")
    assert n_crops(image_layout(resize, (50, 50), (8, 20), 14, 8)) == 1
    for key, value in [
        ("max_crops", 0),
        ("pooling_w", 0),
        ("max_images", 0),
        ("multi_image_pooling_h", 0),
        ("multi_image_pooling_w", 1 << 40),
        ("p_high_res", 1.5),
        ("overlap_margins", [-1, 4]),
        ("crop_mode", "overlap-and-resize"),
        ("overlap_margins", [4, 4, 4]),
    ]:
        with pytest.raises(ConfigError, match=key):
            ImagePreprocessorConfig.from_dict({key: value})
