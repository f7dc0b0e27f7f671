"""Scores, kept tokens, features, losses and gradients against reference outputs.

The reference ran on a 27 x 27 grid with 3 x 3 pooling, float32, with removed patches given back
to frames that are alone in their bin ("refill") and without. The tolerances are in the fixtures'
``config.json``; the reference's own float32 error is about a twentieth of them.
"""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from olmo.nn.llm import LlmConfig
from olmo.nn.temporal_vision_backbone import (
    TemporalVisionBackbone,
    TemporalVisionBackboneConfig,
)
from olmo.nn.token_layout import FrameTable
from olmo.nn.token_scorer import attention_bias, neighbour_cosine
from olmo.nn.vision_backbone import VisionOutput
from tests.nn.conftest import FIXTURES, VIDEO

FOLDER = FIXTURES / "stts_tiny"
CONFIG = json.loads((FOLDER / "config.json").read_text())
CASES = CONFIG["cases"]
TOLERANCE = CONFIG["tolerance"]
EVAL = [name for name, case in CASES.items() if not case["train"]]
TRAIN = [name for name, case in CASES.items() if case["train"]]
LAYOUTS: dict[str, dict[str, object]] = {
    "ragged": {"layout": "ragged"},
    "packed": {"layout": "packed"},
    "refill": {"layout": "packed", "refill": True},
}
LAYOUT_CASES = [
    (name, layout)
    for name in CASES
    for layout in LAYOUTS
    if layout == "ragged" or ("video" in name and "prune" in name)
]
KEY_BIAS = "patch_token_pooler.wk.bias"
"""Shifts all logits of a query alike, so its true gradient is zero: compared absolutely."""


def reference(name: str, layout: str = "ragged") -> dict[str, Tensor]:
    out = load_file(FOLDER / f"{name}.safetensors")
    if layout == "refill":
        out |= load_file(FOLDER / f"{name}_refill.safetensors")
    return out


def parametrize(cases: list[str]) -> pytest.MarkDecorator:
    pairs = [(name, layout) for name, layout in LAYOUT_CASES if name in cases]
    return pytest.mark.parametrize(("name", "layout"), pairs)


@cache
def inputs(name: str) -> dict[str, Tensor]:
    out = load_file(FOLDER / f"inputs_{name}.safetensors")
    return out | {"images": out["images"].float(), "token_pooling": out["token_pooling"].long()}


def build(name: str, **fields: object) -> TemporalVisionBackbone:
    case = CASES[name]
    vit = CONFIG["vit"] | {k: case[k] for k in ("topk", "pruning_in_scorer", "prune")} | fields
    config = TemporalVisionBackboneConfig.from_dict(
        {"vit": vit, "vit_layers": CONFIG["vit_layers"]}
    )
    model = config.build(
        LlmConfig(d_model=CONFIG["d_model"], mlp_hidden_size=CONFIG["mlp_hidden_size"], n_heads=4)
    )
    model.load_state_dict(load_file(FOLDER / "weights.safetensors"))
    return model.train(case["train"])


def forward(model: TemporalVisionBackbone, x: dict[str, Tensor]) -> VisionOutput:
    return model(x["images"], None, x["token_pooling"], x["num_images"], x["multimodal_type"])


def frames_of(model: TemporalVisionBackbone, x: dict[str, Tensor]) -> FrameTable:
    return model.frames(x["num_images"], x["multimodal_type"], x["images"].shape[1])


def compared_frames(table: FrameTable) -> Tensor:
    """Slots of a video's frames but for its first: there the reference looks back over the
    border of the video, and what it gives other frames is unspecified."""
    return table.slots[table.prunable[table.has_previous]]


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    tolerance = {"rtol": 0.0} | TOLERANCE[what]
    torch.testing.assert_close(actual, expected, check_dtype=False, **tolerance)


@parametrize(EVAL)
def test_features_and_kept_tokens(name: str, layout: str) -> None:
    x, want = inputs(CASES[name]["inputs"]), reference(name, layout)
    model = build(name, **LAYOUTS[layout])
    with torch.no_grad():
        out = forward(model, x)
    if "feature_pos" in want:
        assert out.features.shape[0] == len(want["feature_pos"])
        torch.testing.assert_close(out.keep.nonzero(), want["feature_pos"].long())
    if "kept_pooled_mask" in want:
        assert torch.equal(out.keep.view(-1, 81), want["kept_pooled_mask"])
    if "features" in want:  # the fixture holds every second row
        close(out.features[::2], want["features"], "features")
    if out.scores is not None:
        rows = compared_frames(frames_of(model, x))
        close(out.scores[rows], want["scores"][rows], "scores")


@parametrize(EVAL)
def test_hidden_states(name: str, layout: str) -> None:
    """Outputs of the read blocks at sampled surviving patches."""
    x, want = inputs(CASES[name]["inputs"]), reference(name, layout)
    model = build(name, **LAYOUTS[layout])
    frame, patch = want["hidden_pos"].long().T
    slot = None
    with torch.no_grad():
        if CASES[name]["prune"]:
            table = frames_of(model, x)
            images = x["images"].flatten(0, 1)[table.slots]
            out = model.image_vit.forward_pruned(images, table, model.layers)
            features, slot = out.features, out.slot
            frame = torch.searchsorted(table.slots, frame.contiguous())
        else:
            layers = model.image_vit(x["images"].flatten(0, 1), model.layers)
            features = torch.cat(layers, -1).flatten(0, 1)
    row = frame * 729 + patch
    if slot is not None:
        row = slot[row]
        assert (row >= 0).all()
    close(features[row], torch.cat([want["hidden_layer5"], want["hidden_layer7"]], -1), "hidden")


