"""Example and decoded video in, token row and patches out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from olmo.config import Config, ConfigError
from olmo.patch_grid import pooled_grid
from olmo.preprocessing.chat import (
    ChatTokenizer,
    DataFormatterConfig,
    MessageWeight,
    Rng,
)
from olmo.preprocessing.images import patchify, resize_frames
from olmo.preprocessing.video import (
    VideoPreprocessorConfig,
    subtitle_token_ids,
    video_token_ids,
    video_token_pooling,
)
from olmo.token_budget import n_removed_tokens
from olmo.tokenizer import MolmoTokenizer
from olmo.types import MultimodalType, VideoFrames


@dataclass
class Molmo2PreprocessorConfig(Config):
    """Settings of :class:`ExamplePreprocessor`.

    The fields of ``video`` may also be given flat, as old configs and command lines do.
    """

    legacy_keys: ClassVar[frozenset[str]] = frozenset({"image"})

    video: VideoPreprocessorConfig = dataclasses.field(default_factory=VideoPreprocessorConfig)
    max_answer_len: int | None = None
    last_message_loss_only: bool = False
    max_text_tokens: int | None = None
    loss_token_weighting: Literal["root_subsegments", "root_subsegments_root_tokens"] | None = (
        "root_subsegments_root_tokens"
    )

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Move flat video keys into ``video``; a contradiction is an error."""
        names = {f.name for f in dataclasses.fields(VideoPreprocessorConfig)}
        flat = {k: data.pop(k) for k in names | VideoPreprocessorConfig.legacy_keys if k in data}
        if not flat:
            return data
        nested = data.get("video") or {}
        if isinstance(nested, VideoPreprocessorConfig):
            nested = nested.to_dict()
        for key, value in VideoPreprocessorConfig.upgrade(flat).items():
            if key in nested and VideoPreprocessorConfig.upgrade({key: nested[key]})[key] != value:
                raise ConfigError(
                    f"{key}={value!r} contradicts video.{key}={nested[key]!r}: give one of them"
                )
        data["video"] = nested | flat
        return data


@dataclass(frozen=True)
class OutputBounds:
    """The most that one example can hold: video frames, and tokens that pruning removes."""

    max_frames: int
    max_removed: int


@dataclass
class ExamplePreprocessor:
    """Turns an example (a dict of a dataset) into the numpy arrays of one token row.

    ``topk`` is the share of pooled tokens that the vision backbone removes (0: none); it enters
    ``n_pruned`` only. ``max_sequence_length`` bounds the row after pruning: conversations of a
    tree that would lie wholly beyond it are left out.
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
        (h, w), p = self.image_size, self.patch_size
        if h % p or w % p:
            raise ValueError(f"image size {h}x{w} is no multiple of the patch size {p}")
        if not 0 <= self.topk < 1:
            raise ValueError(f"topk must be in [0, 1), got {self.topk}")
        video = self.config.video
        if video.topk is not None and video.topk != self.topk:
            raise ValueError(f"video.topk={video.topk} but the model's topk={self.topk}")
        self._grid = (h // p, w // p)
        cells = pooled_grid(*self._grid, video.pooling_h, video.pooling_w)
        self._cells = cells[0] * cells[1]
        self._format = self.formatter.build()
        self._chat = ChatTokenizer(
            self.tokenizer,
            max_answer_len=self.config.max_answer_len,
            last_message_loss_only=self.config.last_message_loss_only,
            max_text_tokens=self.config.max_text_tokens,
            loss_token_weighting=self.config.loss_token_weighting,
        )

    def __call__(
        self,
        example: dict[str, Any],
        video: VideoFrames | None = None,
        rng: Rng | None = None,
        is_training: bool = False,
        for_inference: bool = False,
    ) -> dict[str, Any]:
        """Arrays of one example; neither argument is modified.

        ``input_tokens``, ``target_tokens``, ``position_ids`` int64 ``[L]``, ``loss_masks``
        float32 ``[L]``, ``subsegment_ids`` int64 ``[L]`` (trees only); ``images`` uint8 ``[n, N,
        3 * p * p]`` and ``token_pooling`` int64 ``[n * cells, window]`` (videos only, -1 = no
        patch); ``num_images`` and ``multimodal_type`` int64 ``[1]``, ``[0]`` for text;
        ``n_pruned`` and ``visual_end`` (index after the last visual token) int; ``metadata``.
        """
        if "image" in example:
            raise ValueError("images are not supported yet: the example has an 'image' key")
        if "video" in example and video is None:
            raise ValueError(f"the frames of video {example['video']} were not given")
        visual = [] if video is None else [self._visual_ids(video, example.get("subtitle"))]
        n_frames = 0 if video is None else len(video.frames)
        n_pruned = self._n_pruned(n_frames)
        turns, metadata = self._turns(example, rng, is_training, for_inference)
        limit = self.max_sequence_length
        out: dict[str, Any] = dict(
            self._chat(
                turns,
                visual,
                MessageWeight.of(example.get("weight")),
                None if limit is None else limit + n_pruned,
            )
        )
        if video is not None:
            h, w = video.frames.shape[1:3]
            metadata["image_size"] = (w, h)
            frames = resize_frames(video.frames, self.image_size)
            out["images"] = patchify(frames, self.patch_size)
            out["token_pooling"] = video_token_pooling(self.config.video, n_frames, *self._grid)
        length = len(out["input_tokens"])
        is_visual = out["input_tokens"] >= self.tokenizer.vocab_size
        return out | {
            "num_images": np.asarray([n_frames] if n_frames else [], dtype=np.int64),
            "multimodal_type": np.asarray(
                [MultimodalType.VIDEO] if n_frames else [], dtype=np.int64
            ),
            "n_pruned": n_pruned,
            "visual_end": int(np.flatnonzero(is_visual)[-1]) + 1 if is_visual.any() else 0,
            "metadata": {
                **example.get("metadata", {}),
                **metadata,
                "n_tokens_before": length,
                "n_tokens_after": length - n_pruned,
            },
        }

    def output_bounds(self) -> OutputBounds:
        """Largest number of frames and of removed tokens that one example can have."""
        max_frames = self.config.video.max_frames
        return OutputBounds(max_frames, self._n_pruned(max_frames))

    def _n_pruned(self, n_frames: int) -> int:
        if not self.topk or not n_frames:
            return 0
        return n_removed_tokens(n_frames, self._cells, self.topk, self.prune_from_frame)

    def _visual_ids(self, video: VideoFrames, subtitle: Any) -> list[int]:
        n_frames, config = len(video.frames), self.config.video
        if not 0 < n_frames <= config.max_frames or len(video.timestamps) != n_frames:
            raise ValueError(
                f"video of {n_frames} frames and {len(video.timestamps)} times, expected 1 to "
                f"max_frames={config.max_frames} of both"
            )
        ids = video_token_ids(config, self.tokenizer, video.timestamps, self._cells)
        return ids + subtitle_token_ids(config, self.tokenizer, subtitle, video.timestamps)

    def _turns(
        self, example: dict[str, Any], rng: Rng | None, is_training: bool, for_inference: bool
    ) -> tuple[list[list[str]], dict[str, Any]]:
        """Conversations as text turns (in random order in training), and their metadata."""
        if "message_list" not in example:
            one = self._format(example, rng, is_training, for_inference)
            return [one.turns], dict(one.metadata)
        messages = list(example["message_list"])
        if is_training and rng is not None:
            messages = [messages[i] for i in rng.permutation(len(messages))]
        found = [self._format(m, rng, is_training, for_inference) for m in messages]
        return [c.turns for c in found], dict(found[0].metadata) if len(found) == 1 else {}
