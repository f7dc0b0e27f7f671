"""Models with random weights, and what to measure on them.

A plan is a grid of measurements on one model; a suite is a named list of plans. Nothing here
imports torch before a model is built, so that ``--help`` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from olmo.config import ConfigError, merge
from olmo.model_configs import preset_model_config

if TYPE_CHECKING:
    from olmo.models.temporal_video_olmo.temporal_video_olmo import (
        TemporalVideoOlmo,
        TemporalVideoOlmoConfig,
    )

DTYPES = ("float32", "bfloat16")

METHODS = ("scorer", "easy", "heuristic", "random", "evs")
LAYOUTS: dict[str, tuple[Literal["ragged", "packed"], bool]] = {
    "ragged": ("ragged", False),
    "packed": ("packed", False),
    "packed+refill": ("packed", True),
}
"""Spellings of the command line: fields ``layout`` and ``refill``."""

NEW_TOKENS = 32
"""Of an answer that is decoded, behind the prompt."""


@dataclass(frozen=True)
class Stage:
    """A part of the model that is run on its own: ``forward`` and, if ``trains``, backward; or
    the whole model with ``new_tokens`` tokens of an answer."""

    scope: str
    trains: bool
    new_tokens: int = 0


STAGES = {
    "vit": Stage("vit", False),
    "backbone": Stage("backbone", False),
    "prefill": Stage("model", False),
    "train_vit": Stage("vit", True),
    "train_backbone": Stage("backbone", True),
    "train": Stage("model", True),
    "decode": Stage("model", False, NEW_TOKENS),
}
"""``vit``: pixels to the outputs of the read blocks, scoring and planning included; ``backbone``:
ViT and connector; ``prefill``: with the language model, filling its cache; ``train...``: forward
and backward of the same, without an optimizer step; ``decode``: tokens of an answer behind a
filled cache, greedy and without a stop token."""

LONG = {"max_sequence_length": 36864}
"""Room for the prompt of 256 frames and an answer."""

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "llm": LONG
        | {"d_model": 64, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 256}
        | {"vocab_size": 256, "initializer_range": 0.125},
        "vision_backbone": {
            "vit": {"image_default_input_size": [126, 126], "image_patch_size": 14}
            | {"image_emb_dim": 64, "image_num_heads": 2, "image_num_key_value_heads": 2}
            | {"image_head_dim": 32, "image_num_layers": 6, "image_mlp_dim": 256}
            | {"image_num_pos": 81, "initializer_range": 0.125, "prune_at": 1}
            | {"activation_checkpointing": False},
            "vit_layers": [-1, -3],
            "connector_activation_checkpointing": False,
        },
    },
    "small": {
        "llm": LONG
        | {"d_model": 256, "n_heads": 4, "n_kv_heads": 2, "n_layers": 4}
        | {"mlp_hidden_size": 2048, "vocab_size": 4096, "initializer_range": 0.0625},
        "vision_backbone": {
            "vit": {"image_emb_dim": 192, "image_num_heads": 3, "image_num_key_value_heads": 3}
            | {"image_head_dim": 64, "image_num_layers": 12, "image_mlp_dim": 768}
            | {"initializer_range": 0.07, "activation_checkpointing": False},
            "vit_layers": [-1, -7],
            "connector_activation_checkpointing": False,
        },
    },
    "molmo2_4b": merge(
        preset_model_config("qwen3_4b_instruct"),
        {"llm": LONG | {"activation_checkpoint": "whole_layer"}},
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
        from olmo.models.registry import model_config_from_dict

        return cast("TemporalVideoOlmoConfig", model_config_from_dict(data))

    def build(self) -> TemporalVideoOlmo:
        """Model with random weights that are the same for the same seed."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        import torch

        from olmo.models.parallel import checkpoint_activations

        torch.manual_seed(self.seed)
        model = self.config().build(self.device)
        model.reset_parameters()
        model.to(getattr(torch, self.dtype))
        checkpoint_activations(model)
        return model


@dataclass(frozen=True)
class Plan:
    """A grid of measurements: every stage, number of frames and batch size, dense and with every
    topk, method and layout. ``vary``: every round has another number of frames, down to 10% fewer,
    and another length of text; all shapes are new when they come."""

    stages: tuple[str, ...]
    frames: tuple[int, ...]
    topk: tuple[float, ...]
    methods: tuple[str, ...] = ("scorer",)
    layouts: tuple[str, ...] = ("ragged",)
    batch_sizes: tuple[int, ...] = (1,)
    vary: bool = False
    new_tokens: int = NEW_TOKENS


@dataclass(frozen=True)
class Suite:
    """Plans on one model, with the device and number type that they are meant for."""

    plans: tuple[Plan, ...]
    preset: str
    device: str
    dtype: str


_CPU, _GPU = ("small", "cpu", "float32"), ("molmo2_4b", "cuda", "bfloat16")

SUITES = {
    "cpu": Suite(
        (
            Plan(("vit",), (64,), (0.3, 0.5, 0.7, 0.8)),
            Plan(("train_backbone",), (32,), (0.5,)),
        ),
        *_CPU,
    ),
    "cpu-decode": Suite((Plan(("decode",), (16,), (0.5,), batch_sizes=(1, 8)),), *_CPU),
    "methods": Suite((Plan(("prefill",), (16,), (0.5,), METHODS, tuple(LAYOUTS)),), *_CPU),
    "gpu-vit": Suite(
        (
            Plan(("vit",), (256, 128, 64), (0.3, 0.5, 0.8)),
            Plan(("vit",), (128,), (0.5,), vary=True),
        ),
        *_GPU,
    ),
    "gpu-prefill": Suite(
        (
            Plan(("prefill",), (256, 128, 64), (0.3, 0.5, 0.8)),
            Plan(("prefill",), (64,), (0.5,), batch_sizes=(2,)),
            Plan(("prefill",), (128,), (0.5,), vary=True),
        ),
        *_GPU,
    ),
    "gpu-train": Suite(
        (
            Plan(("train",), (256,), (0.5,)),
            Plan(("train",), (128, 64), (0.3, 0.5, 0.8)),
            Plan(("train",), (64,), (0.5,), batch_sizes=(2,)),
            Plan(("train",), (128,), (0.5,), vary=True),
        ),
        *_GPU,
    ),
    "gpu-decode": Suite((Plan(("decode",), (64,), (0.5, 0.8), batch_sizes=(1, 8)),), *_GPU),
}
"""Each of ``gpu-...`` is meant to fit into ten minutes on an H100: by FLOPs, it is not measured."""
