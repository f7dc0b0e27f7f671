"""Low-rank adapters in a model that trains: put in, and given their first values."""

from __future__ import annotations

import torch
from torch import nn

from olmo.command_line import RunError
from olmo.models.lora import LAYERS, A, B, LoraConfig
from olmo.models.weights import assign_whole
from olmo.train.config import TrainConfig
from olmo.train.optim import freeze


def choose_trained(model: nn.Module, config: TrainConfig) -> None:
    """Freeze what the config says, and add its adapters. Comes before wrapping and sharding.

    ``ValueError`` if frozen parameters would be in bf16 but products in float32.
    """
    freeze(model, config.frozen)
    if config.lora is not None:
        add_adapters(model, config.lora)
    if config.frozen_precision == "bf16":
        if config.precision == "fp32":
            raise ValueError("frozen_precision=bf16 needs precision=amp_bf16, not fp32")
        for param in model.parameters():
            if not param.requires_grad:
                param.data = param.data.to(torch.bfloat16)


def add_adapters(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters into the targets of ``model`` (on the meta device too), before it is wrapped,
    compiled or sharded. What trains otherwise stays as it is. ``RunError`` without peft."""
    try:
        import peft  # imported late: slow, and an extra
    except ImportError as e:
        raise RunError("lora needs a package that is not installed: pip install peft") from e
    trains = [p for p in model.parameters() if p.requires_grad]
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.scale * config.rank,
        lora_dropout=config.dropout,
        target_modules="|".join(f"({LAYERS[group]})" for group in config.groups),
    )
    peft.inject_adapter_in_model(settings, model)  # freezes everything but the adapters
    for param in trains:
        param.requires_grad_(True)


@torch.no_grad()
def reset_adapters(model: nn.Module, seed: int) -> None:
    """Adapters that change nothing yet: A random, B zero. The same on any number of ranks: each is
    drawn whole, then copied into shards."""
    generator = torch.Generator().manual_seed(seed)
    for name, param in sorted(model.named_parameters()):
        if name.endswith(A):
            bound = param.shape[1] ** -0.5
            values = torch.empty(param.shape).uniform_(-bound, bound, generator=generator)
            assign_whole(param, values)
        elif name.endswith(B):
            param.zero_()
