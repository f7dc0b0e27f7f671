"""Presets: the published models and a tiny one, from ``presets.yaml``.

    preset_model_config("qwen3_4b_instruct")   # the model section of Molmo2-4B

``olmo.models.loading.merged_model_config`` turns the dict into a config object.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from olmo.config import read_settings

_PRESETS: dict[str, Any] = read_settings(Path(__file__).with_name("presets.yaml"))["presets"]
LLMS: dict[str, dict[str, Any]] = {name: preset["llm"] for name, preset in _PRESETS.items()}
"""The language model of every preset."""


def preset_model_config(name: str) -> dict[str, Any]:
    """Model section of a dense model. A new dict on every call. ``ValueError`` names the presets
    if ``name`` is none of them."""
    if name not in _PRESETS:
        raise ValueError(f"{name!r} is not a preset; the presets are {', '.join(_PRESETS)}")
    return copy.deepcopy(
        {
            "model_name": "video_olmo",
            **{"vision_backbone": {}, "mm_preprocessor": {"video": {}}, **_PRESETS[name]},
            "bi_directional_attn": "image_tokens",
        }
    )
