"""A small pruning backbone on any patch grid, and inputs for it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from olmo.nn.llm import LlmConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.temporal_vision_backbone import (
    TemporalVisionBackbone,
    TemporalVisionBackboneConfig,
)
from olmo.patch_grid import pooling_windows
from olmo.types import MultimodalType

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLM = LlmConfig(d_model=16, n_heads=2, mlp_hidden_size=32)
VIDEO, IMAGE = int(MultimodalType.VIDEO), int(MultimodalType.IMAGE)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough that every part of the model moves the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() > 1:
                p.copy_(noise * p.shape[-1] ** -0.5)
            else:
                p.copy_(noise * 0.2 + ("norm" in name or "ln_f" in name) * ("weight" in name))


def vit_config(grid: tuple[int, int] = (9, 9), **fields: object) -> TemporalVitConfig:
    """Five blocks of width 16, patches of 2 x 2 pixels, scoring after block 1."""
    values: dict[str, object] = {
        "image_default_input_size": (2 * grid[0], 2 * grid[1]),
        "image_patch_size": 2,
        "image_emb_dim": 16,
        "image_num_heads": 2,
        "image_num_key_value_heads": 2,
        "image_head_dim": 8,
        "image_num_layers": 5,
        "image_mlp_dim": 24,
        "image_num_pos": grid[0] * grid[1],
        "prune_at": 1,
    }
    return TemporalVitConfig.from_dict(values | fields)


def backbone(
    grid: tuple[int, int] = (9, 9), pool: int = 3, **fields: object
) -> TemporalVisionBackbone:
    """Backbone in evaluation mode that reads blocks 4 and 2; ``fields`` go to its ViT."""
    config = TemporalVisionBackboneConfig(
        vit=vit_config(grid, **fields), vit_layers=(-1, -3), video_pooling=pool
    )
    out = config.build(LLM)
    randomise(out)
    return out.eval()


def pooling(n_frames: int, grid: tuple[int, int] = (9, 9), pool: int = 3) -> Tensor:
    """``token_pooling`` [n_frames * M, G] of one row."""
    windows = torch.from_numpy(pooling_windows(*grid, pool, pool))
    offsets = torch.arange(n_frames)[:, None, None] * grid[0] * grid[1]
    return torch.where(windows >= 0, windows + offsets, -1).flatten(0, 1)


def video(n_frames: int, seed: int, grid: tuple[int, int] = (9, 9)) -> dict[str, Tensor]:
    """One row with one video, as keyword arguments of the backbone."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, n_frames, grid[0] * grid[1], 12)
    return {
        "images": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "token_pooling": pooling(n_frames, grid)[None],
        "num_images": torch.tensor([[n_frames]]),
        "multimodal_type": torch.tensor([[VIDEO]]),
    }
