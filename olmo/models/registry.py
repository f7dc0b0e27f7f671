"""Model classes by the ``model_name`` of their config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from olmo.config import ConfigError

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2Config

MODEL_CONFIGS: dict[str, type[Any]] = {}
T = TypeVar("T")


def register_model(config_class: type[T]) -> type[T]:
    """Register a model config under its ``model_names``."""
    for name in config_class.model_names:  # type: ignore[attr-defined]
        MODEL_CONFIGS[name] = config_class
    return config_class


def model_config_from_dict(data: dict[str, Any], path: str = "model") -> Molmo2Config:
    """Config object of the class that ``model_name`` asks for."""
    import olmo.models.temporal_video_olmo.temporal_video_olmo  # noqa: F401 (registers)

    name = data.get("model_name", "video_olmo")
    if name not in MODEL_CONFIGS:
        known = ", ".join(sorted(MODEL_CONFIGS))
        raise ConfigError(f"{path}.model_name: {name!r} is not one of {known}")
    config: Molmo2Config = MODEL_CONFIGS[name].from_dict(data, path)
    return config
