"""Keys and values of earlier tokens, one pair per layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class KVCache:
    """Grows by ``append``; keys are stored already rotated, as [B, KV, S, h]."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens of one layer and return all of them."""
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k, v = torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)
        self.layers[layer] = (k, v)
        return k, v
