"""From the fields of a message to the turns of a conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from olmo.config import Config, FilePath
from olmo.preprocessing.choices import multiple_choice
from olmo.preprocessing.counting import asks_for_count
from olmo.preprocessing.points import point_mode, point_prompt, points_answer, tenths
from olmo.preprocessing.prompts import Rng, Wordings, style_prefix
from olmo.preprocessing.tokens import CONTROL, Turn

SHORT_ANSWER_STYLES = ("video_short_answer", "video_short_answer_count_without_pointing")
"""Styles whose questions get a wording that asks for brevity."""
EXPLANATION_PROMPT = "{question} Provide reasoning steps and then give the short answer."
FORMATS = {
    "qwen3": {
        "between": "<|im_end|>\n",
        "user": "<|im_start|>user\n",
        "user_end": "<|im_end|>\n",
        "answer": "<|im_start|>assistant\n",
    },
    "role": {"first": " ", "between": " ", "user": "User: ", "answer": " Assistant:", "turn": " "},
    "none": {"first": " ", "between": " ", "turn": " "},
}
"""``message_format`` -> texts around the turns. ``between`` precedes the later questions, ``first``
(only with ``always_start_with_space``) the first one, ``answer`` asks for an answer, ``turn``
precedes the answer itself."""
P_CLOCK_TIME = 0.5
"""How often a caption's times are written ``00:01:02.5`` in training, and not in seconds."""

Message = dict[str, Any]


@dataclass
class DataFormatterConfig(Config):
    """How an example becomes text turns."""

    message_format: Literal["qwen3", "role", "none"] = "qwen3"
    system_prompt: Literal["demo_or_style_v2", "style", "no_style", "none"] | None = (
        "demo_or_style_v2"
    )
    """What tag goes before the prompt: see :func:`style_prefix`."""
    always_start_with_space: bool = False
    """Whether the first turn begins with a space, as later turns do; not in ``qwen3``."""
    prompts: FilePath | None = None
    """A YAML file with wordings of one's own, for some or all of the lists in
    ``olmo/assets/prompts.yaml``."""
    training_prompts: Literal["drawn", "fixed"] = "drawn"
    """Whether training draws wordings and forms of multiple choice for every example, or has
    those of evaluation."""

    def texts(self) -> dict[str, str]:
        """Texts around the turns, of ``FORMATS``."""
        texts = FORMATS[self.message_format]
        return texts if self.always_start_with_space else {**texts, "first": ""}

    def build(self) -> DataFormatter:
        """The formatter of these settings. ``ConfigError`` for a file ``prompts`` that cannot be
        used."""
        return DataFormatter(self, Wordings.load(self.prompts))


@dataclass(frozen=True)
class Conversation:
    """Turns, user and assistant alternating (an odd number asks for an answer)."""

    pieces: list[Turn]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def turns(self) -> list[str]:
        """The turns as people read them; what is a mark in them can no longer be told."""
        return [str(turn) for turn in self.pieces]


