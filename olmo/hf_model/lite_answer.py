"""Questions about files, answered: what the pruned model offers on top of ``generate``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from olmo.config import convert
from olmo.device import device_seconds, timed
from olmo.hf_model.processing import Molmo2LiteProcessor
from olmo.hf_model.processing_media import VideoSource, from_question
from olmo.preprocessing.images import ImageSource

STAGES = ("preprocess", "vision", "prefill", "decode")
"""Reading and cutting files; ViT and connector; the language model on the prompt; the answer."""


@dataclass(frozen=True)
class Answer:
    """What a question gave.

    Attributes:
        text: the answer.
        n_tokens_before: tokens of the prompt before pruning.
        n_tokens_after: tokens of the prompt that the language model saw.
        n_new_tokens: generated tokens, the end token included.
        seconds: per stage of ``STAGES``.
    """

    text: str
    n_tokens_before: int
    n_tokens_after: int
    n_new_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)


class AnswerMixin:
    """Part of ``Molmo2LiteForConditionalGeneration``."""

    processor: Molmo2LiteProcessor | None = None
    """Set by ``olmo.load_model``; otherwise read from the model's folder when first needed."""

    def answer(
        self: Any,
        question: str,
        videos: VideoSource | Sequence[VideoSource] = (),
        images: ImageSource | Sequence[ImageSource] = (),
        *,
        topk: float | None = None,
        max_frames: int | None = None,
        max_new_tokens: int = 256,
        style: str = "",
        options: Sequence[str] = (),
        **generate_kwargs: Any,
    ) -> Answer:
        """Answer a question about images and videos, which precede its text in this order. The
        question and the options are ordinary text, whatever characters they have.

        Args:
            videos, images: one or several.
            topk: share of every video's tokens to remove; None is the model's own.
            max_frames: of each video; None is the model's own.
            style: kind of the question as in training data, such as ``video_short_answer``; its
                wording and tag are added to the question.
            options: answers to choose from.
            generate_kwargs: for transformers' ``generate``.

        Raises:
            ValueError: files that cannot be read, a prompt that is too long, a bad ``topk``.
        """
        _check(question, style, options)
        convert(int, max_new_tokens, "max_new_tokens")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        seconds: dict[str, float] = {}
        processor = self.get_processor()
        with timed("preprocess", seconds, self.device):
            given = from_question(question, _several(images), _several(videos))
            given.style, given.options = style, options
            batch = processor.encode([given], max_frames).to(self.device)
        with timed("vision", seconds, self.device):
            prompt = self.encode_prompt(**batch, topk=topk)
        prompt.check_length(self.model, max_new_tokens)
        clock = _FirstToken(self.device)
        with timed("prefill", seconds, self.device):
            ids = self.generate_from_prompt(
                prompt,
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([clock]),
                **generate_kwargs,
            )
        seconds["decode"] = time.perf_counter() - clock.at
        seconds["prefill"] -= seconds["decode"]
        new = ids[0, prompt.row.input_ids.shape[1] :].tolist()
        return Answer(
            processor.decode_answer(new),
            int(batch["attention_mask"].sum()),
            int(prompt.lengths[0]),
            len(new),
            seconds,
        )

    def generate_from_video(
        self, video: VideoSource, question: str, *, topk: float | None = None, **kwargs: Any
    ) -> str:
        """Text of :meth:`answer` for one video: a path or its frames, not a list of videos."""
        _check_one(video, "video")
        return self.answer(question, videos=[video], topk=topk, **kwargs).text

    def generate_from_image(self, image: ImageSource, question: str, **kwargs: Any) -> str:
        """Text of :meth:`answer` for one image."""
        _check_one(image, "image")
        return self.answer(question, images=[image], **kwargs).text

    def get_processor(self: Any) -> Molmo2LiteProcessor:
        """The model's processor. ``ValueError`` for a model that was not loaded from a folder."""
        if self.processor is None:
            if not self.config.name_or_path:
                raise ValueError("this model has no processor: set model.processor")
            self.processor = Molmo2LiteProcessor.from_pretrained(self.config.name_or_path)
        return self.processor


def _check(question: Any, style: Any, options: Any) -> None:
    """``ValueError`` for arguments of the wrong kind."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question: expected text, got {question!r}")
    if not isinstance(style, str):
        raise ValueError(f"style: expected text, got {style!r}")
    listed = isinstance(options, (list, tuple))
    if not listed or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options: expected a list of texts, got {options!r}")


def _check_one(medium: Any, kind: str) -> None:
    """``ValueError`` for anything but one video or image, such as a list of files."""
    listed = medium if isinstance(medium, (list, tuple)) else []
    if medium is None or any(isinstance(m, (str, Path, list, tuple)) for m in listed):
        hint = f"generate_from_{kind} takes one {kind}; answer({kind}s=[...]) takes several"
        raise ValueError(f"{kind}: {hint}, got {medium!r}")


def _several(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


class _FirstToken(StoppingCriteria):
    """Notes when the first new token was there; stops nothing."""

    def __init__(self, device: torch.device):
        self.device, self.at = device, 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        if not self.at:
            self.at = device_seconds(self.device)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
