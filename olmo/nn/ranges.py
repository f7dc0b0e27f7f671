"""Ranges of the numbers of a config, which may come from a file of somebody else."""

from __future__ import annotations

import math
from collections.abc import Mapping

from olmo.config import Config

MOST_LAYERS, MOST_HEADS, MOST_WIDTH, MOST_ROWS = 1 << 10, 1 << 12, 1 << 20, 1 << 24
MOST_PIXELS, MOST_POOL = 1 << 14, 1 << 7
"""Bounds far above any model, so that a wrong number does not first fill the memory."""


def check_counts(config: Config, most: Mapping[str, int]) -> None:
    """``ValueError`` unless each field, or each item of one, is from 1 to its bound. None is a
    field that is left out."""
    for name, bound in most.items():
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and not 1 <= item <= bound:
                raise ValueError(f"{name} must be from 1 to {bound}, got {value}")


def check_positive(config: Config, *names: str) -> None:
    """``ValueError`` unless each field is a finite number above 0, or None."""
    config.require("a number above 0", lambda value: 0 < value < math.inf, *names)


def check_dropout(config: Config, *names: str) -> None:
    """``ValueError`` unless each field is a probability below 1."""
    config.require("in [0, 1)", lambda value: 0 <= value < 1, *names)
