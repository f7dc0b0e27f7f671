"""Keys and values of earlier tokens, allocated once and written in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from olmo.nn.attention import SPLIT
from olmo.nn.fused import store
from olmo.nn.llm_mask import FilledMask


@dataclass
class KVCache:
    """One pair of buffers [B, KV, capacity, h] per layer; keys are stored already rotated.

    A row's tokens lie side by side from place 0: a new one overwrites the prompt's padding, so
    that ``lengths`` is all that a query needs to know.

    Attributes:
        room: tokens per row that will follow the prompt; the capacity is rounded up.
        lengths: int64 [B] tokens of each row, on the device; None until the prompt is in.
    """

    room: int = 0
    lengths: Tensor | None = None
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def start(self, lengths: Tensor) -> None:
        """The prompt is in: from here on one token per row is added at a time."""
        self.lengths = lengths.clone()

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens [B, S, KV, h] of one layer.

        Returns the prompt itself, or once it is in, the whole buffers as [B, capacity, KV, h], to
        be read up to ``lengths`` and the new token.
        """
        if layer not in self.layers:
            rows, size, heads, width = k.shape
            capacity = -(-(size + self.room) // SPLIT) * SPLIT
            # zeros: what is not filled yet has weight 0, but must be a number
            keys, values = v.new_zeros(2, rows, heads, capacity, width)
            self.layers[layer] = (keys, values)
        keys, values = self.layers[layer]
        if self.lengths is None:
            for buffer, new in ((keys, k), (values, v)):
                buffer[:, :, : new.shape[1]] = new.transpose(1, 2)
            return k, v
        store(keys, values, k[:, 0], v[:, 0], self.rows, self.lengths)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def mask(self) -> FilledMask:
        """What the token that is being added sees: its row, and itself."""
        assert self.lengths is not None
        if self.lengths.device.type != "cpu":
            return FilledMask(self.lengths + 1, None)
        longest = int(self.lengths.max())
        same = bool((self.lengths == longest).all())
        return FilledMask(None if same else self.lengths + 1, longest + 1)

    @cached_property
    def rows(self) -> Tensor:
        assert self.lengths is not None
        return torch.arange(len(self.lengths), device=self.lengths.device)

    def advance(self) -> None:
        """The token that every layer has added counts."""
        assert self.lengths is not None
        self.lengths += 1
