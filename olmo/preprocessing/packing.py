"""Several examples in one row, chosen by a knapsack over a buffer of waiting examples.

A pruned video counts at its length after pruning, for that is what the language model sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.config import Config
from olmo.patch_grid import join_pooling
from olmo.types import SUBSEGMENTS_PER_EXAMPLE

Example = dict[str, Any]
TEXT_STEPS = 512
"""Lengths are counted in units of ``seq_len // TEXT_STEPS``."""


@dataclass
class PackingConfig(Config):
    """``max_images`` bounds the frames of a pack (None: no bound). The knapsack maximises
    ``text_weight`` x tokens + ``image_weight`` x frames."""

    buffer_size: int = 48
    image_weight: float = 30.0
    text_weight: float = 1.0
    max_images: int | None = None
    shortcut_max_len_images: bool = False
    """Emit an example that fills ``max_images`` alone and at once."""
    max_wait: int = 512
    """When so many examples were read after the oldest one that waits, it is in the next pack."""

    def __post_init__(self) -> None:
        self.at_least(1, "buffer_size", "max_wait")

    def build(self, seq_len: int, id_step: int = 1) -> Packer:
        """A packer for rows of ``seq_len`` tokens after pruning; ids come ``id_step`` apart."""
        return Packer(self, seq_len, id_step)


@dataclass(frozen=True)
class Pack:
    """A row and the ids of the examples in it, in their order."""

    example_ids: list[int]
    example: Example


