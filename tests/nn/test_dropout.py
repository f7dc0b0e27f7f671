"""Where the ViT's two kinds of dropout act."""

from __future__ import annotations

import pytest
import torch

from olmo.nn.image_vit import ViTAttention, ViTBlock
from olmo.nn.token_layout import CellGrid, TokenLayout
from tests.nn.conftest import backbone, randomise, video, vit_config

CPU = torch.device("cpu")


def test_residual_dropout_is_not_in_the_mlp() -> None:
    block = ViTBlock(vit_config(residual_dropout=0.5)).train()
    randomise(block)
    torch.nn.init.zeros_(block.attention.wo.weight)
    torch.nn.init.zeros_(block.attention.wo.bias)
    x = torch.randn(2, 81, 16)
    assert torch.equal(block(x), x + block.feed_forward(block.ffn_norm(x)))


def test_residual_dropout_is_behind_the_projection() -> None:
    """Of every attention of the vision stack: blocks, connector and scorer share the module."""
    model = backbone(residual_dropout=0.25).train()
    places = [m for m in model.modules() if isinstance(m, ViTAttention)]
    assert model.image_pooling_2d in places and len(places) == 5 + 1 + 1
    for attention in places:
        x = torch.randn(50, 9, attention.wq.in_features)
        torch.manual_seed(0)
        got = attention(x)
        whole = attention.eval()(x)
        dropped = got == 0
        assert 0.2 < dropped.float().mean() < 0.3
        torch.testing.assert_close(got[~dropped], whole[~dropped] / 0.75)


@pytest.mark.parametrize("biased", [True, False])
def test_attention_dropout_in_pruned_blocks(biased: bool) -> None:
    """The mean of many draws is what no dropout gives."""
    attention, grid = ViTAttention(vit_config(attention_dropout=0.5)), CellGrid.build(9, 9, 3, CPU)
    randomise(attention)
    keep = torch.rand(4, 9) < 0.6
    layout = TokenLayout.ragged(keep, grid)
    x = torch.randn(4, 81, 16)
    given = (x, layout, torch.randn(4, 81)) if biased else (layout.gather(x), layout)
    with torch.no_grad():
        want = attention.eval().forward_flat(*given)
        draws = torch.stack([attention.train().forward_flat(*given) for _ in range(400)])
    assert (draws[0] - want).norm() > 0.1 * want.norm()
    assert (draws.mean(0) - want).norm() < 0.1 * want.norm()  # measured 0.03


def test_a_pruning_model_trains_with_both() -> None:
    model = backbone(attention_dropout=0.2, residual_dropout=0.1).train()
    out = model(image_masks=None, **video(5, 0))
    assert out.aux_loss is not None
    (out.features.square().mean() + out.aux_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
