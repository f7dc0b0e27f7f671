"""What every form of weight files offers."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from olmo.models.hf_layout.keys import Rule, rules_of
from olmo.models.tensors import Shape


class WeightSource:
    """Named tensors on disk. ``where`` is the file or folder that errors name."""

    where: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of one tensor on the CPU, in the stored type. It may be a view of the file."""
        raise NotImplementedError

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Rules between the native names and those of this layout."""
        return rules_of(self.shapes.keys())
