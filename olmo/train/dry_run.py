"""What a run would do: resolved config, parameters, tokens and FLOPs. Needs no GPU and no data."""

from __future__ import annotations

import dataclasses

from omegaconf import OmegaConf

from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.nn.flops import StageFlops, model_flops
from olmo.nn.temporal_vision_backbone import TemporalVisionBackboneConfig
from olmo.patch_grid import pooled_grid
from olmo.token_budget import n_removed_tokens
from olmo.train.config import TrainConfig
from olmo.train.optim import named_groups

TEXT_TOKENS_PER_FRAME = 8
"""Time stamp and frame tokens, roughly."""
QUESTION_TOKENS = 64


def describe_run(config: TrainConfig) -> str:
    """The report of ``--dry_run``."""
    parts = [OmegaConf.to_yaml(OmegaConf.create(config.to_dict()))]
    model = config.model.build("meta")
    parts.append("Trainable parameters")
    for group, params in named_groups(model).items():
        parts.append(f"  {group:24s}{sum(p.numel() for p in params.values()):>16,}")
    parts.append(f"  {'total':24s}{sum(p.numel() for p in model.parameters()):>16,}")
    parts += _video_report(config)
    return "\n".join(parts)


def _video_report(config: TrainConfig) -> list[str]:
    model = config.model
    n_frames = model.mm_preprocessor.video.max_frames
    total, kept = video_tokens(model, n_frames)
    dense, pruned = video_flops(model, n_frames)
    rows = config.global_train_batch_size
    lines = [
        f"A video of {n_frames} frames",
        f"  visual tokens before pruning {total}, after {kept} ({kept / total:.0%})",
        f"FLOPs of a training step, {rows} rows of one such video and {QUESTION_TOKENS} text "
        "tokens (three times the forward pass)",
        f"  {'stage':12s}{'dense':>12s}{'pruned':>12s}",
    ]
    for name in ("vit", "scorer", "connector", "llm", "total"):
        a, b = (3 * rows * getattr(f, name) for f in (dense, pruned))
        lines.append(f"  {name:12s}{a:>12.3e}{b:>12.3e}")
    lines.append(f"  ceiling of the speed-up by FLOPs {dense.total / pruned.total:.2f}x")
    return lines


def video_tokens(model: Molmo2Config, n_frames: int) -> tuple[int, int]:
    """Visual tokens of a video of ``n_frames`` before and after pruning."""
    video = model.mm_preprocessor.video
    grid = model.vision_backbone.vit.image_num_patch
    rows, columns = pooled_grid(*grid, video.pooling_h, video.pooling_w)
    removed = n_removed_tokens(
        n_frames, rows * columns, model.removed_share, model.prune_from_frame
    )
    return n_frames * rows * columns, n_frames * rows * columns - removed


def video_flops(model: Molmo2Config, n_frames: int) -> tuple[StageFlops, StageFlops]:
    """Forward FLOPs for one video and a question, without pruning and as configured."""
    backbone, pool = model.vision_backbone, model.mm_preprocessor.video.pooling_h
    text = QUESTION_TOKENS + TEXT_TOKENS_PER_FRAME * n_frames
    pruned = model_flops(backbone, model.llm, n_frames, text, pool=pool)
    if isinstance(backbone, TemporalVisionBackboneConfig):
        vit = dataclasses.replace(backbone.vit, prune=False)
        backbone = dataclasses.replace(backbone, vit=vit)
    return model_flops(backbone, model.llm, n_frames, text, pool=pool), pruned
