"""Example and decoded video in, token row and patches out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.outside import OutsideError
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.prompts import Rng
from olmo.preprocessing.tokens import ChatTokenizer, MessageWeight, RowConfig, Turn
from olmo.preprocessing.visual import MediaConfig, OutputBounds, VisualInput, VisualPreprocessor
from olmo.tokenizer import MolmoTokenizer
from olmo.types import MultimodalType, VideoFrames


@dataclass
class Molmo2PreprocessorConfig(MediaConfig, RowConfig):
    """Settings of :class:`ExamplePreprocessor`: what is shown, and what is trained on."""


@dataclass
class ExamplePreprocessor:
    """Turns an example (a dict of a dataset) into the numpy arrays of one token row.

    ``topk`` is the share of pooled tokens that the vision backbone removes from videos (0: none);
    it enters ``n_pruned`` only. ``max_sequence_length`` bounds the row after pruning:
    conversations of a tree that would lie wholly beyond it are left out.
    """

    config: Molmo2PreprocessorConfig
    formatter: DataFormatterConfig
    tokenizer: MolmoTokenizer
    image_size: tuple[int, int]
    patch_size: int
    topk: float = 0.0
    prune_from_frame: int = 0
    max_sequence_length: int | None = None

    def __post_init__(self) -> None:
        config, video = self.config, self.config.video
        if not 0 <= self.topk < 1:
            raise ValueError(f"topk must be in [0, 1), got {self.topk}")
        if video.topk is not None and video.topk != self.topk:
            raise ValueError(f"video.topk={video.topk} but the model's topk={self.topk}")
        self.visual = VisualPreprocessor(
            *(config, self.tokenizer, self.image_size, self.patch_size),
            *(self.topk, self.prune_from_frame),
        )
        self._format = self.formatter.build()
        self._chat = ChatTokenizer(self.tokenizer, config)

    def __call__(
        self,
        example: dict[str, Any],
        video: VideoFrames | None = None,
        rng: Rng | None = None,
        is_training: bool = False,
        for_inference: bool = False,
    ) -> dict[str, Any]:
        """Arrays of one example; neither argument is modified.

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
        shown = self._visual(example, video, rng if is_training else None)
        n_pruned = shown.n_pruned if shown else 0
        turns, metadata = self._turns(example, shown, rng, is_training, for_inference)
        limit = self.max_sequence_length
        out: dict[str, Any] = dict(
            self._chat(
                turns,
                shown.blocks if shown else [],
                MessageWeight.of(example.get("weight")),
                None if limit is None else limit + n_pruned,
            )
        )
        if shown is not None:
            metadata |= _sizes(shown, example.get("image"))
            out |= {"images": shown.patches, "token_pooling": shown.pooling}
        self._check_visual_tokens(out)
        length = len(out["input_tokens"])
        is_visual = out["input_tokens"] >= self.tokenizer.vocab_size
        return out | {
            "num_images": np.asarray([len(shown.patches)] if shown else [], dtype=np.int64),
            "multimodal_type": np.asarray([shown.kind] if shown else [], dtype=np.int64),
            "n_pruned": n_pruned,
            "visual_end": int(np.flatnonzero(is_visual)[-1]) + 1 if is_visual.any() else 0,
            "metadata": {
                **example.get("metadata", {}),
                **metadata,
                "n_tokens_before": length,
                "n_tokens_after": length - n_pruned,
            },
        }

    def _check_visual_tokens(self, out: dict[str, Any]) -> None:
        n_tokens = int((out["input_tokens"] == self.tokenizer.ids["<im_patch>"]).sum())
        n_rows = len(out.get("token_pooling", ()))
        if n_tokens != n_rows:
            raise OutsideError(f"{n_tokens} <im_patch> tokens, but {n_rows} visual features")

    def output_bounds(self) -> OutputBounds:
        """The most frames, removed tokens and visual tokens that one example can have."""
        return self.visual.bounds()

    def _visual(
        self, example: dict[str, Any], video: VideoFrames | None, rng: Rng | None
    ) -> VisualInput | None:
        """What the example shows; ``rng`` draws the resolution of a single image in training."""
        image = example.get("image")
        if "video" in example and video is None:
            raise ValueError(f"the frames of video {example['video']} were not given")
        if video is not None and image is not None:
            raise ValueError("an example has either a video or images, this one has both")
        if video is not None:
            self.config.limits.check_subtitle(example.get("subtitle"))
            return self.visual.of_video(video, example.get("subtitle"))
        if image is None:
            return None
        if isinstance(image, (list, tuple)):
            return self.visual.of_images(image)
        p_high_res = example.get("p_high_res")
        if p_high_res is None:
            p_high_res = self.config.image.p_high_res if self.config.image else 0.0
        return self.visual.of_image(image, bool(p_high_res and rng and rng.random() < p_high_res))

    def _turns(
        self,
        example: dict[str, Any],
        shown: VisualInput | None,
        rng: Rng | None,
        is_training: bool,
        for_inference: bool,
    ) -> tuple[list[list[Turn]], dict[str, Any]]:
        """Conversations as text turns (in random order in training), and their metadata."""
        sizes = shown.sizes if shown else []
        if "message_list" not in example:
            one = self._format(example, rng, is_training, for_inference, sizes)
            return [one.pieces], dict(one.metadata)
        messages = list(example["message_list"])
        if is_training and rng is not None:
            messages = [messages[i] for i in rng.permutation(len(messages))]
        found = [self._format(m, rng, is_training, for_inference, sizes) for m in messages]
        return [c.pieces for c in found], dict(found[0].metadata) if len(found) == 1 else {}


def _sizes(shown: VisualInput, image: Any) -> dict[str, Any]:
    if shown.kind != MultimodalType.MULTI_IMAGE:
        return {"image_size": shown.sizes[0]}
    left_out = len(image) - len(shown.sizes)
    out: dict[str, Any] = {"image_group_size": shown.sizes}
    return out | ({"n_images_left_out": left_out} if left_out else {})
