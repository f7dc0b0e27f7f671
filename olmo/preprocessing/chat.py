"""From an example's fields to text turns, and from text turns to token ids with loss weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from olmo.config import Config
from olmo.tokenizer import MolmoTokenizer
from olmo.types import SHARED_SUBSEGMENT

Rng = np.random.Generator | np.random.RandomState

VISUAL_PLACEHOLDER = "<|image|>"
OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

STYLE_RENAMES = {
    "eval_short_answer": "vqa2",
    "eval_multiple_choice": "a_okvqa_mc",
    "video_eval_short_answer": "video_short_answer",
    "video_eval_multiple_choice": "video_multiple_choice",
    "video_eval_multiple_choice_w_subtitle": "video_multiple_choice_w_subtitle",
    "video_short_answer_count_without_pointing": "video_short_answer",
    "video_multiple_choice_count_without_pointing": "video_multiple_choice",
}
UNTAGGED_STYLES = frozenset(
    {
        "user_qa",
        "long_caption",
        "short_caption",
        "video_long_caption",
        "video_short_caption",
        "pointing",
        "point_count",
        "cosyn_point",
        "video_point",
        "video_point_count",
        "video_count",
        "video_count_point",
        "a_okvqa_mc",
        "video_multiple_choice",
        "video_multiple_choice_count_without_pointing",
        "video_multiple_choice_multiple_correct",
        "video_multiple_choice_w_subtitle",
    }
)
"""Styles without a tag in front of the prompt (``demo_or_style_v2``): chat and multiple choice."""

SHORT_ANSWER_PROMPT = "{question}\nReply with a short answer."
MULTIPLE_CHOICE_PROMPT = "{question}\nOnly return the correct answer option.\n{options}"
CAPTION_PROMPTS = {
    "long_caption": "Describe this image in detail.",
    "short_caption": "Describe this image in one sentence.",
    "video_long_caption": "Describe this video in detail.",
    "video_short_caption": "Describe this video in one sentence.",
    "video_transcript": "Write down what is said in this video.",
    "video_motion_caption": "Describe the motion in this video.",
    "video_object_caption": "Describe what the objects in this video do.",
}
"""Prompts of captioning examples that bring no question."""

Message = dict[str, Any]


@dataclass
class DataFormatterConfig(Config):
    """How an example becomes text turns. There is one fixed wording per kind of question."""

    legacy_keys: ClassVar[frozenset[str]] = frozenset(
        [
            "prompt_templates",
            "always_start_with_space",
            "default_inference_len",
            "select_answer",
            "debug",
            "image_last",
            "format_message_list",
            "p_one_message",
            "eval_system_prompt_mapping",
            "p_choice_content_in_mc",
            "template_video_mc_questions",
            "pointing_format",
            "points_decimal_places",
            "use_seperate_non_pointing_qa_style",
            "timestamp_mode",
            "output_timestamp_mode",
            "seconds_decimal_places",
            "p_multi_point_all_image",
            "use_seperate_count_without_pointing_style",
            "sample_random_initial_point",
        ]
    )

    message_format: Literal["qwen3", "role", "none"] = "qwen3"
    system_prompt: Literal["demo_or_style_v2", "style", "no_style", "none"] | None = (
        "demo_or_style_v2"
    )
    """What tag goes before the prompt: see :func:`style_prefix`."""

    def build(self) -> DataFormatter:
        """The formatter of these settings."""
        return DataFormatter(self)


@dataclass(frozen=True)
class Conversation:
    """Text turns, user and assistant alternating (an odd number asks for an answer)."""

    turns: list[str]
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataFormatter:
    """Turns one message (a dict with ``question``, ``options``, ``answer``, ...) into text."""

    config: DataFormatterConfig

    def __call__(
        self,
        message: Message,
        rng: Rng | None = None,
        is_training: bool = False,
        for_inference: bool = False,
    ) -> Conversation:
        """Format ``message``; it is not modified. ``rng`` breaks ties between answers in
        training. ``for_inference`` leaves the last answer out."""
        rng = rng if is_training else None
        metadata: dict[str, Any] = {}
        if "messages" in message:
            turns = list(message["messages"])
        elif "multi_turn_messages" in message:
            parts = message["multi_turn_messages"]
            turns = [t for part in parts for t in _question_and_answer(part, rng, False)[0]]
        else:
            turns, metadata = _question_and_answer(message, rng, for_inference)
        if for_inference and len(turns) % 2 == 0:
            turns = turns[:-1]
        if not turns or not all(isinstance(t, str) for t in turns):
            raise ValueError(f"messages must be a non-empty list of strings, got {turns!r}")
        prefix = style_prefix(_style(message), self.config.system_prompt)
        turns[0] = " ".join(part for part in (prefix, turns[0]) if part)
        return Conversation(_chat_format(turns, self.config.message_format), metadata)


def style_prefix(style: str, system_prompt: str | None) -> str:
    """Tag before the first prompt. ``demo_or_style_v2``: ``style:`` but nothing for chat and
    multiple choice; ``style``: always; ``no_style``, ``none``, None: never."""
    if not style or system_prompt in (None, "none", "no_style"):
        return ""
    untagged = system_prompt == "demo_or_style_v2" and style in UNTAGGED_STYLES
    return "" if untagged else f"{style}:"


def _chat_format(turns: list[str], message_format: str) -> list[str]:
    if message_format == "none":
        return [t if i == 0 else " " + t for i, t in enumerate(turns)]
    if message_format == "role":
        # as published checkpoints were trained: every turn, the first as well, has the space
        return [f" {t}" if i % 2 else f" User: {t} Assistant:" for i, t in enumerate(turns)]
    user = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [
        t if i % 2 else ("<|im_end|>\n" if i else "") + user.format(t) for i, t in enumerate(turns)
    ]


def _style(message: Message) -> str:
    style = message.get("style") or ""
    return STYLE_RENAMES.get(style, style)


def _question_and_answer(
    message: Message, rng: Rng | None, for_inference: bool
) -> tuple[list[str], dict[str, Any]]:
    """``[prompt]`` or ``[prompt, answer]``, and what evaluation needs to know about them."""
    keys = ("answer_idx", "answers", "answer", "points", "options")
    metadata = {k: message[k] for k in keys if k in message}
    style, question = _style(message), message.get("question")
    target: str | None = None
    if "prompt" in message:
        prompt = message["prompt"]
    elif question is None:
        prompt = CAPTION_PROMPTS.get(style, "")
    elif style == "video_short_answer":
        prompt = SHORT_ANSWER_PROMPT.format(question=question)
    elif "options" in message or "unlabelled_options" in message:
        prompt, target, metadata["option_names"] = _multiple_choice(message, question)
    else:
        prompt = question
    if for_inference:
        return [prompt], metadata
    if target is None:
        target = _answer(message, rng)
    if target is None:
        raise ValueError(f"example has no answer to train on; its keys are {sorted(message)}")
    return [prompt, target], metadata


def _multiple_choice(message: Message, question: str) -> tuple[str, str | None, str | list[str]]:
    """Prompt, target and the names of the options (letters, or the options themselves)."""
    names: str | list[str]
    if "options" in message:
        options = list(message["options"])
        if len(options) > len(OPTION_LETTERS):
            raise ValueError(f"{len(options)} options, but only {len(OPTION_LETTERS)} letters")
        names = OPTION_LETTERS[: len(options)]
        lines = [f"{name}. {option}" for name, option in zip(names, options, strict=True)]
    else:
        lines = names = list(message["unlabelled_options"])
    index, target = message.get("answer_idx"), None
    if index is not None:
        if not 0 <= index < len(lines):
            raise ValueError(f"answer_idx {index} is not one of the {len(lines)} options")
        target = lines[index]
    prompt = MULTIPLE_CHOICE_PROMPT.format(question=question, options="\n".join(lines))
    return prompt, target, names


def _answer(message: Message, rng: Rng | None) -> str | None:
    if message.get("answers"):
        counts: Counter[str] = Counter(message["answers"])
        best = [a for a, n in counts.items() if n == max(counts.values())]
        return best[0 if rng is None else int(rng.choice(len(best)))]
    if message.get("answer") is not None:
        answer = str(message["answer"])
        explanation = message.get("explanation")
        return f"{explanation} Answer: {answer}" if explanation else answer
    text: str | None = message.get("text")
    return text


@dataclass(frozen=True)
class MessageWeight:
    """Loss weight of a conversation. None leaves the run's setting (``weight``: 1)."""

    weight: float | None = None
    root_subsegments: bool | None = None
    root_length: bool | None = None

    @classmethod
    def of(cls, value: float | dict[str, Any] | MessageWeight | None) -> MessageWeight:
        """From what an example's ``weight`` holds: a factor, fields by name, or nothing."""
        if isinstance(value, MessageWeight):
            return value
        return cls(**value) if isinstance(value, dict) else cls(weight=value)


