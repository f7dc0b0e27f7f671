"""A global batch in several layouts, a trainer around a tiny model, and its gradients."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from olmo.config import merge
from olmo.data.loader import MicroBatch
from olmo.models.loading import load_model_config, load_weights, merged_model_config
from olmo.models.registry import model_config_from_dict
from olmo.train.checkpoint import TrainerState, save_unsharded
from olmo.train.config import TrainConfig
from olmo.train.lora import reset_adapters
from olmo.train.optim import build_optimizer
from olmo.train.run import build_model
from olmo.train.trainer import Trainer
from olmo.types import SUBSEGMENTS_PER_EXAMPLE
from tests.models.conftest import (
    FIXTURES,
    OLMO3,
    PATCH,
    PRUNING,
    VOCAB,
    Row,
    collate,
    config_dict,
    image_row,
    text_row,
    video_row,
)
from tests.nn.conftest import randomise

SHALLOW = {"vision_backbone": {"vit": {"image_num_layers": 3}, "vit_layers": [-1, -2]}}
"""Few tensors: a checkpoint of them is written and read sooner."""
KINDS: dict[str, dict[str, Any]] = {
    "dense": SHALLOW,
    "stts": merge(SHALLOW, PRUNING),
    "untied": {**SHALLOW, "llm": OLMO3},
}
EXAMPLES = (video_row(3, 0), text_row(12, 1), image_row(2), video_row(5, 3), video_row(2, 4))
LORA: dict[str, Any] = {}
if find_spec("peft"):
    rates = {f"{group}_learning_rate": 1e-2 for group in ("llm", "vit", "connector")}
    LORA = {"lora": {"rank": 4, "targets": "llm,vit"}, "optimizer": rates}
INPUTS = (
    *("input_ids", "position_ids", "subsegment_ids"),
    *("images", "token_pooling", "num_images", "multimodal_type"),
)
"""Of the model, without labels."""
LAYOUTS: dict[str, list[list[list[int]]]] = {
    "one": [[[0], [1], [2], [3, 4]]],
    "accumulated": [[[0]], [[1]], [[2]], [[3, 4]]],
    "packed": [[[0, 1], [2, 3, 4]]],
    "all in one row": [[[0, 1, 2, 3, 4]]],
}
"""Micro-batches of rows of packed examples, as one process takes them."""
TWO_RANKS: dict[str, list[list[list[list[int]]]]] = {
    "no video on rank 1": [[[[0], [3, 4]]], [[[1], [2]]]],
    "only text on rank 1": [[[[0], [3, 4]], [[2]]], [[[1]], [[1]]]],
    "accumulated": [[[[0]], [[2]]], [[[1]], [[3, 4]]]],
    "packed": [[[[0, 1]]], [[[4, 2, 3]]]],
}
"""The same by rank. ``only text on rank 1`` holds example 1 twice: it has its own reference."""
TWICE = [[[0], [1], [2], [3, 4]], [[1]]]
FOUR_RANKS: list[list[list[list[int]]]] = [
    [[[0]], [[1]]],
    [[[1]], [[2]]],
    [[[2, 0]], [[1]]],
    [[[1]], [[3, 1, 4]]],
]
"""Two micro-batches each. Rank 1 has no video, rank 2 an image and a video in one row, rank 3
several videos around a text."""


def packed(numbers: list[int]) -> Row:
    """The examples side by side in one row of their own, with labels and uneven loss weights."""
    rows = [EXAMPLES[i] for i in numbers]
    used = [0]
    for row in rows:
        used.append(used[-1] + len(row.get("images", ())) * 81)
    lengths = [len(r["input_ids"]) for r in rows]
    out = {"input_ids": torch.cat([r["input_ids"] for r in rows])}
    out["position_ids"] = torch.cat([torch.arange(n) for n in lengths])
    numbered = torch.arange(len(rows)) * SUBSEGMENTS_PER_EXAMPLE
    out["subsegment_ids"] = numbered.repeat_interleave(torch.tensor(lengths))
    visual = [(r, start) for r, start in zip(rows, used, strict=False) if "images" in r]
    if visual:
        for key in ("images", "num_images", "multimodal_type"):
            out[key] = torch.cat([r[key] for r, _ in visual])
        pools = [(r["token_pooling"], start) for r, start in visual]
        out["token_pooling"] = torch.cat([torch.where(p >= 0, p + s, -1) for p, s in pools])
    losses = [_labels(EXAMPLES[i], i) for i in numbers]
    out["labels"] = torch.cat([labels for labels, _ in losses])
    out["loss_masks"] = torch.cat([weights for _, weights in losses])
    return out


def _labels(row: Row, seed: int) -> tuple[Tensor, Tensor]:
    """Labels and weights of the last tokens of one example; visual tokens have no loss."""
    ids, generator = row["input_ids"], torch.Generator().manual_seed(100 + seed)
    labels = torch.randint(1, VOCAB, ids.shape, generator=generator)
    weights = torch.rand(ids.shape, generator=generator) + 0.1
    weights[: -3 - seed % 2] = 0.0
    assert not ((ids == PATCH) & (weights > 0)).any()
    return labels, weights


def micro_batch(rows: list[list[int]]) -> MicroBatch:
    """Collated rows; one without any frame gets an empty one, as the collator does it."""
    made = [packed(numbers) for numbers in rows]
    batch = collate(*made)
    for key in ("position_ids", "subsegment_ids", "labels", "loss_masks"):
        size = batch["input_ids"].shape[1]
        fill = 0 if key == "loss_masks" else -1
        padded = [
            torch.nn.functional.pad(r[key], (0, size - len(r[key])), value=fill) for r in made
        ]
        batch[key] = torch.stack(padded)
    n = len(rows)
    batch.setdefault("images", torch.zeros(n, 1, 81, 12, dtype=torch.uint8))
    batch.setdefault("token_pooling", torch.full((n, 1, 9), -1))
    for key in ("num_images", "multimodal_type"):
        batch.setdefault(key, torch.full((n, 1), -1))
    names = [f"example {i}" for numbers in rows for i in numbers]
    return MicroBatch(batch, {}, [], names)


def train_config(kind: str, folder: Path, **changes: Any) -> TrainConfig:
    data = {
        "model": config_dict(KINDS[kind], changes.pop("model", {})),
        "save_folder": str(folder),
        "precision": "fp32",
        "ft_embedding": "all",
        "train": {"loss_chunk": 3},
        "max_grad_norm": None,
        "save_num_checkpoints_to_keep": -1,
    }
    return TrainConfig.from_dict(merge(data, changes))


def write_start(kind: str, folder: Path) -> None:
    """A checkpoint with large random weights, the same for the same parameter names."""
    model = model_config_from_dict(config_dict(KINDS[kind])).build()
    randomise(model)
    save_unsharded(model, train_config(kind, folder), folder)


def make_trainer(config: TrainConfig, start: Path, device: str = "cpu") -> Trainer:
    """A trainer without a loader: tests give it micro-batches themselves."""
    place = torch.device(device)
    model = build_model(config, place)
    load_weights(model, start, scorer_seed=0)
    reset_adapters(model, config.seed)
    optimizer = build_optimizer(model, config.optimizer)
    loader: DataLoader[MicroBatch] = DataLoader([], batch_size=None)  # type: ignore[arg-type]
    trainer = Trainer(config, model, optimizer, loader, place, TrainerState())
    trainer.model.train()
    return trainer


def upstream_trainer(folder: Path) -> Trainer:
    """A run with pruning that starts from a dense checkpoint in the published layout."""
    start = FIXTURES / "molmo2_tiny_dcp" / "step10"
    vit = {"prune_at": 0}
    over = {"model_name": "temporal_video_olmo", "vision_backbone": {"vit": vit}}
    config = train_config("dense", folder)
    config.model = merged_model_config(load_model_config(start).to_dict(), over)
    return make_trainer(config, start)


def full(x: Tensor) -> Tensor:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gradients(
    trainer: Trainer, layout: list[list[list[int]]], llm: bool = True
) -> dict[str, Tensor]:
    """Whole gradients by parameter name; ``llm=False`` leaves the auxiliary loss alone."""
    import dataclasses

    micro = [micro_batch(rows) for rows in layout]
    agreed = trainer._agree(micro)
    if not llm:
        agreed = dataclasses.replace(agreed, weight=float("inf"))
    trainer.accumulate(micro, agreed)
    return {
        name.replace("_checkpoint_wrapped_module.", ""): full(p.grad).detach().clone()
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }
