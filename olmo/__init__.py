"""Molmo2 with Spatio-Temporal Token Scoring, small and readable.

    from olmo import load_model

    model, processor = load_model("path/to/checkpoint")
    model.generate_from_video("clip.mp4", "What happens?", topk=0.5)

The names below are imported when they are first used, so that ``import olmo`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olmo.hf_model.lite import (
        Answer,
        Molmo2LiteConfig,
        Molmo2LiteForConditionalGeneration,
        Molmo2LiteProcessor,
    )
    from olmo.hf_model.lite_loading import load_model

__all__ = [
    "Answer",
    "Molmo2LiteConfig",
    "Molmo2LiteForConditionalGeneration",
    "Molmo2LiteProcessor",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'olmo' has no attribute {name!r}")
    home = "lite_loading" if name == "load_model" else "lite"
    return getattr(import_module(f"olmo.hf_model.{home}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
