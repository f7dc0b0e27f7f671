"""``Molmo2LiteProcessor``: our preprocessing behind transformers' processor interface.

Text, images, videos and chat messages in; ``input_ids`` padded on the left, ``attention_mask`` and
the visual inputs of the model out. Token ids, patches and pooling windows are those of
``ExamplePreprocessor``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as RawTokenizer
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from olmo.config import convert
from olmo.hf_model.lite_config import hub_or_folder
from olmo.hf_model.lite_prompt import padding_in_front
from olmo.hf_model.processing_media import (
    Kind,
    PromptInput,
    from_messages,
    from_template,
    places_in,
    visual_inputs,
)
from olmo.hf_model.processor_files import hf_tokenizer, written_as_text
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.multimodal import Molmo2PreprocessorConfig
from olmo.preprocessing.prompts import check_style
from olmo.preprocessing.tokens import IMAGE, START, ChatTokenizer, Mark, Turn
from olmo.preprocessing.visual import VisualPreprocessor, visual_arrays
from olmo.tokenizer import SPECIAL_TOKENS, MolmoTokenizer, text_tokens

CHAT_FORM = re.compile(
    rf"((Image \d+)?{re.escape(IMAGE.token)}|<\|video\|>)*{re.escape(START.token)}"
)
"""How a text in chat form begins that does not begin with BOS."""

VISUAL_KEYS = ("images", "token_pooling", "num_images", "multimodal_type")
IGNORED = {
    "padding": (True, "longest"),
    "truncation": (False, None),
    "return_tensors": ("pt", "auto", None),
}
"""Arguments of other processors, with the values that change nothing here."""

Conversation = Sequence[dict[str, Any]]


class Molmo2LiteProcessor(ProcessorMixin):
    """Preprocessing of one model.

    ``preprocessing`` (in ``processor_config.json``) holds ``mm_preprocessor`` and
    ``data_formatter`` as in a native ``config.yaml``, ``image_size`` and ``patch_size``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        preprocessing: dict[str, Any] | None = None,
        chat_template: str | None = None,
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        if not preprocessing:
            raise ValueError("processor_config.json: no 'preprocessing' section")
        self.preprocessing = preprocessing
        self.native_tokenizer = native_tokenizer(tokenizer)
        self.config = Molmo2PreprocessorConfig.from_dict(
            preprocessing["mm_preprocessor"], "mm_preprocessor"
        )
        self.formatter = DataFormatterConfig.from_dict(
            preprocessing["data_formatter"], "data_formatter"
        ).build()

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; ``ValueError`` or ``FileNotFoundError`` for anything but a folder."""
        return super().from_pretrained(hub_or_folder(path), *args, **kwargs)

    @classmethod
    def from_native(cls, config: Molmo2Config) -> Molmo2LiteProcessor:
        """The processor of a native model; its tokenizer is loaded."""
        vit = config.vision_backbone.vit
        preprocessing: dict[str, Any] = {
            "mm_preprocessor": config.mm_preprocessor.to_dict(),
            "data_formatter": config.data_formatter.to_dict(),
            "image_size": list(vit.image_default_input_size),
            "patch_size": vit.image_patch_size,
        }
        preprocessing["mm_preprocessor"]["video"]["topk"] = None  # the model's own affair
        tokenizer = hf_tokenizer(config.build_tokenizer(), config.llm.max_sequence_length)
        return cls(tokenizer, preprocessing)

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        max_frames: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Batch of prompts.

        Args:
            text: one or several, written as a template: a question, or text in chat form (it
                begins with BOS or ``<|im_start|>``), used as it is. ``<|image|>`` and
                ``<|video|>`` say where inputs go; without them they precede the text. What a
                user has typed belongs into ``apply_chat_template``.
            images: an ``ImageSource``, a list of them, or a list of lists, one per text.
            videos: the same of ``VideoSource``; frames come as an array.
            max_frames: of each video; None is the model's own number.

        Returns:
            ``input_ids`` and ``attention_mask`` int64 [B, S]; with visual inputs ``images`` uint8
            [B, T, N, patch_dim], ``token_pooling`` int64 [B, P, slots], ``num_images`` and
            ``multimodal_type`` int64 [B, V].
        """
        _check_ignored(kwargs)
        if text is None:
            raise ValueError("a prompt needs a text")
        texts = [text] if isinstance(text, str) else list(text)
        image_lists = _per_prompt(images, texts, "image")
        video_lists = _per_prompt(videos, texts, "video")
        prompts = [
            from_template(self._without_bos(t), i, v, self._in_chat_form(t))
            for t, i, v in zip(texts, image_lists, video_lists, strict=True)
        ]
        return self.encode(prompts, max_frames)

    def apply_chat_template(
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        style: str = "",
        **kwargs: Any,
    ) -> Any:
        """Conversations as text, or with ``tokenize`` as a batch (its ``input_ids`` unless
        ``return_dict``). As text, reserved strings that a user has typed get a space after their
        first character, so that ``text=`` does not take them for the template's own.

        Content parts are ``{"type": "text", "text": ...}`` and ``{"type": "image" or "video"}``
        with the input under its type, ``path`` or ``url`` (a local file). The form is that of the
        checkpoint's training, fixed by ``data_formatter``: a conversation that ends with the user
        asks for an answer. ``style`` is that of the question, as in training data.
        """
        if chat_template is not None:
            raise ValueError("the chat form is fixed by data_formatter: no chat_template is taken")
        options = {"return_tensors": return_tensors, **kwargs, **(processor_kwargs or {})}
        max_frames = options.pop("max_frames", None)
        _check_ignored(options)
        one = bool(conversation) and isinstance(conversation[0], dict)
        many: Any = [conversation] if one else conversation
        prompts = [from_messages(messages, continue_final_message) for messages in many]
        for prompt in prompts:
            prompt.style = style
        if not tokenize:
            texts = [self._as_text(prompt) for prompt in prompts]
            return texts[0] if one else texts
        batch = self.encode(prompts, max_frames)
        return batch if return_dict else batch["input_ids"]

    def encode(self, prompts: Sequence[PromptInput], max_frames: int | None = None) -> BatchFeature:
        """Batch of prompts, padded on the left."""
        visual = self._visual(max_frames)
        rows = [self._row(prompt, visual) for prompt in prompts]
        n_patches = visual.grid[0] * visual.grid[1]
        collator = Collator(None, "longest", n_patches, 3 * visual.patch_size**2)
        batch = collator(rows)
        valid, ids = padding_in_front(batch["input_ids"] >= 0, batch["input_ids"])
        ids = ids.masked_fill(~valid, self.tokenizer.pad_token_id)
        data = {"input_ids": ids, "attention_mask": valid.long()}
        if any("images" in row for row in rows):
            data |= {key: batch[key] for key in VISUAL_KEYS}
        return BatchFeature(data)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the first EOS."""
        tokenizer = self.native_tokenizer
        return tokenizer.decode(tokenizer.before_end(ids), truncate_at_eos=False).strip()

    def to_dict(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing, "processor_class": type(self).__name__}

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *VISUAL_KEYS]

    def _visual(self, max_frames: int | None) -> VisualPreprocessor:
        config = self.config
        if max_frames is not None:
            n_frames = convert(int, max_frames, "max_frames")
            video = dataclasses.replace(config.video, max_frames=n_frames)
            config = dataclasses.replace(config, video=video)
        (h, w), patch = self.preprocessing["image_size"], self.preprocessing["patch_size"]
        return VisualPreprocessor(config, self.native_tokenizer, (h, w), patch)

    def _row(self, prompt: PromptInput, visual: VisualPreprocessor) -> dict[str, Any]:
        """Arrays of one prompt, as the collator wants them."""
        shown = list(visual_inputs(visual, prompt.media))
        blocks = [block for one in shown for block in one.blocks]
        text = ChatTokenizer(self.native_tokenizer)([self._turns(prompt)], blocks)
        ids = text["input_tokens"].tolist()
        if len(prompt.turns) % 2 == 0:
            ids.append(int(text["target_tokens"][-1]))  # a finished answer keeps its EOS
        ids += self.native_tokenizer.encode(prompt.prefill)
        return visual_arrays(shown) | {
            "input_tokens": np.asarray(ids),
            "target_tokens": np.asarray(ids),
            "position_ids": np.arange(len(ids)),
            "loss_masks": np.zeros(len(ids)),
        }

    def _turns(self, prompt: PromptInput) -> list[Turn]:
        """Turns in the chat form of the checkpoint."""
        if prompt.verbatim:
            return prompt.turns
        check_style(prompt.style)
        first = prompt.turns[0]
        message: dict[str, Any] = {"messages": prompt.turns, "style": prompt.style}
        if len(prompt.turns) == 1 and not first.n_places():  # it gets the wording of its style
            message = {"question": str(first), "style": prompt.style}
            message |= {"options": list(prompt.options)} if prompt.options else {}
        return self.formatter(message, for_inference=len(prompt.turns) == 1).pieces

    def _as_text(self, prompt: PromptInput) -> str:
        def written(text: str) -> str:
            return written_as_text(text, self.native_tokenizer)

        turns, bos = self._turns(prompt), str(self.tokenizer.bos_token)
        answered = [Turn.of(t, Mark(bos)) if i % 2 else t for i, t in enumerate(turns)]
        parts = [p for turn in answered for p in turn.pieces]
        texts = [p.token if isinstance(p, Mark) else written(p) for p in parts]
        return bos + IMAGE.token * len(prompt.media) + "".join(texts) + written(prompt.prefill)

    def _in_chat_form(self, text: str) -> bool:
        return text.startswith(str(self.tokenizer.bos_token)) or bool(CHAT_FORM.match(text))

    def _without_bos(self, text: str) -> str:
        return text.removeprefix(str(self.tokenizer.bos_token))


def native_tokenizer(tokenizer: PreTrainedTokenizerFast) -> MolmoTokenizer:
    """Our form of a tokenizer, which never reads a visual token from text."""
    raw = RawTokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    start = raw.token_to_id(SPECIAL_TOKENS[0])
    if start is None:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer lacks {SPECIAL_TOKENS[0]}")
    return MolmoTokenizer(text_tokens(raw, start), start)


def _per_prompt(media: Any, texts: list[str], kind: Kind) -> list[list[Any]]:
    """One list of inputs per text. A flat list is dealt out by placeholders, or one each."""
    n = len(texts)
    media = [] if media is None else media
    if not isinstance(media, (list, tuple)):
        media = [media]
    if not media:
        return [[] for _ in texts]
    if media and all(isinstance(m, (list, tuple)) for m in media):
        if len(media) != n:
            raise ValueError(f"{len(media)} lists of {kind}s for {n} texts")
        return [list(m) for m in media]
    counts = [places_in(t).count(kind) for t in texts]
    if not any(counts):
        counts = [len(media)] if n == 1 else [1] * n
    if sum(counts) != len(media):
        raise ValueError(f"{len(media)} {kind}s for {n} texts, which ask for {counts}")
    queue = iter(media)
    return [[next(queue) for _ in range(count)] for count in counts]


def _check_ignored(kwargs: dict[str, Any]) -> None:
    """``ValueError`` for an argument that would not be honoured."""
    for key, value in kwargs.items():
        if key not in IGNORED:
            raise ValueError(f"unknown argument {key!r} of Molmo2LiteProcessor")
        if value not in IGNORED[key]:
            raise ValueError(f"{key}={value!r} is not supported, only {IGNORED[key]}")
