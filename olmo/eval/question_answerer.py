"""A checkpoint that answers single questions about a video or images, as an evaluation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olmo.data.animation import is_video
from olmo.data.examples import prepare
from olmo.eval.answering import on_device
from olmo.eval.loading import load_for_evaluation
from olmo.eval.settings import evaluation_overrides
from olmo.eval.tasks import MC
from olmo.models.loading import select_checkpoint
from olmo.tokenizer import MolmoTokenizer

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2
    from olmo.preprocessing.collator import Collator
    from olmo.preprocessing.multimodal import ExamplePreprocessor


@dataclass(frozen=True)
class Answer:
    """The text, and how many tokens went in (after pruning) and came out."""

    text: str
    n_prompt_tokens: int
    n_new_tokens: int


@dataclass
class QuestionAnswerer:
    """Answers one question per forward pass, so that no answer depends on another."""

    model: Molmo2
    tokenizer: MolmoTokenizer
    preprocessor: ExamplePreprocessor
    collator: Collator
    device: torch.device

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        overrides: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> QuestionAnswerer:
        """Load a checkpoint with ``overrides`` of its model config; weights in ``dtype`` (None:
        bf16 on a GPU, else float32)."""
        device, folder = torch.device(device), select_checkpoint(checkpoint)
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        over = evaluation_overrides(folder, overrides or {})
        model = load_for_evaluation(folder, over, device, dtype)
        tokenizer = model.config.build_tokenizer()
        preprocessor = model.config.build_preprocessor(tokenizer)
        return cls(model, tokenizer, preprocessor, model.config.build_collator(), device)

    def answer(
        self,
        question: str,
        media: Sequence[Any] = (),
        max_new_tokens: int = 256,
        until: Sequence[str] = (),
        style: str = MC,
    ) -> Answer:
        """Answer ``question`` about ``media``: the path of one video, or images (paths or PIL).

        The question is ordinary text. The answer is cut before the first of ``until``; a control
        token among them ends it as a token, not as characters. Raises ``ValueError`` for other
        media and for a prompt that is too long, ``VideoReadError`` for a broken video.
        """
        example = {"question": question, "style": style, **media_fields(media)}
        arrays = prepare(example, self.preprocessor)
        batch = self.collator([arrays])
        inputs = on_device({k: v for k, v in batch.items() if k != "metadata"}, self.device)
        tokens = {stop: self.tokenizer.control_id(stop) for stop in filter(None, until)}
        ends = [self.tokenizer.eos_id, *(i for i in tokens.values() if i is not None)]
        out = self.model.generate(inputs, max_new_tokens, ends)
        ids = self.tokenizer.before_end(out.token_ids[0].tolist(), ends)
        text = self.tokenizer.decode(ids, truncate_at_eos=False)
        for stop in (stop for stop, token in tokens.items() if token is None):
            text = text.partition(stop)[0]
        return Answer(text.strip(), int(out.n_prompt_tokens[0]), len(ids))


def media_fields(media: Sequence[Any]) -> dict[str, Any]:
    """The fields of an example with these media; a moving picture counts as a video."""
    videos = [m for m in media if isinstance(m, (str, Path)) and is_video(m)]
    if not media:
        return {}
    if len(videos) == len(media) == 1:
        return {"video": str(videos[0])}
    if videos:
        raise ValueError(f"{len(videos)} videos among {len(media)} media: one video, or images")
    return {"image": media[0] if len(media) == 1 else list(media)}
