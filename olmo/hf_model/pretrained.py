"""A Molmo2 start model from a plain language model (Qwen3, OLMo3) and a SigLIP2 ViT.

The folders are those that transformers saves. Connector and embeddings of the visual tokens are
initialised; everything else is read, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from olmo.config import ConfigError
from olmo.models.hf_layout.fields import ROPE_KEYS
from olmo.models.hf_layout.folder import HF_CONFIG
from olmo.models.hf_layout.keys import LLM_RULES, SIGLIP_UNREAD, VIT, siglip_rules
from olmo.models.json_files import read_json
from olmo.models.loading import merged_model_config
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.weight_files import open_weights
from olmo.models.weights import NativeWeights
from olmo.outside import foreign

Json = dict[str, Any]


@dataclass
class StartOptions:
    """What the two folders leave open."""

    vit_layers: tuple[int, ...] = (-3, -9)
    """Layers that the connector reads; later ones are left out of the model."""
    max_sequence_length: int = 4096
    additional_vocab_size: int = 128
    tokenizer: str | None = None
    """Folder or hub name to write into the config; None: the language model's folder."""
    seed: int = 0


def build_start_model(llm: Path, vit: Path, options: StartOptions | None = None) -> Molmo2:
    """The dense model with the weights of both folders, float32, in evaluation mode.

    ``ValueError`` names the file and key of what does not fit.
    """
    options = options or StartOptions()
    config = merged_model_config(start_section(llm, vit, options), {})
    config.build_tokenizer()  # the vocabulary must have room for it
    model = config.build("meta").to_empty(device="cpu")
    params = model.state_dict()
    new = {"transformer.wte.new_embedding"}
    text = {k: v for k, v in params.items() if k.startswith("transformer.") and k not in new}
    vision = {k: v for k, v in params.items() if k.startswith(VIT)}
    source = open_weights(vit)
    prefix = "vision_model." if any(k.startswith("vision_model.") for k in source.shapes) else ""
    source.rules = siglip_rules(prefix)
    NativeWeights(vision, source, SIGLIP_UNREAD).copy_into(vision)
    source = open_weights(llm)
    source.rules = LLM_RULES[_kind(llm)]
    NativeWeights(text, source).copy_into(text)
    torch.manual_seed(options.seed)
    backbone, table = model.vision_backbone, model.transformer.wte.new_embedding
    backbone.image_pooling_2d.reset_parameters()
    backbone.image_projector.reset_parameters(config.llm.initializer_range)
    nn.init.normal_(table, std=config.llm.new_embedding_init_range)
    drawn = {k for k in params if k.startswith("vision_backbone.image_p")} | new
    assert params.keys() == text.keys() | vision.keys() | drawn
    return model.eval()


def start_section(llm: Path, vit: Path, options: StartOptions) -> Json:
    """The native model section of the start model."""
    text = _section(llm_section, llm)
    text |= {
        "max_sequence_length": options.max_sequence_length,
        "additional_vocab_size": options.additional_vocab_size,
        "tokenizer": {"identifier": options.tokenizer or str(llm.resolve())},
    }
    return {
        "model_name": "video_olmo",
        "llm": text,
        "vision_backbone": {
            "vit": _section(vit_section, vit),
            "vit_layers": list(options.vit_layers),
        },
        "bi_directional_attn": "image_tokens",
    }


def _section(convert: Callable[[Json, Path], Json], folder: Path) -> Json:
    where = folder / HF_CONFIG
    with foreign(lambda reason: ConfigError(f"{where}: a value is of the wrong kind: {reason}")):
        return convert(read_json(where), where)


