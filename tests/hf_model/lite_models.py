"""Tiny random models in native and in Hugging Face form, with the same weights."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from torch import Tensor

pytest.importorskip("transformers.models.molmo2")

from transformers import Cache, GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from olmo.hf_model.lite import Molmo2LiteConfig, Molmo2LiteForConditionalGeneration
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from tests.models.conftest import (
    OLMO3,
    PRUNING,
    Row,
    build,
    collate,
    image_row,
    text_row,
    video_row,
)

STOP = 7
UNTIED: dict[str, Any] = {"llm": {"weight_tying": False}}
OLMO: dict[str, Any] = {"llm": OLMO3}
CACHE_NAME = fields(CausalLMOutputWithPast)[2].name
"""``cache``, or ``past_key_values`` before transformers 5.24."""


def pair(
    *changes: dict[str, Any], **vit: Any
) -> tuple[TemporalVideoOlmo, Molmo2LiteForConditionalGeneration]:
    """A native model and its Hugging Face form."""
    native = build(PRUNING, {"vision_backbone": {"vit": vit}}, *changes)
    assert isinstance(native, TemporalVideoOlmo)
    model = Molmo2LiteForConditionalGeneration(Molmo2LiteConfig.from_native(native.config))
    model.model.load_state_dict(native.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=STOP, pad_token_id=0)
    return native, model.eval()


def mixed_batch() -> Row:
    """Rows of different lengths and kinds, padded on the right with -1: the longest before
    pruning is not the longest after it."""
    return collate(text_row(75, 1), video_row(6, 2), image_row(3), video_row(1, 4), video_row(3, 5))


def left_padded(batch: Row, pad_id: int = 0) -> dict[str, Tensor]:
    """The same batch as transformers wants it."""
    ids = batch["input_ids"]
    width = ids.shape[1]
    moved, mask = ids.new_full(ids.shape, pad_id), ids.new_zeros(ids.shape)
    for row, n in enumerate((ids >= 0).sum(1).tolist()):
        moved[row, width - n :] = ids[row, :n]
        mask[row, width - n :] = 1
    return {**batch, "input_ids": moved, "attention_mask": mask}


def cache_of(output: Any) -> Cache:
    """The key-value cache that an output of transformers carries."""
    cache = output[CACHE_NAME]
    assert isinstance(cache, Cache)
    return cache
