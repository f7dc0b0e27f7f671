"""Examples or packs to one batch of torch tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from olmo.types import PAD_ID

Example = dict[str, Any]
ROW_FIELDS = {
    "input_ids": ("input_tokens", np.int64, PAD_ID),
    "labels": ("target_tokens", np.int64, PAD_ID),
    "position_ids": ("position_ids", np.int64, PAD_ID),
    "loss_masks": ("loss_masks", np.float32, 0),
    "subsegment_ids": ("subsegment_ids", np.int64, PAD_ID),
}
"""Batch key of every text array of an example, its dtype and padding."""


@dataclass
class Collator:
    """Pads rows to one size.

    ``seq_len`` bounds a row after pruning (None: no bound), so a row may hold ``seq_len`` plus
    its ``n_pruned`` tokens. ``pad``: ``longest`` row of the batch, or ``to_max``, which makes the
    shapes of text and images independent of the data: ``seq_len + max_removed`` tokens and
    ``max_frames_bound`` frames.
    """

    seq_len: int | None
    pad: Literal["longest", "to_max"]
    n_patches: int
    patch_dim: int
    max_frames_bound: int | None = None
    max_removed: int = 0

    def __post_init__(self) -> None:
        if self.pad == "to_max" and self.seq_len is None:
            raise ValueError("pad='to_max' needs a seq_len")

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        """Batch of ``B`` rows with ``S`` tokens, ``T`` frames of ``N`` patches of ``D`` values.

        ``input_ids``, ``labels``, ``position_ids``, and ``subsegment_ids`` if any row has them
        (1 for rows without), int64 ``[B, S]``, padding -1; ``loss_masks`` float32 ``[B, S]``,
        padding 0; ``images`` uint8 ``[B, T, N, D]``, padding 0; ``token_pooling`` int64
        ``[B, P, K]``, ``num_images`` and ``multimodal_type`` int64 ``[B, V]``, padding -1;
        ``metadata`` list of ``B``. A batch of text alone holds one empty frame per row, so that
        the vision tower runs on every device.
        """
        lengths = [self._kept_length(e) for e in examples]
        size = max(lengths)
        if self.pad == "to_max" and self.seq_len is not None:
            size = self.seq_len + self.max_removed
        batch: dict[str, Any] = {}
        for key, (source, dtype, fill) in ROW_FIELDS.items():
            if any(source in e for e in examples):  # only trees and packs have subsegments
                rows = [e.get(source, np.ones(n)) for e, n in zip(examples, lengths, strict=True)]
                cut = [row[:n] for row, n in zip(rows, lengths, strict=True)]
                batch[key] = _stack(cut, (size,), dtype, fill)
        batch |= self._visual(examples)
        batch["metadata"] = [e.get("metadata", {}) for e in examples]
        return batch

    def check(self, example: Example) -> None:
        """``ValueError`` if ``example`` cannot be a row of a batch."""
        self._kept_length(example)

    def _visual(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        counts = [self._count_frames(e) for e in examples]
        n_frames = max(*counts, 1)
        if self.pad == "to_max" and any(counts) and self.max_frames_bound is not None:
            n_frames = self.max_frames_bound
        batch = {"images": self._frames(examples, n_frames)}
        keys: list[tuple[str, tuple[int, ...]]] = [("token_pooling", (1,))]
        keys += [("num_images", ()), ("multimodal_type", ())]
        for key, width in keys:
            parts = [e.get(key, np.zeros((0, *width), dtype=np.int64)) for e in examples]
            longest = np.max([[1, *width], *(part.shape for part in parts)], axis=0)
            batch[key] = _stack(parts, tuple(longest), np.int64, PAD_ID)
        return batch

    def _count_frames(self, example: Example) -> int:
        """Frames of a row; ``ValueError`` if they have another form or are too many."""
        parts = image_parts(example)
        for x in parts:
            if x.shape[1:] != (self.n_patches, self.patch_dim) or x.dtype != np.uint8:
                raise ValueError(
                    f"{_name(example)}: images are {x.dtype} {x.shape}, expected uint8 frames of "
                    f"{self.n_patches} patches of {self.patch_dim} values"
                )
        n = sum(map(len, parts))
        if self.max_frames_bound is not None and n > self.max_frames_bound:
            raise ValueError(
                f"{_name(example)}: {n} frames, at most {self.max_frames_bound} are allowed"
            )
        return n

    def _frames(self, examples: list[Example], n_frames: int) -> torch.Tensor:
        """uint8 ``[B, n_frames, N, D]``; every frame is copied once, only padding is zeroed."""
        shape = (len(examples), n_frames, self.n_patches, self.patch_dim)
        out: np.ndarray = np.empty(shape, dtype=np.uint8)
        for row, example in zip(out, examples, strict=True):
            at = 0
            for part in image_parts(example):
                row[at : at + len(part)] = part
                at += len(part)
            row[at:] = 0
        return torch.from_numpy(out)

    def _kept_length(self, example: Example) -> int:
        """Tokens of the row that fit; raises if cutting the rest loses what must stay."""
        n = len(example["input_tokens"])
        if self.seq_len is None:
            return n
        limit, loss = self.seq_len + int(example.get("n_pruned", 0)), example["loss_masks"]
        too_long = f"{_name(example)}: {n} tokens, at most {limit} fit before pruning; cutting"
        if n > limit and example.get("visual_end", 0) > limit:
            raise ValueError(f"{too_long} would lose visual tokens")
        if n > limit and loss.any() and not loss[:limit].any():
            raise ValueError(f"{too_long} would lose every token with a loss")
        n = min(n, limit)
        if self.pad == "to_max" and n > self.seq_len + self.max_removed:
            raise ValueError(
                f"{_name(example)}: {n} tokens before pruning, but the batch holds seq_len "
                f"{self.seq_len} + max_removed {self.max_removed}"
            )
        return n


def image_parts(example: Example) -> list[np.ndarray]:
    """Frames of an example, or of the examples of a pack, in their order."""
    parts: list[np.ndarray] = example.get("image_parts") or []
    return parts or ([example["images"]] if "images" in example else [])


def _stack(rows: list[np.ndarray], shape: tuple[int, ...], dtype: type, fill: int) -> torch.Tensor:
    """Rows of at most ``shape`` in one tensor ``[len(rows), *shape]``."""
    out: np.ndarray = np.full((len(rows), *shape), fill, dtype=dtype)
    for one, row in zip(out, rows, strict=True):
        one[tuple(slice(0, n) for n in row.shape)] = row
    return torch.from_numpy(out)


def _name(example: Example) -> str:
    metadata = example.get("metadata", {})
    parts = metadata if isinstance(metadata, list) else [metadata]
    ids = [str(m.get("example_id", m.get("id", "?"))) for m in parts]
    return f"example {', '.join(ids)}"
