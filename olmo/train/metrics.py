"""Figures of one step, summed over micro-batches and ranks with a single all-reduce."""

from __future__ import annotations

import torch
from torch import Tensor

from olmo.distributed import all_reduce_sum
from olmo.models.molmo2.molmo2 import Molmo2Output
from olmo.train.loss import TokenLoss

SUMS = (
    "cross_entropy",
    "z_loss",
    "correct",
    "aux",
    "tokens",
    "frames",
    "prunable_videos",
    "pruned_fraction",
    "kept_tokens_per_frame",
    "vit_tokens_ratio",
    "scored",
)
"""Fixed names, the same on every rank and in every step."""


class StepSums:
    """Accumulates on the device; ``reduce`` is the only place that waits for it."""

    def __init__(self, device: torch.device):
        self.values = torch.zeros(len(SUMS), dtype=torch.float64, device=device)

    def add(
        self, loss: TokenLoss, aux: Tensor | None, out: Molmo2Output, num_images: Tensor
    ) -> None:
        """Add a micro-batch. ``aux`` is the weighted sum over its auxiliary terms."""
        stats = out.vision.stats if out.vision is not None else {}
        host = {
            "frames": float(num_images.clamp(min=0).sum()),
            "prunable_videos": stats.get("stts/prunable_videos", 0.0),
        }
        if stats.get("stts/prunable_videos"):
            host["scored"] = 1.0
            for name in ("pruned_fraction", "kept_tokens_per_frame", "vit_tokens_ratio"):
                host[name] = stats[f"stts/{name}"]
        device = {
            "cross_entropy": loss.cross_entropy,
            "z_loss": loss.z_loss,
            "correct": loss.correct,
            "tokens": out.valid.sum(),
        }
        if aux is not None:
            device["aux"] = aux
        self.values += torch.tensor([host.get(name, 0.0) for name in SUMS], dtype=torch.float64).to(
            self.values.device
        )
        for name, value in device.items():
            self.values[SUMS.index(name)] += value.detach().double()

    def reduce(self, weight: float, aux_terms: float) -> dict[str, float]:
        """Means over the global batch, by the name they are logged under."""
        total = dict(zip(SUMS, all_reduce_sum(self.values).tolist(), strict=True))
        metrics = {
            "train/CrossEntropyLoss": total["cross_entropy"] / weight,
            "train/ZLoss": total["z_loss"] / weight,
            "train/Accuracy": total["correct"] / weight,
            "batch/tokens": total["tokens"],
            "batch/frames": total["frames"],
            "batch/loss_weight": weight,
        }
        metrics["train/loss"] = metrics["train/CrossEntropyLoss"] + metrics["train/ZLoss"]
        if aux_terms:
            metrics["train/AuxLoss"] = total["aux"] / aux_terms
            metrics["train/loss"] += metrics["train/AuxLoss"]
        if total["scored"]:
            metrics["stts/prunable_videos"] = total["prunable_videos"]
            for name in ("pruned_fraction", "kept_tokens_per_frame", "vit_tokens_ratio"):
                metrics[f"stts/{name}"] = total[name] / total["scored"]
        return metrics
