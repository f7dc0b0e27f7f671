"""Steps of a trainer and its whole state as plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict

from olmo.train.trainer import Trainer
from tests.train.rows import full, micro_batch


def take_step(trainer: Trainer, layout: list[list[list[int]]]) -> dict[str, float]:
    """One optimizer step on the rows of ``layout``."""
    micro = [micro_batch(rows) for rows in layout]
    trainer.config.device_train_microbatch_size = 1
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    trainer.config.global_train_batch_size = len(micro) * world
    return trainer.step(iter(micro))


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    """Whole parameters and optimizer state, by name, as copies."""
    model, optim = get_state_dict(trainer.model, trainer.optimizer)
    out: dict[str, Any] = {f"model.{k}": v for k, v in model.items()}
    for name, values in optim["state"].items():
        out |= {f"optim.{name}.{k}": v for k, v in values.items()}
    return {k: full(v).detach().clone() for k, v in out.items() if torch.is_tensor(v)}
