"""The FLOP formulas against torch's counter, stage by stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from olmo.models.molmo2.molmo2 import Molmo2
from olmo.nn.attention import force_masks
from olmo.nn.flops import (
    StageFlops,
    decode_bytes,
    decode_flops,
    llm_flops,
    model_flops,
    scorer_flops,
)
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.temporal_vision_backbone import TemporalVisionBackboneConfig
from tests.models.conftest import PRUNING, Row, build, collate, video_row

WIDE = {
    "vision_backbone": {
        "vit": {"image_emb_dim": 128, "image_num_heads": 4, "image_head_dim": 32}
        | {"image_num_key_value_heads": 4, "image_mlp_dim": 320}
    }
}


def counted(model: Molmo2, batch: Row) -> StageFlops:
    """By module. Two settings let torch count all of the attention and nothing else: plain
    matrix products instead of a fused kernel, and the score bias as a mask."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH), force_masks():
        model(**batch)
    root = type(model).__name__
    found = {
        name.removeprefix(f"{root}."): sum(ops.values())
        for name, ops in counter.get_flop_counts().items()
    }
    vit = "vision_backbone.image_vit."
    blocks = sum(
        n for name, n in found.items() if name.startswith(vit) and name.split(".")[-1].isdigit()
    )
    backbone = found["vision_backbone"]
    scorer = found.get(f"{vit}transformer.temporal_token_scorer", 0)
    parts = blocks + found[f"{vit}patch_embedding"]
    return StageFlops(parts, scorer, backbone - parts - scorer, found["Global"] - backbone)


@pytest.mark.parametrize(
    "vit",
    [
        {"topk": 0.3},
        {"topk": 0.5},
        {"topk": 0.8},
        {"topk": 0.5, "prune_at": 0},
        {"topk": 0.5, "prune_at": 3},
        {"topk": 0.5, "prune_from_frame": 2},
        {"topk": 0.5, "pruning_in_scorer": False},
        {"topk": 0.5, "prune_method": "random"},
        {"prune": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_logits", [1, 3])
def test_stages(vit: dict[str, Any], n_logits: int) -> None:
    model = build(PRUNING, WIDE, {"vision_backbone": {"vit": vit}})
    row = video_row(8, 0)
    n_tokens, n_text = len(row["input_ids"]), len(row["input_ids"]) - len(row["token_pooling"])
    wanted = torch.arange(n_tokens)[None] >= n_tokens - n_logits
    want = counted(model, collate(row) | {"response_mask": wanted})
    config = model.config
    got = model_flops(config.vision_backbone, config.llm, 8, n_text, n_logits)
    # measured: 0 where nothing leaves the ViT; else up to 7e-3 in the ViT, whose survivors are
    # taken as spread evenly over the frames
    for stage in ("vit", "scorer", "connector", "llm", "total"):
        assert getattr(got, stage) == pytest.approx(getattr(want, stage), rel=0.01), stage


def test_dense_model() -> None:
    model, row = build(WIDE), video_row(2, 0)
    n_text = len(row["input_ids"]) - 18
    want, config = counted(model, collate(row)), model.config
    got = model_flops(config.vision_backbone, config.llm, 2, n_text, len(row["input_ids"]))
    assert got == want


def test_decoding() -> None:
    """A token is a row of one token that also looks at the cache; a step reads every matrix."""
    model = build(WIDE)
    llm = model.config.llm
    numbers = llm.n_layers * llm.n_heads * llm.head_size
    steps = [llm_flops(llm, 1) + 4.0 * numbers * n for n in (7, 8, 9)]
    assert decode_flops(llm, 7, 3) == sum(steps)
    table = model.transformer.wte.embedding
    matrices = [p for p in model.transformer.blocks.parameters() if p.dim() == 2]
    weights = 3 * sum(p.numel() for p in (*matrices, table))
    cache = 2 * llm.n_layers * llm.kv_heads * llm.head_size * (8 + 9 + 10)
    assert decode_bytes(llm, 7, 3, 1, 4) == 4 * (weights + cache)
    assert decode_bytes(llm, 7, 3, 5, 2) == 2 * (weights + 5 * cache)


def test_nothing_to_remove() -> None:
    """The formula has no scorer then; the model runs it on one frame, for the gradient's sake."""
    model = build(PRUNING, WIDE, {"vision_backbone": {"vit": {"topk": 0.0}}})
    want, vit = counted(model, collate(video_row(3, 0))), model.config.vision_backbone.vit
    assert want.scorer == scorer_flops(vit, 9, 3)
    assert model_flops(model.config.vision_backbone, model.config.llm, 3, 1).scorer == 0


def test_share_of_work_saved() -> None:
    """Ordered as it must be, at the size of the released models."""
    llm = build().config.llm
    totals = []
    for topk in (0.0, 0.3, 0.5, 0.8):
        backbone = TemporalVisionBackboneConfig(vit=TemporalVitConfig(topk=topk))
        totals.append(model_flops(backbone, llm, 64, 100).vit)
    assert totals == sorted(totals, reverse=True)
    # 4 of 25 blocks run whole, 20 on half of the tokens with a quarter of the attention, and one
    # on half of the queries: (25 blocks) / (4 + 20 * 0.49 + 0.6)
    assert 1.75 < totals[0] / totals[2] < 1.80
