"""What pictures and pages of pruning show: the same selection as in the model."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import olmo
from olmo.models.loading import merged_model_config
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.token_layout import FrameTable, VideoSpan
from olmo.nn.token_pruning import PRUNE_METHODS, PruneMethod, select_cells
from olmo.patch_grid import pooling_windows
from olmo.preprocessing.images import patchify, resize_frames
from olmo.preprocessing.video import video_token_pooling
from olmo.token_budget import n_removed_tokens
from olmo.types import MultimodalType, VideoFrames
from olmo.viewer.cells import CellEdges, HeatScale
from olmo.viewer.draw import ACCENT, EDGE, PALE, count_plot
from olmo.viewer.kept import kept_cells
from olmo.viewer.page import page_data, pruning_page
from olmo.viewer.scores import score_pixels, score_with_model

RULE = Path(olmo.__file__).parent / "assets" / "pruning" / "rule.js"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
TOPKS = [0.0, 0.05, 0.3, 0.333, 0.5, 0.7, 0.8, 0.99]
METHODS = ["easy", "evs", "heuristic", "random", "scorer"]
CELLS = 12
MODEL = {
    "model_name": "temporal_video_olmo",
    "llm": {
        **{"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "n_layers": 1},
        **{"mlp_hidden_size": 64, "vocab_size": 512, "additional_vocab_size": 16},
        "tokenizer": {"identifier": "olmo/tiny"},
    },
    "vision_backbone": {
        "vit": {
            # 7 x 10 patches: the windows of 3 x 3 reach over the border
            **{"image_default_input_size": [28, 40], "image_patch_size": 4, "image_num_pos": 70},
            **{"image_emb_dim": 32, "image_num_heads": 2, "image_num_key_value_heads": 2},
            **{"image_head_dim": 16, "image_mlp_dim": 32, "image_num_layers": 4},
            **{"prune_at": 1, "initializer_range": 0.3},
        },
        "vit_layers": [-1, -2],
    },
}


def cut_video(n=9, height=56, width=80):
    """Three shots of a moving square over noise; three frames each, unless ``n`` says otherwise."""
    rng = np.random.default_rng(0)
    shots = rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    frames = shots[np.arange(n) * 3 // n].copy()
    for i, frame in enumerate(frames):
        frame[10:30, 7 * i : 7 * i + 20] = 255 - 20 * i
    return VideoFrames(frames, np.arange(n) / 2, n / 2)


def build(**vit):
    config = merged_model_config(MODEL, {"vision_backbone": {"vit": vit}})
    torch.manual_seed(1)
    model = config.build("cpu")
    model.reset_parameters()
    return model.eval()


def model_keep(model, video, topk, prune_from_frame=0):
    """Kept cells by a whole run of the vision backbone."""
    vit, n = model.config.vision_backbone.vit, len(video.frames)
    vit.topk, vit.prune_from_frame = topk, prune_from_frame
    patches = patchify(resize_frames(video.frames, (28, 40)), 4)
    pooling = video_token_pooling(model.config.mm_preprocessor.video, n, 7, 10)
    batch = {
        "images": torch.from_numpy(patches)[None],
        "token_pooling": torch.from_numpy(pooling)[None],
        "num_images": torch.tensor([[n]]),
        "multimodal_type": torch.tensor([[int(MultimodalType.VIDEO)]]),
    }
    return kept_cells(model, batch)[0]


def run_node(script, data):
    """Last expression of ``script``, which sees ``input``."""
    read = "const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
    write = ";\nprocess.stdout.write(JSON.stringify(output));"
    done = subprocess.run(
        [NODE, "-e", read + script + write],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def element(page, name):
    """Text of the element with the id ``name``."""
    found = re.findall(rf'<script[^>]* id="{name}">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return found[0]


# --- selection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_kept_cells_are_those_of_the_model(method):
    model, video = build(prune_method=method), cut_video()
    scored = score_with_model(model, video, "a model")
    assert method in scored.source and scored.edges.n_cells == CELLS
    for topk in TOPKS:
        keep = scored.kept(topk).keep
        np.testing.assert_array_equal(keep, model_keep(model, video, topk))
        assert (~keep).sum() == scored.budget(topk).removed(9) == n_removed_tokens(9, CELLS, topk)


def test_frames_outside_the_budget_and_settings_left_alone():
    model, video = build(topk=0.3, prune_from_frame=2), cut_video()
    before = model.config.to_dict()
    scored = score_with_model(model, video, "a model")
    assert model.config.to_dict() == before
    assert model.vision_backbone.image_vit.config is model.vision_backbone.config.vit
    assert PRUNE_METHODS["scorer"].score.__name__ == "learned_scores"
    np.testing.assert_array_equal(scored.kept().keep, model_keep(model, video, 0.3, 2))
    assert scored.budget().removed(9) == n_removed_tokens(9, CELLS, 0.3, 2)


def test_new_frames_are_protected_while_others_hold_the_budget():
    vit = pixel_settings(prune_method="easy")
    scored = score_pixels(cut_video(), vit, 3)
    assert len(scored.levels) > 1
    assert scored.kept(0.3).protected.nonzero()[0].tolist() == [3, 6]
    assert scored.kept(0.3).keep[[0, 3, 6]].all()
    assert not scored.kept(0.85).protected.all()
    assert scored.kept(0.0).protected is None
    for kept in map(scored.kept, TOPKS[1:]):
        assert kept.keep[kept.protected].all()


def test_a_method_that_protects_frames_in_its_own_way(monkeypatch):
    def score(inputs):
        """As many of the last frames as the budget leaves room for."""
        n_cells = inputs.grid.n_cells
        scores = torch.sin(torch.arange(len(inputs.x) * n_cells).float()).view(-1, n_cells)
        for video in inputs.videos:
            spare = ((video.n_frames - 1) * n_cells - video.n_remove) // n_cells
            scores[len(scores) - spare :] += 5
        return scores

    monkeypatch.setitem(PRUNE_METHODS, "own", PruneMethod(score))
    model, video = build(prune_method="own"), cut_video()
    scored = score_with_model(model, video, "a model")
    assert len(scored.levels) == 8
    for topk in TOPKS:
        np.testing.assert_array_equal(scored.kept(topk).keep, model_keep(model, video, topk))


def test_one_frame_and_scores_that_are_not_numbers(monkeypatch):
    for scored in (
        score_with_model(build(), cut_video(1), "a model"),
        score_pixels(cut_video(1), pixel_settings(prune_method="evs"), 3),
    ):
        assert scored.scores is None and scored.kept().heat_scale() is None
        assert scored.kept(0.9).keep.all() and scored.kept(0.9).protected is None
        assert "0 of 12 visual tokens removed" in scored.in_words()
    broken = PruneMethod(lambda inputs: torch.full((9, CELLS), torch.nan))
    monkeypatch.setitem(PRUNE_METHODS, "broken", broken)
    with pytest.raises(ValueError, match="prune_method=broken gives scores that are not finite"):
        score_pixels(cut_video(), pixel_settings(prune_method="broken"), 3)


def pixel_settings(**vit):
    sizes = {k: v for k, v in MODEL["vision_backbone"]["vit"].items() if k.startswith("image_")}
    return TemporalVitConfig.from_dict({**sizes, **vit})


def test_the_learned_scorer_needs_a_checkpoint():
    with pytest.raises(ValueError, match="choose a training-free method: easy, evs, heuristic"):
        score_pixels(cut_video(), pixel_settings(), 3)


@needs_node
def test_the_rule_in_javascript():
    rng, cases = np.random.default_rng(0), []
    for n_frames, n_cells in [(1, 4), (2, 1), (3, 81), (30, 81), (64, 81), (7, 16)]:
        for steps in (2, 50, None):  # few different values: many ties
            scores = rng.random((n_frames, n_cells), dtype=np.float32)
            if steps:
                scores = np.floor(scores * steps).astype(np.float32) / np.float32(steps)
            topks = rng.random(3).tolist() + TOPKS
            for spread in (False, True):
                cases.append((scores, int(rng.integers(0, 3)), topks, spread))
    script = (
        RULE.read_text()
        + """
    const output = input.map((c) => c.topks.map((topk) => {
      const nRemove = removedTokens(c.frames, c.cells, topk, c.from);
      const keep = keptCells(decodeScores(c.scores), c.frames, c.cells, nRemove, c.spread);
      return [nRemove, Array.from(keep).join("")];
    }))"""
    )
    sent = [
        {
            **{"frames": len(s), "cells": s.shape[1], "from": skip, "topks": topks},
            "spread": spread,
            "scores": base64.b64encode(s.tobytes()).decode(),
        }
        for s, skip, topks, spread in cases
    ]
    for (scores, skip, topks, spread), found in zip(cases, run_node(script, sent), strict=True):
        for topk, (n_remove, keep) in zip(topks, found, strict=True):
            n_frames, n_cells = scores.shape
            assert n_remove == n_removed_tokens(n_frames, n_cells, topk, skip)
            rows = torch.arange(n_frames)
            table = FrameTable(rows, rows, rows > 0, (VideoSpan(0, n_frames, n_remove),))
            expected = (
                select_cells(torch.from_numpy(scores), table, spread).flatten().int().tolist()
            )
            assert keep == "".join(map(str, expected))


@needs_node
def test_the_budget_is_a_float32_product_in_javascript():
    cases = [(f, m, k / 1000) for f in (2, 30, 63, 128) for m in (16, 81, 196) for k in range(1000)]
    script = RULE.read_text() + "const output = input.map(([f, m, k]) => removedTokens(f, m, k, 0))"
    found = run_node(script, cases)
    assert found == [n_removed_tokens(*case) for case in cases]
    assert found[cases.index((30, 81, 0.7))] == 1701
    for other in (  # one rounding less than the rule has
        lambda f, m, k: int(m * k * f),
        lambda f, m, k: int(np.float32(m * k * f)),
        lambda f, m, k: int(float(np.float32(m * k)) * f),
    ):
        assert found != [min(other(f, m, k), m * (f - 1)) for f, m, k in cases]


# --- page --------------------------------------------------------------------------------------


@needs_node
@pytest.mark.parametrize("method", ["heuristic", "scorer"])
def test_the_page_selects_as_the_model_does(method):
    model, video = build(prune_method=method), cut_video()
    page = pruning_page(score_with_model(model, video, "a model"), "title")
    script = (
        element(page, "rule")
        + """
    const data = JSON.parse(input.data);
    for (const level of data.levels) level.scores = decodeScores(level.scores);
    const output = input.topks.map((topk) => Array.from(selectAt(data, topk).keep))"""
    )
    found = run_node(script, {"data": element(page, "data"), "topks": TOPKS})
    for topk, keep in zip(TOPKS, found, strict=True):
        expected = model_keep(model, video, topk)
        np.testing.assert_array_equal(np.array(keep, bool).reshape(9, CELLS), expected)


@needs_node
def test_the_scripts_of_the_page_are_javascript(tmp_path):
    scored = score_pixels(cut_video(), pixel_settings(prune_method="easy"), 3)
    page = pruning_page(scored, "title")
    scripts = re.findall(r"<script(?: id=\"rule\")?>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    (tmp_path / "all.js").write_text("\n".join(scripts))
    done = subprocess.run([NODE, "--check", tmp_path / "all.js"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r'\$\("(\w+)"\)', scripts[1]):
        assert f'id="{name}"' in page


def test_the_page_refers_to_nothing_outside():
    scored = score_pixels(cut_video(), pixel_settings(prune_method="easy"), 3)
    page = pruning_page(scored, "</script> & <b>title</b>", image_width=40)
    assert "{{" not in page
    code = page.replace(element(page, "data"), "")
    assert not re.search(r"\w:?//\w|@import|url\(|<link|<iframe|<base|\bimport\b|fetch", code)
    assert not re.search(r"\b(?:src|href|srcset|action)\s*=\s*[\"']", code)
    assert not re.search(r"https?:", element(page, "data"))
    assert "default-src 'none'" in page and "<title>&lt;/script&gt; &amp;" in page
    data = json.loads(element(page, "data"))
    assert data["frames"] == 9 and data["cells"] == CELLS and data["topk"] == 0.5
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in data["images"])
    assert len(data["images"]) == len(data["timestamps"]) == 9
    assert data["edges"]["columns"] == [0.0, 0.2, 0.5, 0.8, 1.0]
    assert pruning_page(scored, "title", 80).count("</script>") == 3


def test_what_a_reader_without_mouse_and_a_dark_screen_need():
    scored = score_pixels(cut_video(), pixel_settings(prune_method="easy"), 3)
    page = pruning_page(dataclasses.replace(scored, source="<b>&"), "title", image_width=40)
    assert "<p>&lt;b&gt;&amp;</p>" in page and '<p id="note"></p>' in page
    assert "prefers-color-scheme: dark" in page and ":focus-visible" in page
    assert re.search(r'class="figures"[^>]* aria-live="polite"', page)
    for name in re.findall(r'<input [^>]*id="(\w+)"', page):
        assert re.search(
            rf'<label for="{name}"|<label>[^<]*<input [^>]*id="{name}"|id="{name}"[^>]*aria-label',
            page,
        )


def test_a_video_in_which_nothing_changes_says_so():
    video, vit = cut_video(), pixel_settings(prune_method="easy")
    assert score_pixels(video, vit, 3).note() == ""
    still = VideoFrames(np.full_like(video.frames, 90), video.timestamps, 4.5)
    equal = score_pixels(still, vit, 3)
    assert "have the same score" in equal.note() and HeatScale.of(equal.scores).flat
    assert f'<p id="note">{equal.note()}</p>' in pruning_page(equal, "title", 40)
    assert equal.caption()[-1] == ("note", equal.note())
    still.frames[1:] += np.random.default_rng(0).integers(0, 9, (8, 56, 80, 3), dtype=np.uint8)
    noisy = score_pixels(still, vit, 3)
    assert "Nothing changes in this video" in noisy.note() and not HeatScale.of(noisy.scores).flat
    assert "one frame" in score_pixels(cut_video(1), vit, 3).note()


def test_data_cannot_end_the_script():
    scored = score_pixels(cut_video(), pixel_settings(prune_method="easy"), 3)
    scale = HeatScale.of(scored.scores)
    assert page_data(scored, 40)["ends"] == [scale.low, scale.high]


# --- drawing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("hp", "wp", "pool"), [(27, 27, 3), (7, 10, 3), (12, 12, 5), (4, 9, 4)])
def test_cells_lie_where_their_patches_are(hp, wp, pool):
    edges, patch = CellEdges.of_patches((hp, wp), (pool, pool)), 6
    cells = np.arange(edges.n_cells).reshape(edges.shape)
    image = edges.spread(cells, (wp * patch, hp * patch))
    windows = pooling_windows(hp, wp, pool, pool)
    for cell, patches in enumerate(windows):
        for p in patches[patches >= 0]:
            y, x = divmod(int(p), wp)
            block = image[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            assert (block == cell).all()


def test_cells_of_a_model_lie_where_its_windows_are():
    """Pictures of training and of failures too: a frame of 7 x 10 patches has no even cells."""
    edges = CellEdges.of_video(build().config)
    assert edges.columns == (0, 0.2, 0.5, 0.8, 1) and edges.rows == (0, 2 / 7, 5 / 7, 1)


def test_colour_scales():
    scores = np.array([[9, 9], [0.1, 0.3], [0.3, 0.5]], dtype=np.float32)
    by_score, by_rank = HeatScale.of(scores), HeatScale.of(scores, by_rank=True)
    np.testing.assert_allclose(by_score.values[1:], [[0, 0.5], [0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(by_rank.values[1:], [[0, 1 / 3], [2 / 3, 1]])
    assert (by_score.low, by_score.high) == ("0.10", "0.50")
    tiny = HeatScale.of(np.array([[1, 1], [-1e-7, 3e-7]]))
    assert (tiny.low, tiny.high) == ("-1e-07", "3e-07")
    assert HeatScale.of(np.array([[0], [-1e-7], [1.0]])).low == "0"
    assert HeatScale.of(np.ones((3, 2))).values.max() <= 1


def test_bars_of_the_kept_counts():
    counts = np.array([16, 4, 0, 8])
    image = np.asarray(count_plot(counts, 16, range(4), 400, current=1)).astype(int)
    bars = []
    for i in range(4):
        column = image[:, 40 + round((i + 0.5) * 359 / 4)]
        filled = (column == EDGE).all(-1).sum() + (column == ACCENT).all(-1).sum()
        bars.append(filled / (filled + (column == PALE).all(-1).sum()))
        assert (column == ACCENT).all(-1).any() == (i == 1)
    np.testing.assert_allclose(bars, counts / 16, atol=0.03)
