"""``load_model``: any checkpoint folder of this model family, ready for questions.

A native checkpoint or run folder, or a Hugging Face folder, dense or with STTS.
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

import torch
from transformers import GenerationConfig

from olmo.config import ConfigError, merge
from olmo.device import choose_device
from olmo.hf_model.lite import (
    Molmo2LiteConfig,
    Molmo2LiteForConditionalGeneration,
    Molmo2LiteProcessor,
)
from olmo.hf_model.lite_config import source_path
from olmo.models.json_files import read_json
from olmo.models.loading import (
    check_weights,
    load_model_config,
    model_section,
    select_checkpoint,
)
from olmo.models.pruning_choice import resolve_pruning
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
from olmo.nn.ranges import MOST_ROWS
from olmo.outside import foreign

GENERATION_FILE = "generation_config.json"
Loaded = tuple[Molmo2LiteForConditionalGeneration, Molmo2LiteProcessor]


def load_model(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **pruning: Any,
) -> Loaded:
    """Model and processor of a checkpoint folder, in evaluation mode.

    Args:
        path: native checkpoint, run folder (its newest checkpoint), or Hugging Face folder.
        overrides: laid over the native model config, nested as in ``config.yaml``.
        device: default the GPU if there is one.
        dtype: default bfloat16 on a GPU, float32 elsewhere.
        pruning: fields of ``TemporalVitConfig``, such as ``topk=0.3`` or ``prune_method="easy"``.

    A dense checkpoint stays dense until a ``topk`` is given, here or with a question; then it
    prunes without a scorer, by ``prune_method="evs"`` unless another is named here (the rule:
    ``olmo.models.pruning_choice``).

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, one that does not fit its config, or no
            such device.
    """
    folder = select_checkpoint(source_path(path))
    device = choose_device(device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a type such as torch.bfloat16, got {dtype!r}")
    if not isinstance(overrides, (dict, NoneType)):
        raise ValueError(f"overrides: expected nested dicts, got {overrides!r}")
    overrides = merge(overrides or {}, {"vision_backbone": {"vit": pruning}} if pruning else {})
    stored = model_section(folder)
    overrides = resolve_pruning(stored, overrides, folder, waiting=True)
    config = load_model_config(folder, overrides, stored)
    assert isinstance(config, TemporalVideoOlmoConfig)
    with torch.device("meta"):
        model = Molmo2LiteForConditionalGeneration(Molmo2LiteConfig.from_native(config))
    weights = check_weights(model.model, folder)
    model = model.to(dtype).to_empty(device=device)
    weights.copy_into(model.model.state_dict())
    processor = Molmo2LiteProcessor.from_native(config)
    model.generation_config = generation_config(folder, processor)
    model.processor = processor
    return model.eval(), processor


def generation_config(folder: Path, processor: Molmo2LiteProcessor) -> GenerationConfig:
    """The folder's own, else greedy until the tokenizer's EOS. ``ConfigError`` for a damaged one,
    or ids that no token has."""
    file = folder / GENERATION_FILE
    if file.is_file():
        own = read_json(file)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = own.get(key)
            ids = value if isinstance(value, list) else [value]
            if not all(i is None or (type(i) is int and 0 <= i < MOST_ROWS) for i in ids):
                raise ConfigError(f"{file}: {key} is {value!r}, not the id of a token")
        with foreign(lambda reason: ConfigError(f"{file}: not readable: {reason}")):
            return GenerationConfig.from_pretrained(folder)
    tokenizer = processor.tokenizer
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
