"""Models with random weights, and what to measure on them.

A plan is a grid of measurements on one model; a suite is a named list of plans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch

from olmo.config import ConfigError, merge
from olmo.model_configs import preset_model_config
from olmo.models.parallel import checkpoint_activations
from olmo.models.registry import model_config_from_dict
from olmo.models.temporal_video_olmo.temporal_video_olmo import (
    TemporalVideoOlmo,
    TemporalVideoOlmoConfig,
)

DTYPES = ("float32", "bfloat16")

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "llm": {
            "d_model": 64,
            "n_heads": 2,
            "n_layers": 2,
            "mlp_hidden_size": 256,
            "vocab_size": 256,
            "initializer_range": 0.125,
        },
        "vision_backbone": {
            "vit": {
                "image_default_input_size": [126, 126],
                "image_patch_size": 14,
                "image_emb_dim": 64,
                "image_num_heads": 2,
                "image_num_key_value_heads": 2,
                "image_head_dim": 32,
                "image_num_layers": 6,
                "image_mlp_dim": 256,
                "image_num_pos": 81,
                "initializer_range": 0.125,
                "prune_at": 1,
                "activation_checkpointing": False,
            },
            "vit_layers": [-1, -3],
            "connector_activation_checkpointing": False,
        },
    },
    "small": {
        "llm": {
            "d_model": 256,
            "n_heads": 4,
            "n_kv_heads": 2,
            "n_layers": 4,
            "mlp_hidden_size": 2048,
            "vocab_size": 4096,
            "initializer_range": 0.0625,
        },
        "vision_backbone": {
            "vit": {
                "image_emb_dim": 192,
                "image_num_heads": 3,
                "image_num_key_value_heads": 3,
                "image_head_dim": 64,
                "image_num_layers": 12,
                "image_mlp_dim": 768,
                "initializer_range": 0.07,
                "activation_checkpointing": False,
            },
            "vit_layers": [-1, -7],
            "connector_activation_checkpointing": False,
        },
    },
    "molmo2_4b": merge(
        preset_model_config("qwen3_4b_instruct"),
        {"llm": {"activation_checkpoint": "whole_layer"}},
    ),
}
"""Model configs. ``small``: width 192, 12 blocks, 27 x 27 patches. ``molmo2_4b``: the sizes of
the released Molmo2-4B; training recomputes the activations of its blocks. The
initialisation is about 1 / sqrt(width), so that attention moves the results that are checked."""


@dataclass(frozen=True)
class ModelSpec:
    """A preset, changed by ``overrides``, on a device. ``bfloat16``: weights in bfloat16 and the
    passes under autocast, as a sharded training run computes."""

    preset: str
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)

    def config(self) -> TemporalVideoOlmoConfig:
        """``ConfigError`` for an unknown preset or key."""
        if self.preset not in PRESETS:
            raise ConfigError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")
        data = merge(PRESETS[self.preset], self.overrides)
        data["model_name"] = "temporal_video_olmo"
        return cast(TemporalVideoOlmoConfig, model_config_from_dict(data))

    def build(self) -> TemporalVideoOlmo:
        """Model with random weights that are the same for the same seed."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        torch.manual_seed(self.seed)
        model = self.config().build(self.device)
        model.reset_parameters()
        model.to(getattr(torch, self.dtype))
        checkpoint_activations(model)
        return model


@dataclass(frozen=True)
class Plan:
    """A grid of measurements: every stage, number of frames and batch size, dense and with every
    topk, method and layout."""

    preset: str
    stages: tuple[str, ...]
    frames: tuple[int, ...]
    topk: tuple[float, ...]
    methods: tuple[str, ...] = ("scorer",)
    layouts: tuple[str, ...] = ("ragged",)
    batch_sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Suite:
    """Plans with the number type that they are meant for."""

    plans: tuple[Plan, ...]
    device: str
    dtype: str


SUITES = {
    "cpu": Suite(
        (
            Plan("small", ("vit",), (64,), (0.3, 0.5, 0.7, 0.8)),
            Plan("small", ("train_backbone",), (32,), (0.5,)),
        ),
        "cpu",
        "float32",
    ),
    "gpu": Suite(
        (
            Plan("molmo2_4b", ("vit", "prefill", "train"), (64, 128, 256), (0.3, 0.5, 0.8)),
            Plan("molmo2_4b", ("prefill", "train"), (64,), (0.5,), batch_sizes=(2,)),
        ),
        "cuda",
        "bfloat16",
    ),
    "methods": Suite(
        (
            Plan(
                "small",
                ("prefill",),
                (16,),
                (0.5,),
                ("scorer", "easy", "heuristic", "random", "evs"),
                ("ragged", "packed", "packed+refill"),
            ),
        ),
        "cpu",
        "float32",
    ),
}
