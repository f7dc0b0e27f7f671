"""What a run would do: resolved config, parameters, tokens, FLOPs, memory and hours.

Needs no GPU and no data: the model lives on the meta device, the rest follows from the config.
"""

from __future__ import annotations

import dataclasses

import torch

from olmo.config import to_yaml
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
from olmo.nn.attention import kernel_table
from olmo.nn.flops import PEAK_FLOPS, TRAINING, StageFlops, model_flops
from olmo.nn.temporal_vision_backbone import TemporalVisionBackboneConfig
from olmo.train.config import TrainConfig
from olmo.train.fits import fits_table
from olmo.train.lora import choose_trained
from olmo.train.memory import GIB, RowShape, estimate_memory
from olmo.train.optim import named_groups

TEXT_TOKENS_PER_FRAME = 8
"""Time stamp and frame tokens, roughly."""
QUESTION_TOKENS = 64
GPU, MFU = "H100", 0.35
"""What the hours are worked out for."""
N_GPUS = 8
"""Without torchrun to say how many there are."""


def describe_run(config: TrainConfig, n_gpus: int = N_GPUS) -> str:
    """The report of ``--dry_run`` for ``n_gpus`` processes."""
    model = config.model.build("meta")
    choose_trained(model, config)
    lines = [to_yaml(config.to_dict())]
    lines += _parameter_report(model)
    lines += _video_report(config)
    lines += _run_report(config, model, n_gpus)
    lines += ["One GPU: memory with one row at a time, and the most rows that fit (-: none)"]
    lines += [fits_table(config, full_row(config)[1])]
    lines += ["Attention kernels on a GPU, in bfloat16"]
    lines += [
        f"  {case:28s}{name}" for case, name in kernel_table(torch.device("cuda"), torch.bfloat16)
    ]
    return "\n".join(lines)


def _parameter_report(model: Molmo2) -> list[str]:
    total = sum(p.numel() for p in model.parameters())
    lines = ["Trainable parameters"]
    for group, params in named_groups(model).items():
        lines.append(f"  {group:24s}{sum(p.numel() for p in params.values()):>16,}")
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return [*lines, f"  {'frozen':24s}{frozen:>16,}", f"  {'total':24s}{total:>16,}"]


def _video_report(config: TrainConfig) -> list[str]:
    model = config.model
    n_frames = model.mm_preprocessor.video.max_frames
    total, kept = video_tokens(model, n_frames)
    dense, pruned = video_flops(model, n_frames)
    lines = [
        f"A video of {n_frames} frames",
        f"  visual tokens before pruning {total}, after {kept} ({kept / total:.0%})",
        f"FLOPs of training on one such video and a question of {QUESTION_TOKENS} tokens "
        f"({TRAINING} times the forward pass)",
        f"  {'stage':12s}{'dense':>12s}{'pruned':>12s}",
    ]
    for name in ("vit", "scorer", "connector", "llm", "total"):
        a, b = (TRAINING * getattr(f, name) for f in (dense, pruned))
        lines.append(f"  {name:12s}{a:>12.3e}{b:>12.3e}")
    ratio = dense.total / pruned.total
    return [*lines, f"  predicted speed-up {ratio:.2f}x: the ceiling of the speed-up by FLOPs"]


def _run_report(config: TrainConfig, model: Molmo2, n_gpus: int) -> list[str]:
    """A whole run in which every video has ``max_frames`` frames and rows are full."""
    n_frames = config.model.mm_preprocessor.video.max_frames
    videos, row = full_row(config)
    steps, rows = config.max_duration, config.global_train_batch_size
    flops = TRAINING * rows * videos * video_flops(config.model, n_frames)[1].total
    hours = steps * flops / (n_gpus * PEAK_FLOPS[GPU] * MFU) / 3600
    memory = estimate_memory(config, model, row, n_gpus)
    parts = [f"{f.name} {getattr(memory, f.name) / GIB:.1f}" for f in dataclasses.fields(memory)]
    return [
        f"The run: {steps} steps of {rows} rows, {videos:.1f} such videos in a row of "
        f"{row.tokens:.0f} tokens after pruning",
        f"  tokens of a step {rows * row.tokens:,.0f}, of the run {steps * rows * row.tokens:,.0f}",
        f"  videos of a step {rows * videos:,.0f}, of the run {steps * rows * videos:,.0f}",
        f"  FLOPs of a step {flops:.3e}, of the run {steps * flops:.3e}",
        f"  hours on {n_gpus} x {GPU} at {MFU:.0%} MFU: {hours:.1f}",
        f"Memory of one of {n_gpus} GPUs, {config.device_train_microbatch_size} rows at a time: "
        f"about {memory.total / GIB:.0f} GiB",
        f"  GiB: {', '.join(parts)}",
    ]


def full_row(config: TrainConfig) -> tuple[float, RowShape]:
    """Videos of ``max_frames`` frames in one row, and the row: full under packing, else one."""
    n_frames = config.model.mm_preprocessor.video.max_frames
    _, kept = video_tokens(config.model, n_frames)
    length = kept + QUESTION_TOKENS + TEXT_TOKENS_PER_FRAME * n_frames
    videos = 1.0
    if config.data.packing is not None and config.data.sequence_length is not None:
        videos = max(config.data.sequence_length / length, 1.0)
    return videos, RowShape(videos * n_frames, videos * kept, videos * length)


def video_tokens(model: Molmo2Config, n_frames: int) -> tuple[int, int]:
    """Visual tokens of a video of ``n_frames`` before and after pruning."""
    return model.budget.total(n_frames), model.budget.kept(n_frames)


def video_flops(model: Molmo2Config, n_frames: int) -> tuple[StageFlops, StageFlops]:
    """Forward FLOPs for one video and a question, without pruning and as configured."""
    backbone, pool = model.vision_backbone, model.mm_preprocessor.video.pooling_h
    text = QUESTION_TOKENS + TEXT_TOKENS_PER_FRAME * n_frames
    pruned = model_flops(backbone, model.llm, n_frames, text, pool=pool)
    if isinstance(backbone, TemporalVisionBackboneConfig):
        backbone = dataclasses.replace(backbone, vit=dataclasses.replace(backbone.vit, prune=False))
    return model_flops(backbone, model.llm, n_frames, text, pool=pool), pruned