@pytest.mark.parametrize("name", [n for n in EVAL if "attn_bias" in reference(n)])
def test_attention_bias(name: str) -> None:
    x, want, model = inputs(CASES[name]["inputs"]), reference(name), build(name)
    table = frames_of(model, x)
    rows = table.slots[table.prunable]
    grid = model.image_vit.grid(x["images"].device)
    minimum = CONFIG["vit"]["rescale_bias_min"]
    bias = attention_bias(want["scores"][rows], table.has_previous, grid, minimum, per_row=True)
    full = torch.zeros_like(want["attn_bias"]).index_copy(0, rows, bias)
    close(full, want["attn_bias"], "attn_bias")


@parametrize(TRAIN)
def test_losses_and_gradients(name: str, layout: str) -> None:
    """In training mode: the same features, the auxiliary loss inside videos, and dL/dparam of
    ``sum(features * probe)``, which reaches the scorer through the score bias alone."""
    x, want = inputs(CASES[name]["inputs"]), reference(name, layout)
    model = build(name, **LAYOUTS[layout])
    out = forward(model, x)
    features = reference(name.replace("_train", "_eval"), layout)["features"]
    close(out.features[::2], features, "features")
    assert out.aux_loss is not None
    close(out.aux_loss, want["aux_loss_within_video"][0], "aux_loss")
    if CASES[name]["inputs"] == "one_video":
        close(out.aux_loss, want["aux_loss"][0], "aux_loss")
    (out.features * want["grad_probe"].float()).sum().backward()
    compare_gradients(model, want, "grad_feat.")


@pytest.mark.parametrize(
    "name", [n for n, layout in LAYOUT_CASES if layout == "refill" and n in EVAL]
)
def test_refilled_patches(name: str) -> None:
    """How many removed patches come back: all of those in the frames that the reference names."""
    x, want = inputs(CASES[name]["inputs"]), reference(name, "refill")
    with torch.no_grad():
        out = forward(build(name, **LAYOUTS["refill"]), x)
    removed = ~want["kept_pooled_mask"][want["refilled_frames"]]
    refilled, kept = 9 * int(removed.sum()), 9 * len(out.features)
    assert out.stats["stts/refill_ratio"] == pytest.approx(refilled / kept)


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_of_auxiliary_loss(detach: bool) -> None:
    name = "one_video_top50_prune_train"
    model, want = build(name, detach_similarity=detach), reference(name)
    loss = forward(model, inputs("one_video")).aux_loss
    assert loss is not None
    loss.backward()
    compare_gradients(model, want, "grad_aux.")
    target = "detached" if detach else "attached"
    compare_gradients(model, want, f"grad_aux_target_{target}.")


def compare_gradients(model: TemporalVisionBackbone, want: dict[str, Tensor], prefix: str) -> None:
    params = dict(model.named_parameters())
    names = [k for k in want if k.startswith(prefix)]
    assert names
    for key in names:
        got = params[key.removeprefix(prefix)].grad
        assert got is not None, key
        # measured: 7e-6 of the largest value; 5e-7 for the key bias
        limit = 1e-5 if key.endswith(KEY_BIAS) else TOLERANCE["grad"] * want[key].abs().max()
        worst = (got - want[key]).abs().max()
        assert worst <= limit, (key, worst.item(), float(limit))


@pytest.mark.parametrize("name", [n for n in TRAIN if "prune" in n])
def test_neighbour_cosine(name: str) -> None:
    """Over all frame slots of the row, padding included, as the reference stored it."""
    x, model = inputs(CASES[name]["inputs"]), build(name)
    with torch.no_grad():
        (h,) = model.image_vit(x["images"].flatten(0, 1), (CONFIG["vit"]["prune_at"],))
    cosine = neighbour_cosine(h, model.image_vit.grid(h.device))
    # measured 4e-7
    torch.testing.assert_close(cosine, reference(name)["neighbor_cosine"], atol=1e-5, rtol=0)


def test_two_rows_give_what_each_gives_alone() -> None:
    """Rows of different content, padding frames and padded ``num_images``."""
    one, mixed = inputs("one_video"), inputs("image_video")
    pad = torch.full_like(one["images"][:, :1], -1)
    rows = [
        {
            "images": torch.cat((one["images"][:, :4], pad), 1),
            "token_pooling": keep_first(one["token_pooling"], 4, 5),
            "num_images": torch.tensor([[4, -1]]),
            "multimodal_type": torch.tensor([[VIDEO, -1]]),
        },
        {
            "images": torch.cat((mixed["images"][:, :1], mixed["images"][:, 2:5], pad), 1),
            "token_pooling": keep_first(one["token_pooling"], 4, 5),
            "num_images": torch.tensor([[1, 3]]),
            "multimodal_type": torch.tensor([[1, VIDEO]]),
        },
    ]
    model = build("one_video_top50_prune_eval")
    with torch.no_grad():
        alone = [forward(model, row) for row in rows]
        both = forward(model, {k: torch.cat([r[k] for r in rows]) for k in rows[0]})
    assert torch.equal(both.keep, torch.cat([a.keep for a in alone]))
    assert both.keep.sum(1).tolist() == [4 * 81 - 162, 4 * 81 - 121]
    torch.testing.assert_close(both.scores, torch.cat([a.scores for a in alone]))
    close(both.features, torch.cat([a.features for a in alone]), "features")


def keep_first(token_pooling: Tensor, n_frames: int, n_slots: int) -> Tensor:
    """The rows of the first frames; the others become padding."""
    out = torch.full((1, n_slots * 81, 9), -1)
    out[:, : n_frames * 81] = token_pooling[:, : n_frames * 81]
    return out
