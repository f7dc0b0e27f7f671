"""Tiny native checkpoints on disk, and batches that fit them.

The rows come from ``tests.models``; their visual ids are moved to a vocabulary that the tiny
tokenizer fits in, with eight fillers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from olmo.models.molmo2.molmo2 import Molmo2
from tests.models.conftest import OLMO3, VOCAB, Row, build, collate

N_TOKENS = 520
LARGER = {"llm": {"vocab_size": N_TOKENS, "tokenizer": {"identifier": "olmo/tiny"}}}
FORMS: dict[str, dict[str, Any]] = {"qwen3": {}, "olmo3": {"llm": OLMO3}}


def native_model(*changes: dict[str, Any]) -> Molmo2:
    return build(LARGER, *changes)


def save_native(model: Molmo2, folder: Path) -> Path:
    """``config.yaml`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model.config.to_dict()}))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def moved(ids: torch.Tensor) -> torch.Tensor:
    """Visual ids of ``tests.models`` to those of a model with ``N_TOKENS``."""
    return torch.where(ids >= VOCAB, ids - VOCAB + N_TOKENS, ids)


def batch_of(*rows: Row) -> Row:
    batch = collate(*rows)
    return batch | {"input_ids": moved(batch["input_ids"])}


def same_weights(a: Molmo2, b: Molmo2) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
