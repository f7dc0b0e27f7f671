"""What a run would do: resolved config, parameters, tokens, FLOPs, memory and hours.

Needs no GPU and no data: the model lives on the meta device, the rest follows from the config.
"""

from __future__ import annotations

import torch

from olmo.config import to_yaml
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
from olmo.nn.attention import kernel_table
from olmo.nn.flops import PEAK_FLOPS, TRAINING, StageFlops, model_flops
from olmo.train.config import TrainConfig
from olmo.train.fits import fits_table
from olmo.train.lora import choose_trained
from olmo.train.memory import GIB, RowShape, estimate_memory
from olmo.train.optim import NOTHING, group_sizes
from olmo.train.throughput import dense_backbone

TEXT_TOKENS_PER_FRAME = 8
"""Time stamp and frame tokens, roughly."""
QUESTION_TOKENS = 64
GPU, MFU = "H100", 0.35
"""What the hours are worked out for."""
N_GPUS = 8
"""Without torchrun to say how many there are."""


def describe_run(config: TrainConfig, n_gpus: int = N_GPUS) -> str:
    """The report of ``--dry_run`` for ``n_gpus`` processes. ``ValueError`` if nothing trains."""
    if not config.trained:
        raise ValueError(NOTHING)
    model = config.model.build("meta")
    choose_trained(model, config)
    kernels = kernel_table(torch.device("cuda"), torch.bfloat16)
    return "\n".join(
        [
            to_yaml(config.to_dict()),
            *_parameter_report(model),
            *_video_report(config.model),
            *_run_report(config, model, n_gpus),
            "One GPU: memory with one row at a time, and the most rows that fit (-: none)",
            fits_table(config, full_row(config)[1]),
            "Attention kernels on a GPU, in bfloat16",
            *(f"  {case:28s}{name}" for case, name in kernels),
        ]
    )


def _parameter_report(model: Molmo2) -> list[str]:
    sizes = group_sizes(model)
    total = sum(p.numel() for p in model.parameters())
    sizes |= {"frozen": total - sum(sizes.values()), "total": total}
    return ["Trainable parameters", *(f"  {name:24s}{n:>16,}" for name, n in sizes.items())]


def _video_report(model: Molmo2Config) -> list[str]:
    n_frames = model.mm_preprocessor.video.max_frames
    total, kept = model.budget.total(n_frames), model.budget.kept(n_frames)
    dense, pruned = video_flops(model, n_frames)
    stages = {
        name: [TRAINING * getattr(flops, name) for flops in (dense, pruned)]
        for name in ("vit", "scorer", "connector", "llm", "total")
    }
    return [
        f"A video of {n_frames} frames",
        f"  visual tokens before pruning {total}, after {kept} ({kept / total:.0%})",
        f"FLOPs of training on one such video and a question of {QUESTION_TOKENS} tokens "
        f"({TRAINING} times the forward pass)",
        f"  {'stage':12s}{'dense':>12s}{'pruned':>12s}",
        *(f"  {name:12s}{a:>12.3e}{b:>12.3e}" for name, (a, b) in stages.items()),
        f"  predicted speed-up {dense.total / pruned.total:.2f}x: the ceiling of the speed-up by "
        "FLOPs",
    ]


def _run_report(config: TrainConfig, model: Molmo2, n_gpus: int) -> list[str]:
    """A whole run in which every video has ``max_frames`` frames and rows are full."""
    n_frames = config.model.mm_preprocessor.video.max_frames
    videos, row = full_row(config)
    steps, rows = config.max_duration, config.global_train_batch_size
    flops = TRAINING * rows * videos * video_flops(config.model, n_frames)[1].total
    hours = steps * flops / (n_gpus * PEAK_FLOPS[GPU] * MFU) / 3600
    memory = estimate_memory(config, model, row, n_gpus)
    parts = [f"{name} {size / GIB:.1f}" for name, size in vars(memory).items()]
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
    kept = config.model.budget.kept(n_frames)
    length = kept + _text_tokens(n_frames)
    videos = 1.0
    if config.data.packing is not None and config.data.sequence_length is not None:
        videos = max(config.data.sequence_length / length, 1.0)
    return videos, RowShape(videos * n_frames, videos * kept, videos * length)


def video_flops(model: Molmo2Config, n_frames: int) -> tuple[StageFlops, StageFlops]:
    """Forward FLOPs for one video and a question, without pruning and as configured."""
    pool, text = model.mm_preprocessor.video.pooling_h, _text_tokens(n_frames)
    dense, pruned = (
        model_flops(backbone, model.llm, n_frames, text, pool=pool)
        for backbone in (dense_backbone(model.vision_backbone), model.vision_backbone)
    )
    return dense, pruned


def _text_tokens(n_frames: int) -> int:
    return QUESTION_TOKENS + TEXT_TOKENS_PER_FRAME * n_frames
