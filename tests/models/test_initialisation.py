"""Parameters of the released sizes, and how each kind of them starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from olmo.models.registry import model_config_from_dict
from tests.models.conftest import OLMO3, PRUNING, config_dict

QWEN = {
    "n_layers": 36,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    "4b": (
        {**QWEN, "d_model": 2560, "mlp_hidden_size": 19456, "weight_tying": True},
        4_461_913_040,
        705,
    ),
    "8b": (
        {**QWEN, "d_model": 4096, "mlp_hidden_size": 24576, "weight_tying": False},
        8_661_703_120,
        706,
    ),
    "o-7b": (
        {
            "d_model": 4096,
            "n_heads": 32,
            "n_layers": 32,
            "mlp_hidden_size": 22016,
            "vocab_size": 100278,
            "weight_tying": False,
            "attention_layer_norm_type": "olmo",
            "norm_after": True,
            "fix_pad_tokenizer": True,
        },
        7_760_786_896,
        674,
    ),
}
"""Published: number of parameters and of tensors in a checkpoint."""


@pytest.mark.parametrize("size", SIZES)
def test_released_sizes(size: str) -> None:
    llm, n_parameters, n_tensors = SIZES[size]
    model = model_config_from_dict({"model_name": "video_olmo", "llm": llm}).build("meta")
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert len(model.state_dict()) == n_tensors


@pytest.mark.parametrize(
    "changes", [(), (PRUNING,), (PRUNING, {"llm": OLMO3})], ids=["dense", "pruning", "olmo3"]
)
def test_every_parameter_is_reset(changes: tuple[dict[str, Any], ...]) -> None:
    """Built on ``meta``, filled with NaN, reset: none is left out."""
    model = model_config_from_dict(config_dict(*changes)).build("meta").to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(torch.nan)
    model.reset_parameters()
    for name, p in model.named_parameters():
        assert p.isfinite().all(), name
        if "norm" in name or "ln_f" in name:
            assert (p == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith(".bias"):
            assert not p.any(), name


def test_spread_of_each_kind() -> None:
    """Wide enough that a standard deviation of one tensor is known to a few per cent."""
    wide = {
        "llm": {"d_model": 128, "mlp_hidden_size": 256, "n_layers": 2},
        "vision_backbone": {
            "vit": {"image_emb_dim": 64, "image_num_heads": 4, "image_num_key_value_heads": 4}
            | {"image_head_dim": 16, "image_mlp_dim": 128}
        },
    }
    model = model_config_from_dict(config_dict(PRUNING, wide)).build()
    model.reset_parameters()
    llm, vit = "transformer.", "vision_backbone.image_vit."
    want = {
        f"{llm}wte.embedding": 0.02,
        f"{llm}wte.new_embedding": 0.02,
        f"{llm}blocks.0.att_proj.weight": 0.02,
        f"{llm}blocks.1.attn_out.weight": 0.02,
        f"{llm}blocks.1.ff_proj.weight": 0.02,
        f"{llm}blocks.1.ff_out.weight": 0.02 / 2,
        f"{vit}positional_embedding": 64**-0.5,
        f"{vit}patch_embedding.weight": 0.02,
        f"{vit}transformer.resblocks.0.attention.wq.weight": 0.02,
        f"{vit}transformer.resblocks.0.feed_forward.w1.weight": 64**-0.5,
        f"{vit}transformer.resblocks.0.feed_forward.w2.weight": 128**-0.5,
        f"{vit}transformer.temporal_token_scorer.patch_token_pooler.wo.weight": 0.02,
        f"{vit}transformer.temporal_token_scorer.mlp.w1.weight": 128**-0.5,
        f"{vit}transformer.temporal_token_scorer.mlp.w2.weight": 128**-0.5,
        "vision_backbone.image_pooling_2d.wk.weight": 0.02,
        "vision_backbone.image_projector.w2.weight": 0.02,
    }
    params = dict(model.named_parameters())
    for name, std in want.items():
        assert params[name].std().item() == pytest.approx(std, rel=0.1), name