@dataclass
class DataFormatter:
    """Turns one message (a dict with ``question``, ``options``, ``answer``, ...) into text."""

    config: DataFormatterConfig
    wordings: Wordings

    def __call__(
        self,
        message: Message,
        rng: Rng | None = None,
        for_inference: bool = False,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> Conversation:
        """Format ``message``; it is not modified. ``rng``, for training, breaks ties between
        answers and draws the wording, unless the message has ``fixed_prompt``. ``for_inference``
        leaves the last answer out. ``sizes`` are width and height of what the example shows, for
        points given in pixels.

        Fields are ordinary text, but the raw ones: in ``prompt``, and in the user's turns of
        ``messages`` (texts, or a ``Turn`` each), ``<|image|>`` is a place. The style of several
        messages (``multi_turn_messages``) is that of the first. With ``no_points`` the user's
        questions that ask for a count begin, in training, with a wording that wants no points."""
        fixed = self.config.training_prompts == "fixed" or message.get("fixed_prompt")
        words = replace(self.wordings, rng=None if fixed else rng)
        metadata: dict[str, Any] = {}
        if "messages" in message:
            turns = _raw_turns(message, words)
        elif "multi_turn_messages" in message:
            flags = {"no_points": message.get("no_points")}
            parts = [flags | part for part in message["multi_turn_messages"]]
            pairs = [_question_and_answer(part, rng, words, False, sizes)[0] for part in parts]
            turns = [t for pair in pairs for t in pair]
            message = {**message, **(parts[0] if parts else {})}
        else:
            turns, metadata = _question_and_answer(message, rng, words, for_inference, sizes)
        if for_inference and len(turns) % 2 == 0:
            turns = turns[:-1]
        if not turns:
            raise ValueError("messages must be a non-empty list of strings, got none")
        prefix = style_prefix(message.get("style") or "", self.config.system_prompt)
        turns[0] = Turn.of(prefix, " " if prefix and turns[0].pieces else "", turns[0])
        return Conversation(_chat_format(turns, self.config.texts()), metadata)


def alternating(said: Iterable[tuple[bool, Turn]]) -> list[Turn]:
    """User and assistant turns in alternation, from what was said by the assistant (True) and by
    others. A system text so goes before the first user turn; turns of the same side are joined,
    and a last question without an answer is left out."""
    out: list[Turn] = []
    for is_answer, turn in said:
        if is_answer and not out:
            out.append(Turn(()))
        if (len(out) % 2 == 0) == is_answer:  # the side that spoke last
            between = "\n\n" if out[-1].pieces and turn.pieces else ""
            out[-1] = Turn.of(out[-1], between, turn)
        else:
            out.append(turn)
    return out[: len(out) // 2 * 2]


def _raw_turns(message: Message, words: Wordings) -> list[Turn]:
    messages = message["messages"]
    if isinstance(messages, str) or not all(isinstance(m, (str, Turn)) for m in messages):
        raise ValueError(f"messages must be a non-empty list of strings, got {messages!r:.80}")
    turns = [
        m if isinstance(m, Turn) else (Turn.of(m) if i % 2 else Turn.read(m))
        for i, m in enumerate(messages)
    ]
    turns[::2] = [Turn.of(_no_points(message, str(t), words), t) for t in turns[::2]]
    return turns


def _no_points(message: Message, question: str, words: Wordings) -> str:
    """What stands before a question that asks for a count but is answered without points."""
    if message.get("no_points") and words.rng is not None and asks_for_count(question):
        return words.text("no_points")
    return ""


def _chat_format(turns: list[Turn], texts: dict[str, str]) -> list[Turn]:
    def form(name: str) -> Turn:
        return Turn.read(texts.get(name, ""), CONTROL)

    out = []
    for i, turn in enumerate(turns):
        if i % 2:
            out.append(Turn.of(form("turn"), turn))
        else:
            start = form("between" if i else "first")
            out.append(Turn.of(start, form("user"), turn, form("user_end"), form("answer")))
    return out


def _question_and_answer(
    message: Message,
    rng: Rng | None,
    words: Wordings,
    for_inference: bool,
    sizes: Sequence[tuple[int, int]],
) -> tuple[list[Turn], dict[str, Any]]:
    """``[prompt]`` or ``[prompt, answer]``, and what evaluation needs to know about them."""
    keys = ("answer_idx", "answers", "answer", "points", "options")
    metadata = {k: message[k] for k in keys if k in message}
    style, question = message.get("style") or "", message.get("question")
    if prefix := _no_points(message, str(question), words):
        question = f"{prefix}{question}"
    pointing = point_mode(style)
    target = points_answer(message, style, sizes) if pointing and "points" in message else None
    if "prompt" in message:
        prompt = message["prompt"]
    elif pointing:
        prompt = question or point_prompt(message, pointing, words)
    elif question is None:
        prompt = _caption_prompt(message, style, words)
    elif style in SHORT_ANSWER_STYLES:
        prompt = words.text("short_answer", question=question)
    elif "_exp" in style:
        prompt = EXPLANATION_PROMPT.format(question=question)
    elif "options" in message or "unlabelled_options" in message:
        choice = multiple_choice(message, words)
        prompt, target, metadata["option_names"] = choice.prompt, choice.answer, choice.names
    else:
        prompt = question
    asked = Turn.read(prompt) if "prompt" in message else Turn.of(prompt)
    if for_inference:
        return [asked], metadata
    if target is None:
        target = _answer(message, rng)
    if target is None:
        raise ValueError(f"example has no answer to train on; its keys are {sorted(message)}")
    return [asked, Turn.of(target)], metadata


def _caption_prompt(message: Message, style: str, words: Wordings) -> str:
    """Prompt of a caption, with its moment or span and its object if the style has them."""
    name = style.removesuffix("_in_seconds")
    if name not in words.lists:
        return ""
    rng = words.rng if name == style else None
    clock = rng is not None and rng.random() < P_CLOCK_TIME
    times = {"time": "timestamp", "start": "start_time", "end": "end_time"}
    values = {k: _moment(message[key], clock) for k, key in times.items() if key in message}
    try:
        return words.text(name, object=message.get("object", "the main object"), **values)
    except KeyError as e:
        field = times.get(e.args[0], e.args[0])
        raise ValueError(f"style {style!r} needs {field!r}; got {sorted(message)}") from e


def _moment(seconds: float, clock: bool) -> str:
    """``62.5 seconds`` or ``00:01:02.5``."""
    tenth = tenths(seconds)
    if not clock:
        return f"{tenth} seconds"
    minutes, rest = divmod(round(tenth * 10), 600)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 10:02d}.{rest % 10}"


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
