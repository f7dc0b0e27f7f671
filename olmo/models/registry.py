"""Model config classes by the ``model_name`` of a config."""

from __future__ import annotations

from typing import Any

from olmo.config import ConfigError, convert
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig

MODEL_CONFIGS: dict[str, type[Molmo2Config]] = {
    config.model_name: config for config in (Molmo2Config, TemporalVideoOlmoConfig)
}
"""A new model class is one more in this table."""


def model_config_from_dict(data: dict[str, Any], path: str = "model") -> Molmo2Config:
    """Config object of the class that ``model_name`` asks for."""
    name = convert(str, data.get("model_name", "video_olmo"), f"{path}.model_name")
    if name not in MODEL_CONFIGS:
        known = ", ".join(sorted(MODEL_CONFIGS))
        raise ConfigError(f"{path}.model_name: {name!r} is not one of {known}")
    return MODEL_CONFIGS[name].from_dict(data, path)
