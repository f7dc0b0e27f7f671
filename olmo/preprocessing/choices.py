"""Multiple choice as text: the one form of evaluation, and the many of training.

Evaluation, and one training example in ten, has the question, ``INSTRUCTION`` and lettered lines,
and the answer is such a line. The other training examples differ in what the answer is (the name
of an option, name and text, or the text), in the names, in how the options are listed and in the
words around them, so that a model follows what it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from olmo.preprocessing.prompts import Rng, Wordings

T = TypeVar("T")

INSTRUCTION = "Only return the correct answer option."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

P_STANDARD = 0.1
P_ONLY_LABEL = 0.25
P_LABELLED = 0.8
P_INLINE = 0.1
P_INSTRUCTION = 0.5
P_COMMON_MARKER = 0.8
P_BULLETS = 0.5
P_OTHER_KIND = {"identifier": 0.2, "label": 0.2}
"""Odds that the names are called so, and not by their kind."""

NAMES: tuple[tuple[str, Sequence[str]], ...] = (
    ("letter", LETTERS),
    ("letter", LETTERS.lower()),
    ("number", [str(i) for i in range(1, 27)]),
    ("numeral", ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"]),
)
"""Kind, and the names of the first options."""
COMMON_MARKERS = ("%s. ", "%s) ", "%s: ", "(%s) ")
ODD_MARKERS = (
    *("[%s] ", "<%s> ", "{%s} ", "%s - ", "%s | ", "%s / ", "%s > ", "%s = ", "%s, "),
    *("*%s* ", "**%s** ", "#%s ", "(%s): ", "[%s]: ", "%s.) ", "- %s: ", "'%s' ", "_%s_ "),
    "%s -> ",
)
SEPARATORS = ("; ", " ||| ")
"""Between options on one line; with names also a plain space."""
BULLETS = "-*•◦▪‣○●→»"


@dataclass(frozen=True)
class Choice:
    """A question with options as text. ``answer`` is None if the right option is not known;
    ``names`` are what the options are called, or their texts."""

    prompt: str
    answer: str | None
    names: str | list[str]


def multiple_choice(message: Mapping[str, Any], wordings: Wordings) -> Choice:
    """The form of evaluation, or if ``wordings`` draws one of training.

    ``options`` are named, ``unlabelled_options`` are not. ``ValueError`` for more options than
    letters, for one that is null and for an ``answer_idx`` that is none of them.
    """
    labelled = "options" in message
    given = message["options" if labelled else "unlabelled_options"]
    if None in given:
        raise ValueError(f"an option is null: {given!r:.200}")
    options = [str(o) for o in given]
    if labelled and len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options, but only {len(LETTERS)} letters")
    right = message.get("answer_idx")
    if right is not None and not 0 <= right < len(options):
        raise ValueError(f"answer_idx {right} is not one of the {len(options)} options")
    if wordings.rng is None or wordings.rng.random() < P_STANDARD:
        return _standard(message["question"], options, right, labelled)
    return _varied(message["question"], options, right, labelled, wordings)


def _standard(question: str, options: list[str], right: int | None, labelled: bool) -> Choice:
    names: str | list[str] = LETTERS[: len(options)] if labelled else options
    lines = [f"{n}. {o}" for n, o in zip(names, options, strict=True)] if labelled else options
    answer = None if right is None else lines[right]
    return Choice("\n".join([question, INSTRUCTION, *lines]), answer, names)


def _varied(
    question: str, options: list[str], right: int | None, may_label: bool, wordings: Wordings
) -> Choice:
    """One of the forms of training. The order of the draws is part of what a seed means."""
    rng = wordings.rng
    assert rng is not None
    only_label = may_label and rng.random() < P_ONLY_LABEL
    labelled = may_label and (only_label or rng.random() < P_LABELLED)
    if may_label and right is not None and _unclear(options, right):
        labelled = True
    inline = rng.random() < P_INLINE
    instructed = rng.random() < P_INSTRUCTION
    marker, kind, names, marks = None, "", options, [""] * len(options)
    if labelled:
        common = rng.random() < P_COMMON_MARKER
        marker = _one(COMMON_MARKERS if common else ODD_MARKERS, rng)
        kind, known = _one([pair for pair in NAMES if len(pair[1]) >= len(options)], rng)
        names = list(known[: len(options)])
        marks = [marker % name for name in names]
    separator = "\n"
    if inline:
        separator = _one(_separators(options, marker), rng)
    elif not labelled and rng.random() < P_BULLETS:
        marks = [_one(BULLETS, rng) + " "] * len(options)
    if labelled:
        usual = 1 - sum(P_OTHER_KIND.values())
        kind = str(rng.choice([*P_OTHER_KIND, kind], p=[*P_OTHER_KIND.values(), usual]))
    lines = [m + o if o.strip() else m.rstrip() for m, o in zip(marks, options, strict=True)]
    answers = names if only_label else lines if labelled else options
    values = {"question": question, "options": separator.join(lines), "kind": kind}
    if instructed:
        named = "choice_only_label" if only_label else "choice_labelled"
        values["instruction"] = wordings.text(named if labelled else "choice_unlabelled", **values)
        name = "choice_frame_instruction"
    else:
        name = "choice_frame_only_label" if only_label else "choice_frame"
    prompt = wordings.text(name, **values)
    return Choice(prompt, None if right is None else answers[right], names)


def _unclear(options: list[str], right: int) -> bool:
    """Whether the text of the right option does not tell it from the others."""
    texts = [option.strip() for option in options]
    return not texts[right] or texts.count(texts[right]) > 1


def _separators(options: list[str], marker: str | None) -> list[str]:
    """Separators that cannot be taken for a part of an option or of a marker."""
    apart = [
        s
        for s in SEPARATORS
        if not any(o.rstrip().endswith(s.strip()) for o in options)
        and not (marker and s.strip() in marker)
    ]
    return [*apart, " "] if marker is not None else apart or ["\n"]


def _one(choices: Sequence[T], rng: Rng) -> T:
    return choices[int(rng.choice(len(choices)))]
