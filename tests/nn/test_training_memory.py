"""What a training step keeps for its backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone
from tests.nn.conftest import backbone, video

# the shape of the benchmark's `small`: 12 blocks, scoring after the fourth, MLP four times as wide
SHAPE = {
    "image_num_layers": 12,
    "prune_at": 3,
    "image_emb_dim": 32,
    "image_head_dim": 16,
    "image_mlp_dim": 128,
    "activation_checkpointing": False,
}


def kept_bytes(model: TemporalVisionBackbone, batch: dict[str, Tensor]) -> int:
    """Bytes of activations held when the forward pass ends, each memory block counted once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own and x.dtype != torch.int64:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        out = model.train()(image_masks=None, **batch)
        total = sum(held.values())
    (out.features.square().mean() + (0 if out.aux_loss is None else out.aux_loss)).backward()
    return total


def test_half_of_the_tokens_leave_at_most_65_percent_of_the_memory() -> None:
    """Blocks 0 to 3 of 12 keep all patches, the next one nothing, the other seven half of them:
    (4 + 7 / 2) / 12 = 62.5%."""
    batch = video(32, 0)
    dense = kept_bytes(backbone(prune=False, **SHAPE), batch)
    pruned = kept_bytes(backbone(**SHAPE), batch)
    assert 0.55 < pruned / dense < 0.65  # measured 0.63


def test_pixels_are_kept_as_bytes() -> None:
    batch = video(32, 0)
    n_values = batch["images"].numel()
    fields = SHAPE | {"image_num_layers": 5, "prune_at": 1}
    as_bytes = kept_bytes(backbone(prune=False, **fields), batch)
    floats = batch | {"images": batch["images"].float() / 127.5 - 1}
    assert kept_bytes(backbone(prune=False, **fields), floats) - as_bytes == 3 * n_values


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_changes_no_gradient(dropout: float) -> None:
    """The scoring block draws the same dropout when it is computed again."""
    grads = []
    for recompute in (True, False):
        fields = SHAPE | {"activation_checkpointing": not recompute}
        model = backbone(residual_dropout=dropout, **fields).train()
        torch.manual_seed(1)
        out = model(image_masks=None, **video(6, 0))
        assert out.aux_loss is not None
        (out.features.square().mean() + out.aux_loss).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)