class Packer:
    """Buffers examples and emits packs; deterministic in the order of :meth:`add`.

    Every row of a global batch has a packer of its own, which is given every ``id_step``-th id of
    the stream: so rows do not depend on the number of processes. Exact resume: build a new packer
    and :meth:`restore` the examples of :attr:`buffered_ids`.
    """

    def __init__(self, config: PackingConfig, seq_len: int, id_step: int = 1) -> None:
        if seq_len < 1:
            raise ValueError(f"packing needs a positive seq_len, got {seq_len}")
        self.config = config
        self.seq_len = seq_len
        self.max_wait = config.max_wait * id_step
        self._unit = max(1, seq_len // TEXT_STEPS)
        self._buffer: list[tuple[int, Example]] = []

    @property
    def buffered_ids(self) -> list[int]:
        """Ids of the waiting examples, oldest first."""
        return [i for i, _ in self._buffer]

    def restore(self, examples: list[tuple[int, Example]]) -> None:
        """Refill an empty packer with the ``(id, example)`` pairs that were waiting, in order."""
        if self._buffer or len(examples) > self.config.buffer_size:
            raise ValueError(
                f"cannot restore {len(examples)} examples: {len(self._buffer)} of "
                f"{self.config.buffer_size} places are taken"
            )
        self._buffer = list(examples)

    def check(self, example: Example) -> None:
        """``ValueError`` if ``example`` does not fit into any pack."""
        length, n_images = packed_length(example), n_frames(example)
        if length > self.seq_len:
            raise ValueError(f"{length} tokens after pruning, but a row holds {self.seq_len}")
        max_images = self.config.max_images
        if max_images is not None and n_images > max_images:
            raise ValueError(f"{n_images} frames, but packing.max_images is {max_images}")

    def add(self, example_id: int, example: Example) -> Pack | None:
        """Take one example in that passes :meth:`check`; a pack comes out when the buffer was
        full, or when the example fills a row by itself."""
        self.check(example)
        length, n_images = packed_length(example), n_frames(example)
        max_images = self.config.max_images
        fills_images = self.config.shortcut_max_len_images and n_images == max_images
        if -(-length // self._unit) >= self.seq_len // self._unit or fills_images:
            return Pack([example_id], pack([example]))
        emitted = None
        if len(self._buffer) >= self.config.buffer_size:
            # Told by the ids, so that a resumed packer does the same.
            chosen = self._choose(example_id - self._buffer[0][0] > self.max_wait)
            taken = [self._buffer[i] for i in chosen]
            emitted = Pack([i for i, _ in taken], pack([e for _, e in taken]))
            self._buffer = [b for i, b in enumerate(self._buffer) if i not in set(chosen)]
        self._buffer.append((example_id, example))
        return emitted

    def _choose(self, with_oldest: bool) -> list[int]:
        """Buffer positions of the next pack, newest first."""
        config = self.config
        lengths = np.array([packed_length(e) for _, e in self._buffer])
        images = np.array([n_frames(e) for _, e in self._buffer])
        values = config.text_weight * lengths + config.image_weight * images
        if config.max_images is None:
            images = np.zeros_like(images)
        costs = np.stack([-(-lengths // self._unit), images], axis=1)
        room = np.array([self.seq_len // self._unit, config.max_images or 0])
        if with_oldest:
            others = knapsack(costs[1:], values[1:], room - costs[0])
            return [i + 1 for i in others] + [0]
        return knapsack(costs, values, room) or [0]  # nothing of any value waits: the oldest goes


def packed_length(example: Example) -> int:
    """Tokens of an example after pruning."""
    return len(example["input_tokens"]) - int(example.get("n_pruned", 0))


def n_frames(example: Example) -> int:
    """Frames (or crops) of an example."""
    return len(example["images"]) if "images" in example else 0


def knapsack(
    costs: np.ndarray, values: np.ndarray, room: np.ndarray | tuple[int, int]
) -> list[int]:
    """Items of the largest total value that fit, last item first.

    0/1 knapsack with two integer costs per item, ``[n, 2]`` and at least 0, and ``room`` for the
    sum of each: ``O(n * room[0] * room[1])``.
    """
    n_items, (most, most_images) = len(costs), room
    best = np.zeros((n_items + 1, most + 1, most_images + 1), dtype=np.float32)
    for i, ((n, m), value) in enumerate(zip(costs, values, strict=True)):
        best[i + 1] = best[i]
        if n <= most and m <= most_images:
            with_item = best[i, : most + 1 - n, : most_images + 1 - m] + np.float32(value)
            np.maximum(best[i, n:, m:], with_item, out=best[i + 1, n:, m:])
    chosen, (t, k) = [], room
    for i in reversed(range(n_items)):
        if best[i + 1, t, k] != best[i, t, k]:
            chosen.append(i)
            t, k = t - costs[i][0], k - costs[i][1]
    return chosen


def pack(examples: list[Example]) -> Example:
    """Join examples in their order into one row; they are not modified.

    Patch ids of ``token_pooling`` are moved past the patches of earlier examples, subsegment ids
    by ``SUBSEGMENTS_PER_EXAMPLE`` each (so that examples cannot see each other); positions start
    anew in every example. ``image_parts`` lists the ``images`` of the examples, which the collator
    copies into the batch: they are by far the largest part.
    """
    if not examples:
        raise ValueError("a pack needs at least one example")
    tokens = ("input_tokens", "target_tokens", "loss_masks", "position_ids")
    keys = (*tokens, "num_images", "multimodal_type")
    out: Example = {k: np.concatenate([e[k] for e in examples]) for k in keys}
    segments, visual_end, start = [], 0, 0
    for i, e in enumerate(examples):
        n = len(e["input_tokens"])
        own = e.get("subsegment_ids", np.zeros(n, dtype=np.int64))
        segments.append(own + i * SUBSEGMENTS_PER_EXAMPLE)
        visual_end = start + e["visual_end"] if n_frames(e) else visual_end
        start += n
    out["subsegment_ids"] = np.concatenate(segments)
    visual = [e for e in examples if n_frames(e)]
    if visual:
        out["image_parts"] = [e["images"] for e in visual]
        n_patches = [x.shape[0] * x.shape[1] for x in out["image_parts"]]
        out["token_pooling"] = join_pooling([e["token_pooling"] for e in visual], n_patches)
    out["visual_end"] = visual_end
    out["n_pruned"] = sum(int(e.get("n_pruned", 0)) for e in examples)
    out["metadata"] = [e.get("metadata", {}) for e in examples]
    return out