LLM_FIELDS = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "vocab_size": "vocab_size",
    "embedding_size": "vocab_size",
    "layer_norm_eps": "rms_norm_eps",
}
VIT_FIELDS = {
    "image_emb_dim": ("hidden_size", 768),
    "image_mlp_dim": ("intermediate_size", 3072),
    "image_num_layers": ("num_hidden_layers", 12),
    "image_num_heads": ("num_attention_heads", 12),
    "image_num_key_value_heads": ("num_attention_heads", 12),
    "image_patch_size": ("patch_size", 16),
    "image_norm_eps": ("layer_norm_eps", 1e-6),
}
"""Native keys, those of transformers' ``SiglipVisionConfig`` and its defaults, which its files
leave out."""
OLMO3 = {"attention_layer_norm_type": "olmo", "norm_after": True}
STYLES: dict[str, Json] = {"qwen3": {"attention_layer_norm_type": "qwen3"}, "olmo3": OLMO3}


def llm_section(data: Json, where: Path) -> Json:
    """``llm`` section of a ``config.json`` of Qwen3 or OLMo3; ``where`` is named in errors."""
    kind = data.get("model_type")
    if kind not in STYLES:
        raise ConfigError(f"{where}: model_type {kind!r} is not one of {', '.join(STYLES)}")
    _only(data, {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}, where)
    _need(data, [*LLM_FIELDS.values(), "intermediate_size"], where)
    out = {ours: data[theirs] for ours, theirs in LLM_FIELDS.items()}
    out["head_dim"] = data.get("head_dim")
    out["mlp_hidden_size"] = 2 * data["intermediate_size"]
    out["weight_tying"] = data.get("tie_word_embeddings", False)
    return out | STYLES[kind] | _rope(data, where)


def _rope(data: Json, where: Path) -> Json:
    """RoPE of either form: ``rope_theta`` with ``rope_scaling``, or ``rope_parameters``, which
    OLMo3 has once for its full-attention layers and once, unscaled, for the others."""
    rope = data.get("rope_parameters") or {
        "rope_theta": data.get("rope_theta"),
        **(data.get("rope_scaling") or {}),
    }
    if "full_attention" in rope:
        full, sliding = rope["full_attention"], rope.get("sliding_attention") or {}
        _only(sliding, {"rope_type": "default", "rope_theta": full.get("rope_theta")}, where)
        rope = full
    _need(rope, ["rope_theta"], where)
    out = {ours: rope[theirs] for ours, theirs in ROPE_KEYS.items() if theirs in rope}
    out["rope_theta"] = rope["rope_theta"]
    if out.get("rope_type", "default") != "default":
        types = data.get("layer_types")
        if types is not None:
            full_layers = [i for i, name in enumerate(types) if name == "full_attention"]
            out["full_attention_layers"] = full_layers
    return out


def vit_section(data: Json, where: Path) -> Json:
    """``vision_backbone.vit`` section of a ``config.json`` of SigLIP or its vision model."""
    vision = data.get("vision_config", data)
    kind = vision.get("model_type", data.get("model_type"))
    if not isinstance(kind, str) or not kind.startswith("siglip_vision"):
        raise ConfigError(f"{where}: model_type {kind!r} is no SigLIP vision model")
    _only(vision, {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3}, where)
    out: Json = {ours: vision.get(key, default) for ours, (key, default) in VIT_FIELDS.items()}
    side = vision.get("image_size", 224) // out["image_patch_size"]
    return out | {
        "image_head_dim": out["image_emb_dim"] // out["image_num_heads"],
        "image_default_input_size": [side * out["image_patch_size"]] * 2,
        "image_num_pos": side**2,
    }


def _kind(llm: Path) -> str:
    return str(read_json(llm / HF_CONFIG)["model_type"])


def _need(data: Json, keys: Iterable[str], where: Path) -> None:
    missing = [key for key in keys if data.get(key) is None]
    if missing:
        raise ConfigError(f"{where}: no {missing[0]!r}")


def _only(data: Json, values: Json, where: Path) -> None:
    """Keys that may only have one value, if they are there."""
    for key, value in values.items():
        if data.get(key, value) != value:
            raise ConfigError(f"{where}: {key} is {data[key]!r}, only {value!r} is supported")
