"""The code of docs/porting.md, run as it stands there, against transformers' own SigLIP."""

import re
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from olmo.token_budget import n_removed_tokens

GUIDE = Path(__file__).parents[1] / "docs" / "porting.md"
CONFIG = SiglipVisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=6,
    num_attention_heads=4,
    image_size=28,
    patch_size=4,
    vision_use_head=False,
    attn_implementation="sdpa",
)
N_CELLS, N_PATCHES = 9, 49


@pytest.fixture(scope="module")
def code():
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names = {}
    exec(compile(block, str(GUIDE), "exec"), names)
    return names


def pruned(code, **options):
    torch.manual_seed(0)
    vit = SiglipVisionModel(CONFIG)
    with torch.no_grad():
        for p in vit.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return code["PrunedSiglip"](vit, prune_at=1, **options).eval()


def frames(n):
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def test_the_guide_is_short(code):
    (block,) = re.findall(r"class PrunedSiglip.*?```", GUIDE.read_text(), re.DOTALL)
    assert len(block.splitlines()) < 75


def test_nothing_removed_is_transformers_own_result(code):
    model, x = pruned(code, topk=0.0), frames(5)
    with torch.no_grad():
        features, layout, keep = model(x, [3, 2])
        hidden = model.vit(x).last_hidden_state
        own = model.vit.post_layernorm(features[layout.slot].view(5, N_PATCHES, -1))
    assert keep.all()
    torch.testing.assert_close(own, hidden, atol=2e-5, rtol=0)  # 9.5e-7 measured


def test_every_video_loses_its_budget_and_keeps_its_first_frame(code):
    model = pruned(code, topk=0.5)
    with torch.no_grad():
        features, layout, keep = model(frames(8), [4, 1, 3])
    videos = keep.split([4, 1, 3])
    for video, n in zip(videos, [4, 1, 3], strict=True):
        assert int((~video).sum()) == n_removed_tokens(n, N_CELLS, 0.5)
        assert video[0].all()
    assert len(features) == int((layout.slot >= 0).sum()) < 8 * N_PATCHES


def test_survivors_equal_frames_run_one_by_one(code):
    """The blocks behind the bias, on each frame's survivors alone."""
    model, x = pruned(code, topk=0.6), frames(5)
    with torch.no_grad():
        features, layout, _ = model(x, [5])
        seen = []
        hook = model.vit.encoder.layers[2].register_forward_hook(lambda m, i, o: seen.append(o))
        model(x, [5])
        hook.remove()
        slot = layout.slot.view(5, N_PATCHES)
        for frame in range(5):
            here = slot[frame] >= 0
            if not here.any():
                continue
            alone = seen[0][frame : frame + 1, here]
            for block in model.vit.encoder.layers[3:]:
                alone = block(alone, None)
            ours = features[slot[frame][here]]
            torch.testing.assert_close(ours, alone[0], atol=2e-5, rtol=0)  # 2.4e-6 measured


def test_the_connector_finds_the_windows(code):
    model = pruned(code, topk=0.5)
    grid = code["CellGrid"].build(7, 7, 3, torch.device("cpu"))
    with torch.no_grad():
        features, layout, keep = model(frames(4), [4])
    rows = layout.slot.view(4, N_PATCHES)[:, grid.windows]
    windows = rows[keep]
    assert windows.shape == (int(keep.sum()), 9)
    inside = (grid.windows >= 0).expand(4, -1, -1)[keep]
    assert (windows[inside] >= 0).all() and len(features[windows[inside]]) == len(features)
    assert (rows[~keep][(grid.windows >= 0).expand(4, -1, -1)[~keep]] == -1).all()


def test_the_gradient_reaches_the_scorer_through_the_bias(code):
    model = pruned(code, topk=0.5).train()
    features, _, _ = model(frames(4), [4])
    features.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.scorer.parameters())
    still = pruned(code, topk=0.5).train()
    still(frames(1), [1])[0].square().mean().backward()
    assert all(p.grad is None for p in still.scorer.parameters())
