"""A checkpoint's model for evaluation: whole on every rank, or sharded over all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olmo.eval.answer import Answerer
from olmo.eval.settings import evaluation_overrides
from olmo.models.loading import load_model, load_model_config, load_weights, select_checkpoint
from olmo.models.parallel import build_mesh, shard

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2


def load_for_evaluation(
    checkpoint: Path,
    overrides: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    sharded: bool = False,
) -> Molmo2:
    """The model in evaluation mode, its weights in ``dtype``.

    ``sharded`` spreads the weights with FSDP and needs a process group (``ValueError``).
    """
    if not sharded:
        return load_model(checkpoint, overrides or None, device, dtype)[0]
    if not torch.distributed.is_initialized():
        raise ValueError("fsdp shards the model over several processes: start with torchrun")
    model = load_model_config(checkpoint, overrides or None).build("meta").to(dtype)
    shard(model, build_mesh(device.type), "float", None)
    model.to_empty(device=device)
    load_weights(model, checkpoint)
    return model.eval()


def load_answerer(
    checkpoint: str | Path,
    overrides: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Answerer:
    """Load a checkpoint with ``overrides`` of its model config; weights in ``dtype`` (None: bf16
    on a GPU, else float32)."""
    device, folder = torch.device(device), select_checkpoint(checkpoint)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    over = evaluation_overrides(folder, overrides or {})
    model = load_for_evaluation(folder, over, device, dtype)
    return Answerer(lambda: model, model.config, device)
