"""Keys of a ``config.json`` and of the native model section, as tables.

``vision`` stands for the ViT's section, whose name depends on the layout (``VISION``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from olmo.nn.image_vit import VitConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig

MODEL_TYPES = ("molmo2", "molmo2_lite")
VISION = {"transformers": "vision_config", "remote": "vit_config"}


@dataclass(frozen=True)
class Field:
    """One setting. A name is ``section.key``; None: the layout does not have it. ``default`` is
    that of transformers' class, for a file that leaves the key out."""

    native: str
    remote: str
    transformers: str | None
    default: object


Row = tuple[str, str, str | None, object]
"""Native key, remote key, transformers' key or "" if it is the same, default."""

ROWS: dict[tuple[str, str], list[Row]] = {
    ("llm", "text_config"): [
        ("d_model", "hidden_size", "", 4096),
        ("n_heads", "num_attention_heads", "", 32),
        ("n_kv_heads", "num_key_value_heads", "", 8),
        ("head_dim", "head_dim", "", 128),
        ("n_layers", "num_hidden_layers", "", 36),
        ("embedding_size", "vocab_size", "", 151936),
        ("additional_vocab_size", "additional_vocab_size", "", 128),
        ("max_sequence_length", "max_position_embeddings", "", 36864),
        ("attention_layer_norm_type", "qk_norm_type", "", "qwen3"),
        ("layer_norm_eps", "layer_norm_eps", "rms_norm_eps", 1e-6),
        ("norm_after", "norm_after", "", False),
        ("initializer_range", "initializer_range", "", 0.02),
        ("attention_dropout", "attention_dropout", "", 0.0),
        ("embedding_dropout", "embedding_dropout", None, 0.0),
        ("residual_dropout", "residual_dropout", None, 0.0),
    ],
    ("vision_backbone.vit", "vision"): [
        ("image_emb_dim", "hidden_size", "", 1152),
        ("image_mlp_dim", "intermediate_size", "", 4304),
        ("image_num_layers", "num_hidden_layers", "", 27),
        ("image_num_heads", "num_attention_heads", "", 16),
        ("image_num_key_value_heads", "num_key_value_heads", "", 16),
        ("image_head_dim", "head_dim", "", 72),
        ("image_norm_eps", "layer_norm_eps", "", 1e-6),
        ("image_default_input_size", "image_default_input_size", "image_size", [378, 378]),
        ("image_patch_size", "image_patch_size", "patch_size", 14),
        ("image_num_pos", "image_num_pos", "num_position_embeddings", None),
        ("attention_dropout", "attention_dropout", "", 0.0),
        ("initializer_range", "initializer_range", "", 0.02),
        ("residual_dropout", "residual_dropout", None, 0.0),
        ("float32_attention", "float32_attention", None, True),
    ],
    ("vision_backbone", "adapter_config"): [
        ("vit_layers", "vit_layers", "vision_feature_layer", [24, 18]),
        ("pooling_attention_mask", "pooling_attention_mask", None, True),
        ("image_feature_dropout", "image_feature_dropout", None, 0.0),
    ],
}
FIELDS = [
    Field(
        f"{native}.{key}",
        f"{section}.{remote}",
        None if other is None else f"{section}.{other or remote}",
        default,
    )
    for (native, section), rows in ROWS.items()
    for key, remote, other, default in rows
]

VIT = "vision_backbone.vit"
DERIVED = {
    "text_config.num_key_value_heads": "llm.kv_heads",
    "text_config.head_dim": "llm.head_size",
    "text_config.vocab_size": "llm.n_embeddings",
    "adapter_config.hidden_size": f"{VIT}.image_emb_dim",
    "adapter_config.num_attention_heads": f"{VIT}.image_num_heads",
    "adapter_config.num_key_value_heads": f"{VIT}.image_num_heads",
    "adapter_config.head_dim": f"{VIT}.image_head_dim",
    "adapter_config.attention_dropout": f"{VIT}.attention_dropout",
    "adapter_config.text_hidden_size": "llm.d_model",
    "adapter_config.initializer_range": "llm.initializer_range",
    "initializer_range": "llm.initializer_range",
}
"""Keys that repeat what others say, and where their value is in the config; written, and compared
when a file is read."""
DERIVED_OF = {
    "transformers": DERIVED,
    "remote": DERIVED
    | {
        "adapter_config.residual_dropout": f"{VIT}.residual_dropout",
        "adapter_config.float32_attention": f"{VIT}.float32_attention",
    },
}