@dataclass
class ChatTokenizer:
    """Token ids, targets, loss weights and positions of one or several conversations."""

    tokenizer: MolmoTokenizer
    max_answer_len: int | None = None
    last_message_loss_only: bool = False
    max_text_tokens: int | None = None
    loss_token_weighting: str | None = None

    def __call__(
        self,
        conversations: list[list[str]],
        visual: list[list[int]],
        weight: MessageWeight | None = None,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Token row of the ``conversations`` about the same ``visual`` token blocks.

        Visual blocks replace the placeholders in order, or follow BOS when there are none.
        Returns ``input_tokens``, ``target_tokens``, ``position_ids`` int64 ``[L]``,
        ``loss_masks`` float32 ``[L]`` and, for two or more conversations, ``subsegment_ids``
        int64 ``[L]``. Those share BOS and the visual tokens; conversations that would lie wholly
        beyond ``max_length`` are left out.
        """
        if len(conversations) == 1:
            return self._single(conversations[0], visual, weight or MessageWeight())
        if not conversations:
            raise ValueError("an example needs at least one conversation")
        return self._tree(conversations, visual, weight or MessageWeight(), max_length)

    def _single(
        self, turns: list[str], visual: list[list[int]], weight: MessageWeight
    ) -> dict[str, np.ndarray]:
        ids, loss = self._encode(turns, list(visual))
        ids, loss = [self.tokenizer.bos_id, *ids], [False, *loss]
        if len(turns) % 2:
            inputs, targets, masks = ids, [*ids[1:], 0], np.zeros(len(ids))
        else:
            inputs, targets = ids[:-1], ids[1:]
            masks = self._weigh(loss[1:], sum(loss), 1, weight)
        return _row(inputs, targets, masks, np.arange(len(inputs)))

    def _tree(
        self,
        conversations: list[list[str]],
        visual: list[list[int]],
        weight: MessageWeight,
        max_length: int | None,
    ) -> dict[str, np.ndarray]:
        lead, branches = _split_off_lead(conversations)
        prefix = [self.tokenizer.bos_id, *self.tokenizer.encode(lead)]
        prefix += [i for block in visual for i in block]
        rows: list[tuple[list[int], list[bool]]] = []
        total = len(prefix)
        for turns in branches:
            if len(turns) % 2:
                raise ValueError(f"a tree of {len(branches)} conversations needs all their answers")
            ids, loss = self._encode(turns, [])
            if rows and max_length is not None and total + loss.index(True) >= max_length:
                break
            rows.append((ids, loss))
            total += len(ids) - 1
            n_text = total - sum(map(len, visual))
            if self.max_text_tokens is not None and n_text >= self.max_text_tokens:
                break
        # The last token of a branch is only a target; the prefix predicts the first branch.
        inputs, targets = list(prefix), [*prefix[1:], rows[0][0][0]]
        masks, positions = [np.zeros(len(prefix))], [np.arange(len(prefix))]
        segments = [np.full(len(prefix), SHARED_SUBSEGMENT)]
        start = len(prefix) if len(prefix) > 1 else 0  # text-only trees restart at 0
        for b, (ids, loss) in enumerate(rows):
            inputs += ids[:-1]
            targets += ids[1:]
            n_loss = sum(loss) - (ids[-1] == self.tokenizer.eos_id)
            masks.append(self._weigh(loss[1:], n_loss, len(rows), weight))
            positions.append(start + np.arange(len(ids) - 1))
            segments.append(np.full(len(ids) - 1, b))
        row = _row(inputs, targets, np.concatenate(masks), np.concatenate(positions))
        return row | {"subsegment_ids": np.concatenate(segments).astype(np.int64)}

    def _encode(self, turns: list[str], visual: list[list[int]]) -> tuple[list[int], list[bool]]:
        """Ids and loss flags without BOS; ``visual`` blocks are consumed."""
        n_slots = sum(t.count(VISUAL_PLACEHOLDER) for t in turns)
        if n_slots not in (0, len(visual)):
            raise ValueError(f"{n_slots} {VISUAL_PLACEHOLDER} in the text, {len(visual)} inputs")
        ids: list[int] = [] if n_slots else [i for block in visual for i in block]
        loss = [False] * len(ids)
        blocks = iter(visual)
        for i, turn in enumerate(turns):
            if i % 2:
                answer = [*self.tokenizer.encode(turn), self.tokenizer.eos_id]
                answer = answer[: self.max_answer_len]
                last = i >= len(turns) - 2
                ids += answer
                loss += [last or not self.last_message_loss_only] * len(answer)
                continue
            for k, text in enumerate(turn.split(VISUAL_PLACEHOLDER)):
                new = [*(next(blocks) if k else []), *self.tokenizer.encode(text)]
                ids += new
                loss += [False] * len(new)
        if len(turns) % 2 == 0 and not (loss and loss[-1]):
            raise ValueError("the last turn of a conversation leaves no token to train on")
        return ids, loss

    def _weigh(
        self, loss: list[bool], n_loss: int, n_conversations: int, weight: MessageWeight
    ) -> np.ndarray:
        mode = self.loss_token_weighting or ""
        root_length, root_subsegments = weight.root_length, weight.root_subsegments
        scale = 1.0 if weight.weight is None else float(weight.weight)
        if root_length if root_length is not None else mode == "root_subsegments_root_tokens":
            scale *= 2 / np.sqrt(max(n_loss, 1))
        if root_subsegments if root_subsegments is not None else bool(mode):
            scale /= np.sqrt(n_conversations)
        return np.asarray(loss, dtype=np.float64) * scale


def _split_off_lead(conversations: list[list[str]]) -> tuple[str, list[list[str]]]:
    """Text before the placeholder, which all branches of a tree must share, and the rest."""
    parts = [turns[0].split(VISUAL_PLACEHOLDER) for turns in conversations]
    counts = {sum(t.count(VISUAL_PLACEHOLDER) for t in turns) for turns in conversations}
    if counts == {0}:
        return "", conversations
    leads = {p[0] for p in parts}
    if counts != {1} or any(len(p) != 2 for p in parts) or len(leads) != 1:
        raise ValueError(
            f"conversations about the same input must have one {VISUAL_PLACEHOLDER} each, in the "
            f"first turn and after the same text; found {sorted(counts)} after {sorted(leads)}"
        )
    return parts[0][0], [[p[1], *c[1:]] for p, c in zip(parts, conversations, strict=True)]


def _row(
    inputs: list[int], targets: list[int], masks: np.ndarray, positions: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "input_tokens": np.asarray(inputs, dtype=np.int64),
        "target_tokens": np.asarray(targets, dtype=np.int64),
        "loss_masks": masks.astype(np.float32),
        "position_ids": positions.astype(np.int64),
    }
