"""The picture of pruning, and what it is drawn from."""

import numpy as np
import pytest
import torch
from PIL import Image

from olmo.models.loading import merged_model_config
from olmo.preprocessing.video import video_token_pooling
from olmo.token_budget import n_removed_tokens
from olmo.types import MultimodalType, VideoFrames
from olmo.viewer.cells import CellEdges, HeatScale
from olmo.viewer.draw import EDGE, PAPER, colour_bar, font, legend, light_cells, wrap
from olmo.viewer.kept import KeptVideo, kept_cells
from olmo.viewer.picture import GAP, MARGIN, pruning_picture

N_FRAMES, GRID, N_CELLS = 5, (2, 3), 6
MODEL = {
    "model_name": "temporal_video_olmo",
    "llm": {
        **{"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "n_layers": 1},
        **{"mlp_hidden_size": 64, "vocab_size": 512, "additional_vocab_size": 16},
        "tokenizer": {"identifier": "olmo/tiny"},
    },
    "vision_backbone": {
        "vit": {
            **{"image_default_input_size": [24, 36], "image_patch_size": 4, "image_emb_dim": 32},
            **{"image_num_heads": 2, "image_num_key_value_heads": 2, "image_head_dim": 16},
            **{"image_mlp_dim": 32, "image_num_layers": 4, "image_num_pos": 54},
            **{"topk": 0.5, "prune_at": 1},
        },
        "vit_layers": [-1, -2],
    },
}


def build(**vit):
    config = merged_model_config(MODEL, {"vision_backbone": {"vit": vit}})
    model = config.build("cpu")
    model.reset_parameters()
    return model.eval(), config


def batch_of(config, n_rows=1, padding=2):
    """A video of ``N_FRAMES`` frames in the first of ``n_rows``; two more slots are padding."""
    pooling = torch.from_numpy(video_token_pooling(config.mm_preprocessor.video, N_FRAMES, 6, 9))
    pooling = torch.cat((pooling, torch.full((padding, 9), -1)))
    patches = torch.randint(256, (n_rows, N_FRAMES + padding, 54, 48), dtype=torch.uint8)
    return {
        "images": patches,
        "token_pooling": pooling.expand(n_rows, -1, -1),
        "num_images": torch.tensor([[N_FRAMES, -1]] * n_rows),
        "multimodal_type": torch.tensor([[MultimodalType.VIDEO, -1]] * n_rows),
    }


def even(rows, columns):
    """Cells of one size."""
    return CellEdges.of_patches((rows, columns), (1, 1))


def kept_of(frames, keep, grid=GRID, times=None, **found):
    times = np.arange(len(frames)) / 2 if times is None else times
    return KeptVideo(VideoFrames(frames, times, 3.0), even(*grid), keep, **found)


def frames_of(colour, n=N_FRAMES, height=20, width=30):
    return np.tile(np.array(colour, dtype=np.uint8), (n, height, width, 1))


@pytest.mark.parametrize("method", ["scorer", "random"])
def test_kept_cells_of_a_video(method):
    model, config = build(prune_method=method)
    keep, scores = kept_cells(model, batch_of(config))
    assert CellEdges.of_video(config).shape == GRID
    assert keep.shape == scores.shape == (N_FRAMES, N_CELLS) and keep.dtype == bool
    assert keep.sum() == keep.size - n_removed_tokens(N_FRAMES, N_CELLS, 0.5)
    assert keep[0].all()
    later, rated = keep[1:], scores[1:]
    assert rated[later].min() >= rated[~later].max()


def test_a_dense_model_keeps_all():
    model, config = build(prune=False)
    keep, scores = kept_cells(model, batch_of(config))
    assert keep.shape == (N_FRAMES, N_CELLS) and keep.all() and scores is None


def test_kept_cells_leaves_the_mode_alone():
    model, config = build()
    model.train()
    batch = batch_of(config)
    first, _ = kept_cells(model, batch)
    assert all(m.training for m in model.modules())
    assert np.array_equal(first, kept_cells(model.eval(), batch)[0])
    assert not any(m.training for m in model.modules())


def test_kept_cells_wants_one_video():
    model, config = build()
    with pytest.raises(ValueError, match="got 2 rows"):
        kept_cells(model, batch_of(config, n_rows=2))
    image = batch_of(config) | {"multimodal_type": torch.tensor([[MultimodalType.IMAGE, -1]])}
    with pytest.raises(ValueError, match="one row with one video"):
        kept_cells(model, image)


def test_kept_cells_are_lit_and_dropped_ones_dark_and_grey():
    keep = np.array([[True, False, True], [False, True, False]])
    frame = Image.fromarray(frames_of((200, 60, 40), 1)[0]).resize((90, 60))
    pixels = np.asarray(light_cells(frame, keep, even(*keep.shape))).astype(int)
    for row, column in np.ndindex(*keep.shape):
        inside = pixels[30 * row + 5 : 30 * row + 25, 30 * column + 5 : 30 * column + 25]
        if keep[row, column]:
            assert (inside == [200, 60, 40]).all()
        else:
            assert inside.mean() < 0.4 * np.mean([200, 60, 40])
            assert np.ptp(inside, axis=-1).max() < 0.1 * 160  # hardly any colour left


def test_a_closed_line_stands_inside_the_kept_regions():
    keep = np.zeros((3, 4), dtype=bool)
    keep[1, 1] = keep[0, 3] = keep[1, 3] = True  # a cell by itself, a pair at the image's border
    frame = Image.fromarray(frames_of((120, 120, 120), 1)[0]).resize((120, 90))
    line = (np.asarray(light_cells(frame, keep, even(*keep.shape))) == EDGE).all(-1)
    expected = np.zeros_like(line)
    for top, left, bottom, right in ((30, 30, 60, 60), (0, 90, 60, 120)):
        expected[top:bottom, left:right] = True
        expected[top + 2 : bottom - 2, left + 2 : right - 2] = False
    np.testing.assert_array_equal(line, expected)


def test_removed_cells_of_a_black_frame_differ_from_kept_ones():
    frame = Image.new("RGB", (80, 40))
    pixels = np.asarray(light_cells(frame, np.array([[True, False]]), even(1, 2)))
    assert pixels[5:35, 5:35].max() == 0 and pixels[5:35, 45:75].max() > 20


def test_the_legend_has_swatches_and_marks_the_cut():
    keep = np.array([[True, True], [True, False], [False, True]])
    scale = HeatScale.of(np.array([[0, 0], [0.9, 0.2], [0.3, 1.0]]))
    assert scale.cut(keep) == pytest.approx(0.125) and not scale.flat
    wide, narrow = legend(keep, scale, 900), legend(keep, scale, 300)
    assert narrow.height > 2 * wide.height and narrow.width == 300
    assert (
        (np.asarray(wide) == EDGE).all(-1).sum() == (np.asarray(narrow) == EDGE).all(-1).sum() > 0
    )
    for cut in (0.0, 0.125, 1.0):
        marked = (np.asarray(colour_bar(cut, 20)) == PAPER).all(-1).all(0).nonzero()[0]
        assert len(marked) == 3 and abs(marked.mean() / 159 - cut) < 0.03
    assert not (np.asarray(colour_bar(None, 20)) == PAPER).all(-1).any()
    assert scale.cut(np.ones((3, 2), bool)) is None
    equal = HeatScale.of(np.ones((3, 2)), by_rank=True)
    assert equal.flat and legend(keep, equal, 900).tobytes() == legend(keep, None, 900).tobytes()


def test_size_and_content_of_the_picture():
    keep = np.ones((N_FRAMES, N_CELLS), dtype=bool)
    keep[1] = False
    frames = frames_of((150, 150, 150))
    picture = pruning_picture(kept_of(frames, keep), columns=4, width=150)
    assert picture.mode == "RGB"
    assert picture.width == 4 * 150 + 3 * GAP + 2 * MARGIN
    assert picture.height > 2 * 100 + 2 * MARGIN  # two rows of frames of 150 x 100

    pixels = np.asarray(picture).astype(int)
    row = pixels[MARGIN + 70, :, 0]  # through the middle of the cells of the first row of frames
    lit, dark = (row[MARGIN + i * (150 + GAP) + 15 :][:20] for i in (0, 1))
    assert (lit == 150).all() and np.median(dark) < 60


def test_heat_map_title_and_caption_take_room():
    keep = np.ones((N_FRAMES, N_CELLS), dtype=bool)
    scores = np.linspace(0, 1, keep.size).reshape(keep.shape)
    frames = frames_of((90, 90, 90))
    plain = kept_of(frames, keep)
    base = pruning_picture(plain, width=150)
    heat = pruning_picture(kept_of(frames, keep, scores=scores), width=150)
    assert heat.width == base.width and heat.height >= base.height + 2 * 100
    titled = pruning_picture(plain, "a title", width=150)
    words = pruning_picture(plain, "a title", [("question", "why " * 100), ("answer", "so")])
    assert base.height < titled.height < words.height


def test_constant_scores_and_a_single_frame():
    keep = np.ones((1, 1), dtype=bool)
    one = kept_of(frames_of((9, 9, 9), 1), keep, (1, 1), scores=np.full((1, 1), 0.5))
    picture = pruning_picture(one)
    assert picture.width > 200


def test_what_does_not_fit_together():
    frames, keep = frames_of((0, 0, 0)), np.ones((N_FRAMES, N_CELLS), dtype=bool)
    with pytest.raises(ValueError, match=r"keep is \(5, 6\), expected 5 frames of 4 cells"):
        kept_of(frames, keep, (2, 2))
    with pytest.raises(ValueError, match=r"scores is \(5, 5\)"):
        kept_of(frames, keep, scores=np.ones((5, 5)))
    with pytest.raises(ValueError, match="4 time stamps for 5 frames"):
        kept_of(frames, keep, times=np.arange(4))


def test_wrap():
    lines = wrap("one two three four five", 80, 16)
    assert " ".join(lines) == "one two three four five" and len(lines) > 1
    assert all(font(16).getlength(line) <= 80 for line in lines)
    assert wrap("incomprehensibilities a", 20, 16) == ["incomprehensibilities", "a"]
    assert wrap("", 80, 16) == [""]