FIXED: dict[str, object] = {
    "text_config.hidden_act": "silu",
    "text_config.use_cache": True,
    "text_config.model_type": "molmo2_text",
    "vision.hidden_act": "gelu_pytorch_tanh",
    "adapter_config.hidden_act": "silu",
    "model_type": "molmo2",
    "architectures": ["Molmo2ForConditionalGeneration"],
    "tie_word_embeddings": False,
}
FIXED_OF = {
    "transformers": FIXED
    | {
        "text_config.attention_bias": False,
        "text_config.tie_word_embeddings": False,
        "vision.model_type": "molmo2_vision",
        "vision.num_channels": 3,
        "vision.attention_bias": True,
        "adapter_config.model_type": "molmo2_adapter",
        "adapter_config.attention_bias": True,
        "adapter_config.mlp_bias": False,
    },
    "remote": FIXED
    | {
        "text_config.qkv_bias": False,
        "text_config.use_qk_norm": True,
        "vision.model_type": "molmo2",
        "adapter_config.model_type": "molmo2",
    },
}
"""Keys with the one value that this project computes, by layout."""

ROPE_KEYS = {
    "rope_type": "rope_type",
    "rope_factor": "factor",
    "rope_attention_factor": "attention_factor",
    "rope_beta_fast": "beta_fast",
    "rope_beta_slow": "beta_slow",
    "rope_original_max_position_embeddings": "original_max_position_embeddings",
}
"""Native keys of the RoPE scaling and those of ``rope_parameters`` and ``rope_scaling``."""

TOKEN_IDS = {
    "image_start_token_id": "<im_start>",
    "image_end_token_id": "<im_end>",
    "image_patch_id": "<im_patch>",
    "low_res_image_start_token_id": "<low_res_im_start>",
    "frame_start_token_id": "<frame_start>",
    "frame_end_token_id": "<frame_end>",
}
TOKEN_IDS_OF = {
    "transformers": TOKEN_IDS,
    "remote": TOKEN_IDS
    | {
        "image_col_id": "<im_col>",
        "image_low_res_id": "<im_low>",
        "image_high_res_id": "<im_patch>",
    },
}

NOT_COMPARED = frozenset(
    [
        *("_name_or_path", "add_cross_attention", "architectures", "auto_map", "bos_token_id"),
        *("chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id"),
        *("dtype", "eos_token_id", "finetuning_task", "id2label", "initializer_range"),
        *("is_decoder", "is_encoder_decoder", "label2id", "model_type", "output_attentions"),
        *("output_hidden_states", "pad_token_id", "prefix", "problem_type", "pruned_heads"),
        *("return_dict", "sep_token_id", "task_specific_params", "tf_legacy_loss"),
        *("tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "torch_dtype"),
        *("torchscript", "transformers_version", "use_bfloat16", "use_cache"),
        "use_frame_special_tokens",
    ]
)
"""Keys without a say in what the model computes: transformers' own, and
``use_frame_special_tokens``, which published files have wrong (the processor's counts)."""

STTS_KEYS = {f.name for f in dataclasses.fields(TemporalVitConfig)} - {
    f.name for f in dataclasses.fields(VitConfig)
}
PRUNING_KEYS = {
    **{key: f"{VIT}.{key}" for key in STTS_KEYS},
    "video_pooling": "vision_backbone.video_pooling",
    "pruned_position_ids": "pruned_position_ids",
}
"""Keys of a pruning model, at the top of ``config.json`` (the Lite form) or in its ViT section, and
where they are in the native model section."""
