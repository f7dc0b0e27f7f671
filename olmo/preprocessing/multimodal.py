"""Example and decoded video in, token row and patches out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.outside import OutsideError
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.prompts import Rng
from olmo.preprocessing.tokens import ChatTokenizer, MessageWeight, RowConfig, Turn, leave_out
from olmo.preprocessing.visual import (
    MediaConfig,
    VisualInput,
    VisualPreprocessor,
    visual_arrays,
)
from olmo.token_budget import Budget
from olmo.tokenizer import MolmoTokenizer
from olmo.types import VideoFrames


@dataclass
class Molmo2PreprocessorConfig(MediaConfig, RowConfig):
    """Settings of :class:`ExamplePreprocessor`: what is shown, and what is trained on."""


@dataclass
class ExamplePreprocessor:
    """Turns an example (a dict of a dataset) into the numpy arrays of one token row.

    ``budget`` is the model's: what it removes from a video enters ``n_pruned`` only.
    ``max_sequence_length`` bounds the row after pruning: conversations of a tree that would lie
    wholly beyond it are left out.
    """

    config: Molmo2PreprocessorConfig
    formatter: DataFormatterConfig
    tokenizer: MolmoTokenizer
    image_size: tuple[int, int]
    patch_size: int
    budget: Budget | None = None
    max_sequence_length: int | None = None

    def __post_init__(self) -> None:
        self.visual = VisualPreprocessor(
            self.config, self.tokenizer, self.image_size, self.patch_size, self.budget
        )
        self._format = self.formatter.build()
        self._chat = ChatTokenizer(self.tokenizer, self.config)

    def __call__(
        self,
        example: dict[str, Any],
        video: VideoFrames | None = None,
        rng: Rng | None = None,
        *,
        for_inference: bool = False,
    ) -> dict[str, Any]:
        """Arrays of one example, which is not modified; ``rng`` is for training, and draws what
        evaluation has fixed.

        ``example["image"]`` is an ``ImageSource`` or a list of them and is read here; a video is
        decoded by the caller. Raises ``OutsideError`` for what cannot be used (``ImageReadError``
        for an image).

        ``input_tokens``, ``target_tokens``, ``position_ids`` int64 ``[L]``, ``loss_masks``
        float32 ``[L]``, ``subsegment_ids`` int64 ``[L]`` (trees only); ``images`` uint8 ``[n, N,
        3 * p * p]``, frames or crops, and ``token_pooling`` int64 ``[P, window]`` (visual
        examples only, -1 = no patch); ``num_images`` (n) and ``multimodal_type`` int64 ``[1]``,
        ``[0]`` for text; ``n_pruned`` and ``visual_end`` (index after the last visual token) int;
        ``metadata``.
        """
        shown = self._shown(example, video, rng)
        sizes = [size for one in shown for size in one.sizes]
        turns, metadata = self._turns(example, sizes, rng, for_inference)
        blocks = [block for one in shown for block in one.blocks]
        if n_left_out := sum(one.n_left_out for one in shown):
            n_given = len(blocks) + n_left_out
            turns = [leave_out(conversation, len(blocks), n_given) for conversation in turns]
        n_pruned = sum(one.n_pruned for one in shown)
        limit = self.max_sequence_length
        limit = None if limit is None else limit + n_pruned
        out = self._chat(turns, blocks, MessageWeight.of(example.get("weight")), limit)
        out |= visual_arrays(shown)
        ids = out["input_tokens"]
        n_tokens = int((ids == self.tokenizer.ids["<im_patch>"]).sum())
        n_rows = len(out.get("token_pooling", ()))
        if n_tokens != n_rows:
            raise OutsideError(f"{n_tokens} <im_patch> tokens, but {n_rows} visual features")
        for one in shown:
            metadata |= one.metadata
        lengths = {"n_tokens_before": len(ids), "n_tokens_after": len(ids) - n_pruned}
        return out | {
            "n_pruned": n_pruned,
            "visual_end": int(np.flatnonzero(ids >= self.tokenizer.vocab_size).max(initial=-1)) + 1,
            "metadata": {**example.get("metadata", {}), **metadata, **lengths},
        }

    def _shown(
        self, example: dict[str, Any], video: VideoFrames | None, rng: Rng | None
    ) -> list[VisualInput]:
        """What the example shows; ``rng`` draws the resolution of a single image in training."""
        image, subtitle = example.get("image"), example.get("subtitle")
        if "video" in example and video is None:
            raise ValueError(f"the frames of video {example['video']} were not given")
        if video is not None and image is not None:
            raise ValueError("an example has either a video or images, this one has both")
        if video is not None:
            self.config.limits.check_subtitle(subtitle)
            return [self.visual.of_video(video, subtitle)]
        if image is None:
            return []
        if isinstance(image, (list, tuple)):
            return [self.visual.of_images(image)]
        p_high_res = example.get("p_high_res")
        if p_high_res is None:
            p_high_res = self.config.image.p_high_res if self.config.image else 0.0
        high_res = bool(p_high_res and rng and rng.random() < p_high_res)
        return [self.visual.of_image(image, high_res)]

    def _turns(
        self,
        example: dict[str, Any],
        sizes: list[tuple[int, int]],
        rng: Rng | None,
        for_inference: bool,
    ) -> tuple[list[list[Turn]], dict[str, Any]]:
        """Conversations as text turns (in random order in training), and their metadata."""
        messages = list(example.get("message_list", [example]))
        if rng is not None and "message_list" in example:
            messages = [messages[i] for i in rng.permutation(len(messages))]
        found = [self._format(message, rng, for_inference, sizes) for message in messages]
        return [c.pieces for c in found], dict(found[0].metadata) if len(found) == 1 else {}
