"""Presets: the published models and a tiny one, as small dicts in the keys of a ``config.yaml``.

    preset_model_config("qwen3_4b_instruct")   # the model section of Molmo2-4B

``olmo.models.loading.merged_model_config`` turns the dict into a config object.
"""

from __future__ import annotations

import copy
from typing import Any

_COMMON: dict[str, Any] = {
    "additional_vocab_size": 128,
    "max_sequence_length": 4096,
    "layer_norm_eps": 1e-6,
}
_QWEN3: dict[str, Any] = {
    **_COMMON,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "n_layers": 36,
    "vocab_size": 151936,
    "embedding_size": 151936,
    "attention_layer_norm_type": "qwen3",
}
_QWEN3_4B: dict[str, Any] = {
    **_QWEN3,
    "d_model": 2560,
    "mlp_hidden_size": 2 * 9728,
    "weight_tying": True,
    "rope_theta": 1e6,
    "tokenizer": {"identifier": "Qwen/Qwen3-4B"},
}
_TINY: dict[str, Any] = {
    "d_model": 128,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 32,
    "n_layers": 4,
    "mlp_hidden_size": 512,
    "initializer_range": 0.08,
    "new_embedding_init_range": 0.08,
    "rope_theta": 1e4,
    "max_sequence_length": 2048,
    "vocab_size": 512,
    "additional_vocab_size": 16,
    "weight_tying": True,
    "activation_checkpoint": None,
    "tokenizer": {"identifier": "olmo/tiny"},
}

LLMS: dict[str, dict[str, Any]] = {
    "qwen3_4b": _QWEN3_4B,
    "qwen3_4b_instruct": {
        **_QWEN3_4B,
        "rope_theta": 5e6,
        "tokenizer": {"identifier": "Qwen/Qwen3-4B-Instruct-2507"},
    },
    "qwen3_8b": {
        **_QWEN3,
        "d_model": 4096,
        "mlp_hidden_size": 2 * 12288,
        "weight_tying": False,
        "rope_theta": 1e6,
        "tokenizer": {"identifier": "Qwen/Qwen3-8B"},
    },
    "olmo3_7b_instruct": {
        **_COMMON,
        "d_model": 4096,
        "n_heads": 32,
        "n_layers": 32,
        "mlp_hidden_size": 2 * 11008,
        "vocab_size": 100278,
        "embedding_size": 100278,
        "fix_pad_tokenizer": True,
        "weight_tying": False,
        "attention_layer_norm_type": "olmo",
        "norm_after": True,
        "rope_theta": 5e5,
        "rope_type": "yarn",
        "rope_factor": 8.0,
        "rope_attention_factor": 1.2079441541679836,
        "rope_beta_fast": 32.0,
        "rope_beta_slow": 1.0,
        "rope_original_max_position_embeddings": 8192,
        "full_attention_layers": list(range(3, 32, 4)),
        "tokenizer": {"identifier": "allenai/Olmo-3-7B-Instruct"},
    },
    "tiny": _TINY,
}
"""Language models: Molmo2-4B is ``qwen3_4b_instruct``, -8B ``qwen3_8b``, -O-7B
``olmo3_7b_instruct``; ``tiny`` trains on a laptop's CPU."""

VITS: dict[str, dict[str, Any]] = {
    "siglip2": {
        "image_default_input_size": [378, 378],
        "image_patch_size": 14,
        "image_emb_dim": 1152,
        "image_num_heads": 16,
        "image_num_key_value_heads": 16,
        "image_head_dim": 72,
        "image_mlp_dim": 4304,
        "image_num_layers": 27,
        "image_num_pos": 729,
        "image_norm_eps": 1e-6,
    },
    "tiny": {
        "image_default_input_size": [96, 96],
        "image_patch_size": 8,
        "image_emb_dim": 96,
        "image_num_heads": 3,
        "image_num_key_value_heads": 3,
        "image_head_dim": 32,
        "image_mlp_dim": 256,
        "image_num_layers": 6,
        "image_num_pos": 144,
        "initializer_range": 0.08,
        "activation_checkpointing": False,
    },
}
"""Vision transformers; ``siglip2`` is that of every published model."""

BACKBONES: dict[str, dict[str, Any]] = {
    "siglip2": {"vit": VITS["siglip2"], "vit_layers": [-3, -9]},
    "tiny": {
        "vit": VITS["tiny"],
        "vit_layers": [-1, -3],
        "connector_activation_checkpointing": False,
    },
}
"""A ViT and the layers that the connector reads."""

_TINY_VIDEO: dict[str, Any] = {"max_frames": 8, "max_fps": [2.0]}


def preset_model_config(name: str) -> dict[str, Any]:
    """Model section of a dense model: the LLM ``name`` with its ViT. A new dict on every call.

    ``ValueError`` names the presets if ``name`` is none of them.
    """
    if name not in LLMS:
        raise ValueError(f"{name!r} is no preset; the presets are {', '.join(LLMS)}")
    tiny = name == "tiny"
    preset = {
        "model_name": "video_olmo",
        "llm": LLMS[name],
        "vision_backbone": BACKBONES["tiny" if tiny else "siglip2"],
        "mm_preprocessor": {"video": _TINY_VIDEO if tiny else {}},
        "bi_directional_attn": "image_tokens",
    }
    return copy.deepcopy(preset)
