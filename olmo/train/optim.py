"""Parameter groups, AdamW and the cosine schedule.

Groups: ``llm``, ``connector`` (with the embeddings of the visual tokens), ``vit`` and
``temporal_token_scorer``; each has its learning rate, warm-up, decay and gradient clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from olmo.config import Config

GROUPS = ("llm", "connector", "vit", "temporal_token_scorer")


@dataclass
class OptimizerConfig(Config):
    """AdamW. The learning rates are those of the STTS fine-tuning recipe."""

    llm_learning_rate: float = 1e-5
    connector_learning_rate: float = 5e-6
    vit_learning_rate: float = 5e-6
    temporal_token_scorer_learning_rate: float = 1e-4
    llm_weight_decay: float = 0.0
    connector_weight_decay: float = 0.0
    vit_weight_decay: float = 0.0
    temporal_token_scorer_weight_decay: float = 0.0
    llm_max_grad_norm: float | None = None
    connector_max_grad_norm: float | None = None
    vit_max_grad_norm: float | None = None
    temporal_token_scorer_max_grad_norm: float | None = None
    """Clip of one group; None: the run's ``max_grad_norm``."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-6

    def max_norms(self, default: float | None) -> dict[str, float | None]:
        """Clip by group; None is no clip."""
        own = {group: getattr(self, f"{group}_max_grad_norm") for group in GROUPS}
        return {group: default if norm is None else norm for group, norm in own.items()}


@dataclass
class SchedulerConfig(Config):
    """Linear warm-up from ``warmup_min_lr``, then cosine to ``alpha_f`` of the learning rate."""

    llm_t_warmup: int = 200
    connector_t_warmup: int = 200
    vit_t_warmup: int = 200
    temporal_token_scorer_t_warmup: int = 200
    alpha_f: float = 0.1
    warmup_min_lr: float = 0.0


def group_of(name: str) -> str:
    """Group of a parameter by its state-dict name."""
    if ".temporal_token_scorer." in name:
        return "temporal_token_scorer"
    if name.startswith("vision_backbone.image_vit."):
        return "vit"
    if name.startswith("vision_backbone.") or name.endswith("wte.new_embedding"):
        return "connector"
    return "llm"


def named_groups(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Trainable parameters by group, sorted by name; empty groups are left out."""
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for name, param in sorted(model.named_parameters()):
        if param.requires_grad:
            name = name.replace("_checkpoint_wrapped_module.", "")
            groups[group_of(name)][name] = param
    return {group: params for group, params in groups.items() if params}


def freeze(model: nn.Module, groups: list[str]) -> None:
    """Take whole groups out of training."""
    for name, param in model.named_parameters():
        if group_of(name) in groups:
            param.requires_grad_(False)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with one parameter group per name; only matrices decay. On a GPU it is the fused one,
    which needs no temporary copies of a group."""
    param_groups: list[dict[str, Any]] = []
    for group, params in named_groups(model).items():
        lr = getattr(config, f"{group}_learning_rate")
        decay = getattr(config, f"{group}_weight_decay")
        matrices = [p for p in params.values() if p.ndim >= 2]
        vectors = [p for p in params.values() if p.ndim < 2]
        split = (
            [(list(params.values()), 0.0)] if decay == 0 else [(matrices, decay), (vectors, 0.0)]
        )
        for members, weight_decay in split:
            if members:
                param_groups.append(
                    {
                        "params": members,
                        "lr": lr,
                        "weight_decay": weight_decay,
                        "group_name": group,
                        "peak_lr": lr,
                    }
                )
    if not param_groups:
        raise ValueError("every parameter group is frozen: nothing to train")
    on_gpu = all(p.is_cuda for group in param_groups for p in group["params"])
    return torch.optim.AdamW(
        param_groups, betas=config.betas, eps=config.eps, fused=True if on_gpu else None
    )


def cosine_lr(step: int, peak: float, warmup: int, total: int, config: SchedulerConfig) -> float:
    """Learning rate of ``step`` (1 at the first update) out of ``total``."""
    floor = config.alpha_f * peak
    if step < warmup:
        return config.warmup_min_lr + (peak - config.warmup_min_lr) * step / warmup
    if step >= total:
        return floor
    progress = (step - warmup) / (total - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rates(
    optimizer: torch.optim.Optimizer, step: int, total: int, config: SchedulerConfig
) -> dict[str, float]:
    """Set every group's learning rate for ``step`` and return them by group name."""
    rates = {}
    for group in optimizer.param_groups:
        name = group["group_name"]
        warmup = getattr(config, f"{name}_t_warmup")
        group["lr"] = rates[name] = cosine_lr(step, group["peak_lr"], warmup, total, config)
    return rates


def clip_gradients(
    groups: dict[str, dict[str, Tensor]], max_norms: Mapping[str, float | None]
) -> dict[str, float]:
    """Scale each group's gradients to at most its norm and return the norms before.

    Gradients whose norm is not finite stay as they are. Waits for the device once, at the end.
    """
    norms: dict[str, Tensor] = {}
    for group, params in groups.items():
        grads = [p.grad for p in params.values() if p.grad is not None]
        if not grads:
            continue
        norm = torch.nn.utils.get_total_norm(grads)
        if isinstance(norm, torch.distributed.tensor.DTensor):
            norm = norm.full_tensor()
        norms[group] = norm
        max_norm = max_norms.get(group)
        if max_norm is not None:
            limited = norm.where(norm.isfinite(), 0.0)  # of norm 0, they are scaled by 1
            torch.nn.utils.clip_grads_with_norm_(params.values(), max_norm, limited)
    read = torch.stack(list(norms.values())).tolist() if norms else []
    return dict.fromkeys(groups, 0.0) | dict(zip(norms, read, strict=True))
