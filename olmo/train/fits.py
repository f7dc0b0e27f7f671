"""What can train on one GPU of a common size, and with which switches."""

from __future__ import annotations

from typing import Any

from olmo.config import merge
from olmo.text import format_table
from olmo.train.config import TrainConfig
from olmo.train.memory import GIB, RowShape, estimate_memory, most_rows
from olmo.train.optim import freeze

GPU_SIZES = (24, 48, 80)
USABLE = 0.92
"""Share of a GPU that ``estimate_memory`` speaks of."""


def _recomputed(on: bool) -> dict[str, Any]:
    return {
        "llm": {"activation_checkpoint": "whole_layer" if on else None},
        "vision_backbone": {
            "vit": {"activation_checkpointing": on},
            "connector_activation_checkpointing": on,
        },
    }


EIGHT = {"optimizer": {"bits": 8}}
FULL: dict[str, Any] = {
    **{"lora": None, "ft_llm": True, "ft_vit": True, "frozen_precision": "fp32"},
    **{"precision": "amp_bf16", "optimizer": {"bits": 32}, "model": _recomputed(True)},
}
LORA = {**FULL, "lora": {"rank": 16, "targets": "llm"}}
HALF = {**LORA, "frozen_precision": "bf16"}
FROZEN = {**HALF, "ft_vit": False}
SWITCHES: dict[str, dict[str, Any]] = {
    "nothing recomputed": {**FULL, "model": _recomputed(False)},
    "activation checkpointing": FULL,
    "  --optimizer.bits=8": {**FULL, **EIGHT},
    "  --lora.rank=16": LORA,
    "    --frozen_precision=bf16": HALF,
    "      --optimizer.bits=8": {**HALF, **EIGHT},
    "      --ft_vit=False": FROZEN,
    "        --optimizer.bits=8": {**FROZEN, **EIGHT},
}
"""Ways to train, as changes of a config. A line also has the switches that it stands under."""


def fits_table(config: TrainConfig, row: RowShape) -> str:
    """GiB of training with one row at a time, and the most rows that fit into each GPU ("-":
    none)."""
    model, table = config.model.build("meta"), []
    for words, changes in SWITCHES.items():
        way = TrainConfig.from_dict(
            merge(config.to_dict(), {**changes, "device_train_microbatch_size": 1})
        )
        freeze(model.requires_grad_(True), way.frozen)
        needed = estimate_memory(way, model, row, 1).total / GIB
        rows = [most_rows(way, model, row, 1, USABLE * size * GIB) or None for size in GPU_SIZES]
        table.append([words, f"{needed:.0f}", *rows])
    return format_table(["", "GiB", *(f"{size} GB" for size in GPU_SIZES)], table)
