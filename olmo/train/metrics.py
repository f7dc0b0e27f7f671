"""Figures of one step, summed over micro-batches and ranks with a single all-reduce."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from olmo.distributed import all_reduce_sum
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Output
from olmo.nn.temporal_vision_backbone import TemporalVisionBackbone
from olmo.nn.transfer import upload
from olmo.train.loss import TokenLoss

ON_DEVICE = (
    *("cross_entropy", "z_loss", "correct", "aux", "tokens"),
    *("score", "score_squared", "change"),
)
ON_HOST = ("frames", "flops", "prunable_videos", "vit_rows", "scores")
"""Where a sum is known. Fixed names, the same on every rank and in every step."""

KEPT_HISTOGRAM = "stts/kept_tokens_per_frame_histogram"


class StepSums:
    """Accumulates on the device what is known there, on the host the rest.

    ``reduce`` is the only place that waits for the device. ``host["flops"]`` is for the caller.
    """

    def __init__(self, model: Molmo2, device: torch.device):
        backbone = model.vision_backbone
        self.backbone: TemporalVisionBackbone | None = None
        if isinstance(backbone, TemporalVisionBackbone) and backbone.config.vit.prune:
            self.backbone = backbone
        n_bins = 0 if self.backbone is None else self.backbone.image_vit.n_cells + 1
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self.device = dict.fromkeys(ON_DEVICE, zero)
        self.bins = torch.zeros(n_bins, dtype=torch.float64, device=device)
        self.host = dict.fromkeys(ON_HOST, 0.0)

    def add(
        self,
        loss: TokenLoss,
        aux: Tensor | None,
        out: Molmo2Output,
        batch: dict[str, Tensor],
    ) -> None:
        """Add a micro-batch. ``aux`` is the weighted sum over its auxiliary terms."""
        stats = out.vision.stats if out.vision is not None else {}
        frames = float(batch["num_images"].clamp(min=0).sum())
        self.host["frames"] += frames
        self.host["prunable_videos"] += stats.get("stts/prunable_videos", 0.0)
        self.host["vit_rows"] += frames * stats.get("stts/vit_tokens_ratio", 1.0)
        found = {**vars(loss), "tokens": out.valid.sum()}
        self._add(found if aux is None else {**found, "aux": aux})
        if self.backbone is not None and stats.get("stts/prunable_videos"):
            self._add_pruning(self.backbone, out, batch)

    def _add(self, found: dict[str, Tensor]) -> None:
        for name, value in found.items():
            self.device[name] = self.device[name] + value.detach().double()

    def _add_pruning(
        self, backbone: TemporalVisionBackbone, out: Molmo2Output, batch: dict[str, Tensor]
    ) -> None:
        """Kept cells of every frame of a pruned video, and the scores of those that compete."""
        vision, pooling = out.vision, batch["token_pooling"]
        assert vision is not None
        n_slots, n_patches = batch["images"].shape[1:3]
        table = backbone.batch_frames(batch)
        places = table.slots[table.prunable]
        slots = upload(places, pooling.device)
        row = torch.arange(len(pooling), device=pooling.device)[:, None]
        frame = row * n_slots + pooling.amax(-1).clamp(min=0) // n_patches
        kept = vision.keep.new_zeros(len(pooling) * n_slots, dtype=torch.int64)
        kept = kept.index_add(0, frame.flatten(), vision.keep.flatten().to(torch.int64))
        self.bins.index_add_(0, kept[slots], self.bins.new_ones(len(slots)))
        if vision.scores is not None:
            compared = upload(places[table.has_previous], pooling.device)
            scores = vision.scores.detach()[compared].double()
            self._add({"score": scores.sum(), "score_squared": scores.square().sum()})
            self.host["scores"] += scores.numel()
        if vision.change is not None:
            self._add({"change": vision.change})

    def reduce(
        self, weight: float, aux_terms: float
    ) -> tuple[dict[str, float], dict[str, list[int]]]:
        """Means over the global batch and histograms, by the name they are logged under."""
        known = torch.tensor(list(self.host.values()), dtype=torch.float64)
        found = torch.stack(list(self.device.values()))
        sums = torch.cat((found, upload(known, found.device), self.bins))
        values = all_reduce_sum(sums).tolist()
        total = dict(zip((*ON_DEVICE, *ON_HOST), values, strict=False))
        metrics = {
            "train/CrossEntropyLoss": total["cross_entropy"] / weight,
            "train/ZLoss": total["z_loss"] / weight,
            "train/Accuracy": total["correct"] / weight,
            "batch/tokens": total["tokens"],
            "batch/frames": total["frames"],
            "batch/loss_weight": weight,
            "throughput/flops": total["flops"],
        }
        metrics["train/loss"] = metrics["train/CrossEntropyLoss"] + metrics["train/ZLoss"]
        if aux_terms:
            metrics["train/AuxLoss"] = metrics["stts/aux_loss"] = total["aux"] / aux_terms
            metrics["train/loss"] += metrics["train/AuxLoss"]
            metrics["stts/change_mean"] = total["change"] / aux_terms
        if not total["prunable_videos"]:
            return metrics, {}
        histogram = [int(count) for count in values[len(total) :]]
        return metrics | _pruning_metrics(total, histogram), {KEPT_HISTOGRAM: histogram}


def _pruning_metrics(total: dict[str, float], histogram: list[int]) -> dict[str, float]:
    """``histogram[k]`` frames of pruned videos keep k cells."""
    n_frames, n_cells = sum(histogram), len(histogram) - 1
    kept = sum(k * count for k, count in enumerate(histogram)) / n_frames
    metrics = {
        "stts/prunable_videos": total["prunable_videos"],
        "stts/pruned_fraction": 1 - kept / n_cells,
        "stts/kept_tokens_per_frame": kept,
        "stts/vit_rows_before": total["frames"],
        "stts/vit_rows": total["vit_rows"],
        "stts/vit_tokens_ratio": total["vit_rows"] / total["frames"],
    }
    if n := total["scores"]:
        mean = total["score"] / n
        metrics["stts/score_mean"] = mean
        metrics["stts/score_std"] = math.sqrt(max(total["score_squared"] / n - mean * mean, 0.0))
    return metrics
