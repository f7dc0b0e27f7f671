"""From an example's fields to text turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from olmo.config import Config
from olmo.preprocessing.points import point_mode, point_prompt, points_answer

Rng = np.random.Generator | np.random.RandomState

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
        "video_point_track_per_frame",
        "video_point_ground_start_end",
        "video_single_point_track_per_frame",
        "a_okvqa_mc",
        "multi_image_mc",
        "video_multiple_choice",
        "video_multiple_choice_count_without_pointing",
        "video_multiple_choice_multiple_correct",
        "video_multiple_choice_w_subtitle",
    }
)
"""Styles without a tag in front of the prompt (``demo_or_style_v2``): chat and multiple choice."""

SHORT_ANSWER_PROMPT = "{question}\nReply with a short answer."
MULTIPLE_CHOICE_PROMPT = "{question}\nOnly return the correct answer option.\n{options}"
EXPLANATION_PROMPT = "{question} Provide reasoning steps and then give the short answer."
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
        sizes: Sequence[tuple[int, int]] = (),
    ) -> Conversation:
        """Format ``message``; it is not modified. ``rng`` breaks ties between answers in
        training. ``for_inference`` leaves the last answer out. ``sizes`` are width and height of
        what the example shows, for points given in pixels."""
        rng = rng if is_training else None
        metadata: dict[str, Any] = {}
        if "messages" in message:
            turns = list(message["messages"])
        elif "multi_turn_messages" in message:
            parts = message["multi_turn_messages"]
            turns = [t for part in parts for t in _question_and_answer(part, rng, False, sizes)[0]]
        else:
            turns, metadata = _question_and_answer(message, rng, for_inference, sizes)
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
    if style.startswith("eval_multi_image_"):
        return style.removeprefix("eval_")
    return STYLE_RENAMES.get(style, style)


def _question_and_answer(
    message: Message, rng: Rng | None, for_inference: bool, sizes: Sequence[tuple[int, int]]
) -> tuple[list[str], dict[str, Any]]:
    """``[prompt]`` or ``[prompt, answer]``, and what evaluation needs to know about them."""
    keys = ("answer_idx", "answers", "answer", "points", "options")
    metadata = {k: message[k] for k in keys if k in message}
    style, question = _style(message), message.get("question")
    pointing = point_mode(style)
    target = points_answer(message, style, sizes) if pointing and "points" in message else None
    if "prompt" in message:
        prompt = message["prompt"]
    elif pointing:
        prompt = question or point_prompt(message, pointing)
    elif question is None:
        prompt = CAPTION_PROMPTS.get(style, "")
    elif style == "video_short_answer":
        prompt = SHORT_ANSWER_PROMPT.format(question=question)
    elif "_exp" in style:
        prompt = EXPLANATION_PROMPT.format(question=question)
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
