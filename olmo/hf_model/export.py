"""A native checkpoint as a folder that stock transformers 5 loads, without code of its own."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from olmo.config import ConfigError
from olmo.files import write_json
from olmo.hf_model.processor_files import differences, write_processor_files
from olmo.hf_model.shards import MAX_FILE_BYTES, plan_writing, write_weights
from olmo.models.hf_layout.config import to_hf
from olmo.models.hf_layout.folder import HF_CONFIG
from olmo.models.hf_layout.keys import HF_RULES
from olmo.models.loading import load_model_config, open_checkpoint, select_checkpoint
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
from olmo.models.weights import NativeWeights

log = logging.getLogger(__name__)


@dataclass
class ExportOptions:
    """How to write the folder."""

    layout: str = "transformers"
    """``transformers`` (its own classes) or ``remote`` (that of the published repositories; both
    are loaded by stock transformers)."""
    dtype: torch.dtype | None = None
    """Type of the weights; None keeps the stored one."""
    dense: bool = False
    """Accept that a pruning model becomes a dense one."""
    max_file_bytes: int = MAX_FILE_BYTES

    def __post_init__(self) -> None:
        if self.layout not in HF_RULES:
            raise ValueError(f"layout {self.layout!r} is not one of {', '.join(HF_RULES)}")


def export_checkpoint(
    checkpoint: str | Path, out: str | Path, options: ExportOptions | None = None
) -> Path:
    """Write ``checkpoint`` (any form that ``load_model`` reads) as the folder ``out``.

    Weights are read and written one file at a time; the model is never built. ``out`` appears
    when it is complete.

    Raises:
        ValueError: ``out`` exists, or transformers' class cannot compute this model (pruning
            without ``options.dense``, another attention mask, unmasked pooling).
    """
    options, out = options or ExportOptions(), Path(out)
    check_new(out)
    source_folder = select_checkpoint(checkpoint)
    config = load_model_config(source_folder)
    check_exportable(config, options.dense)
    for difference in differences(config):
        log.warning("the exported processor differs: %s", difference)
    params = dense_params(config)
    source = open_checkpoint(source_folder, config)
    weights = NativeWeights(params, source)
    if any(key not in params and SCORER in key for key in source.shapes):
        log.warning("the token scorer of %s is left out: the export is dense", source_folder)
    tensors = plan_writing(params, config.llm, options.layout)
    part = out.with_name(out.name + "-tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    data = to_hf(config, options.layout)
    dtypes = {options.dtype or computed_in(weights.dtype(key)) for key in params}
    if len(dtypes) == 1:
        data["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    write_json(part / HF_CONFIG, data, sort_keys=True)
    write_processor_files(config, config.build_tokenizer(), part)
    write_weights(weights, tensors, part, options.dtype, options.max_file_bytes)
    return _finish(part, out)


def export_lite(checkpoint: str | Path, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write a pruning model in the form of ``olmo.hf_model.lite``; importing that module makes
    transformers' Auto classes read it. ``dtype`` None: float32."""
    from olmo.hf_model.lite_loading import load_model

    out = Path(out)
    check_new(out)
    config = load_model_config(select_checkpoint(checkpoint))
    if not isinstance(config, TemporalVideoOlmoConfig):
        raise ConfigError(
            f"{checkpoint}: model_name {config.model_name!r} is dense, export it without --lite"
        )
    model, processor = load_model(checkpoint, device="cpu", dtype=dtype or torch.float32)
    part = out.with_name(out.name + "-tmp")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    processor.save_pretrained(part)
    return _finish(part, out)


def computed_in(stored: torch.dtype) -> torch.dtype:
    """What transformers is told to load weights as that are stored in ``stored``. Features of the
    projector leave the range of float16, so that type is for small files alone."""
    return torch.float32 if stored is torch.float16 else stored


def check_new(out: Path) -> None:
    """``ValueError`` unless ``out`` is new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder")


def _finish(part: Path, out: Path) -> Path:
    if out.exists():
        out.rmdir()
    return part.rename(out)


SCORER = "temporal_token_scorer."


def dense_params(config: Molmo2Config) -> dict[str, Tensor]:
    """Native parameters on the meta device, without those of a token scorer."""
    params = config.build("meta").state_dict()
    return {k: v for k, v in params.items() if SCORER not in k}


def check_exportable(config: Molmo2Config, dense: bool) -> None:
    """``ConfigError`` if transformers' ``Molmo2ForConditionalGeneration`` would compute something
    else. Pruning counts, unless ``dense`` says that it may go."""
    backbone = config.vision_backbone
    if getattr(backbone.vit, "prune", False) and not dense:
        raise ConfigError(
            "vision_backbone.vit.prune: transformers' class does not prune; --dense writes the "
            "model without its token scorer, which then keeps every token, --lite the pruning "
            "model in this package's own Hugging Face form"
        )
    height, width = backbone.vit.image_default_input_size
    wrong = {
        "bi_directional_attn": (config.bi_directional_attn, "image_tokens"),
        "vision_backbone.pooling_attention_mask": (backbone.pooling_attention_mask, True),
        "vision_backbone.vit.image_default_input_size": ((height, width), (height, height)),
    }
    for key, (value, expected) in wrong.items():
        if value != expected:
            raise ConfigError(f"{key} is {value!r}, transformers' class only computes {expected!r}")
