"""Parameter groups, AdamW and the schedules of learning rates.

Groups: ``llm``, ``connector`` (with the embeddings of the visual tokens), ``vit`` and
``temporal_token_scorer``; each has its learning rate, warm-up, decay and gradient clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from olmo.config import Config
from olmo.train.adam8bit import adamw_8bit

GROUPS = ("llm", "connector", "vit", "temporal_token_scorer")
NOTHING = f"every parameter group is frozen by --ft_GROUP ({', '.join(GROUPS)}): nothing to train"

TrainedEmbedding = Literal["lm_head", "ln_f", "wte", "all"]
FROZEN_EMBEDDING: dict[TrainedEmbedding, tuple[str, ...]] = {
    "lm_head": ("transformer.wte.embedding",),
    "ln_f": ("transformer.wte.embedding", "transformer.ff_out."),
    "wte": ("transformer.ln_f.", "transformer.ff_out."),
    "all": (),
}
"""What does not train of word embeddings, final norm and head, as beginnings of names. A tied head
is the table of the embeddings."""

NO_DECAY = {
    *("wte", "ln_f", "pre_ln", "attn_norm", "ff_norm", "pre_attn_norm", "post_attn_norm"),
    *("pre_ff_norm", "post_ff_norm", "attention_norm", "ffn_norm"),
    *("positional_embedding", "class_embedding", "patch_embedding"),
}
"""Weight decay leaves a parameter alone if one of these is a component of its dotted name. It
takes all others, biases and q/k norms included, as the published training code does."""


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
    llm_betas: tuple[float, float] | None = None
    connector_betas: tuple[float, float] | None = None
    vit_betas: tuple[float, float] | None = None
    temporal_token_scorer_betas: tuple[float, float] | None = None
    llm_eps: float | None = None
    connector_eps: float | None = None
    vit_eps: float | None = None
    temporal_token_scorer_eps: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-6
    """``betas`` and ``eps`` of every group without its own."""
    bits: Literal[8, 32] = 32
    """Of a number in AdamW's two averages; 8 needs torchao and one process."""

    def __post_init__(self) -> None:
        def each(key: str) -> list[str]:
            return [name for name in vars(self) if name.endswith(key)]

        self.at_least(0, *each("learning_rate"), *each("weight_decay"))
        self.require("above 0, or null for the run's", lambda x: x > 0, *each("max_grad_norm"))
        self.in_range("[0, 1)", *each("betas"))
        self.in_range("(0, inf)", *each("eps"))
        self.require("8 or 32", lambda bits: bits in (8, 32), "bits")

    def of(self, group: str, key: str) -> Any:
        """The value of ``key`` in one group."""
        own = getattr(self, f"{group}_{key}")
        return getattr(self, key) if own is None else own

    def max_norms(self, default: float | None) -> dict[str, float | None]:
        """Clip by group; None is no clip."""
        own = {group: getattr(self, f"{group}_max_grad_norm") for group in GROUPS}
        return {group: default if norm is None else norm for group, norm in own.items()}


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda way: (1 + math.cos(math.pi * way)) / 2,
    "linear": lambda way: 1 - way,
    "constant": lambda way: 1.0,
}
"""By name: the share of ``1 - alpha_f`` that is left after a share ``way`` (0 to 1) of the steps
behind the warm-up."""


@dataclass
class SchedulerConfig(Config):
    """Linear warm-up from ``warmup_min_lr``, then down to ``alpha_f`` of the learning rate."""

    shape: str = "cosine"
    """The way down, a name of ``SCHEDULES``."""
    llm_t_warmup: int = 200
    connector_t_warmup: int = 200
    vit_t_warmup: int = 200
    temporal_token_scorer_t_warmup: int = 200
    alpha_f: float = 0.1
    warmup_min_lr: float | None = 0.0
    """None: a tenth of each group's learning rate."""
    t_max: int | None = None
    """Step at which the way down ends; None: ``max_duration``."""

    def __post_init__(self) -> None:
        if self.shape not in SCHEDULES:
            raise ValueError(f"shape {self.shape!r} is not one of {', '.join(SCHEDULES)}")
        self.at_least(0, *(key for key in vars(self) if key not in ("shape", "t_max")))
        self.at_least(1, "t_max")


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


def group_sizes(model: nn.Module) -> dict[str, int]:
    """Numbers that train in each of ``named_groups``."""
    return {g: sum(p.numel() for p in ps.values()) for g, ps in named_groups(model).items()}


def freeze(model: nn.Module, frozen: Collection[str]) -> None:
    """Take out of training whole groups, and parameters whose names begin so."""
    for name, param in model.named_parameters():
        if group_of(name) in frozen or name.startswith(tuple(frozen)):
            param.requires_grad_(False)


def decays(name: str, param: Tensor) -> bool:
    """Whether weight decay takes a parameter; of the scorer it takes the matrices."""
    if group_of(name) == "temporal_token_scorer":
        return param.ndim >= 2
    return NO_DECAY.isdisjoint(name.split("."))


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW with a parameter group per name, or two where there is decay: those that decay first.
    On a GPU it is the fused one, which needs no temporary copies of a group."""
    param_groups: list[dict[str, Any]] = []
    for group, params in named_groups(model).items():
        rate, decay = (config.of(group, key) for key in ("learning_rate", "weight_decay"))
        settings = {
            **{"group_name": group, "lr": rate, "peak_lr": rate},
            **{key: config.of(group, key) for key in ("betas", "eps")},
        }
        for takes in (True, False):
            chosen = [p for n, p in params.items() if (decay > 0 and decays(n, p)) == takes]
            if chosen:
                param_groups.append(
                    {"params": chosen, "weight_decay": decay if takes else 0.0, **settings}
                )
    if not param_groups:
        raise ValueError(NOTHING)
    if config.bits == 8:
        return adamw_8bit(param_groups)
    on_gpu = all(p.is_cuda for group in param_groups for p in group["params"])
    return torch.optim.AdamW(param_groups, fused=True if on_gpu else None)


def learning_rate(
    step: int, peak: float, warmup: int, total: int, config: SchedulerConfig
) -> float:
    """Learning rate of ``step`` (1 at the first update) out of ``total``."""
    floor = config.alpha_f * peak
    if step < warmup:
        first = 0.1 * peak if config.warmup_min_lr is None else config.warmup_min_lr
        return first + (peak - first) * step / warmup
    way = 1.0 if step >= total else (step - warmup) / (total - warmup)
    return floor + (peak - floor) * SCHEDULES[config.shape](way)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, step: int, total: int, config: SchedulerConfig
) -> dict[str, float]:
    """Set every group's learning rate for ``step`` and return them by group name."""
    rates = {}
    for group in optimizer.param_groups:
        name, end = group["group_name"], config.t_max or total
        warmup = getattr(config, f"{name}_t_warmup")
        group["lr"] = rates[name] = learning_rate(step, group["peak_lr"], warmup, end, config)
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
