"""Benchmarks that ask both for options and for open answers: RealWorldQA, MMMU, MathVista."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence

from olmo.eval.scoring.choices import four_letters
from olmo.eval.scoring.letters import LETTERS, filled_letter_forms
from olmo.eval.scoring.open import answers_of
from olmo.eval.scoring.score import Metadata, Score, needed, scorer
from olmo.eval.scoring.text import clean_answer
from olmo.eval.scoring.vqa import normalize_vqa


def is_choice(metadata: Metadata) -> bool:
    """Whether the question has options: by its ``question_type`` (``multiple-choice``,
    ``multi_choice``), else by its ``answer_idx``."""
    kind = metadata.get("question_type")
    return metadata.get("answer_idx") is not None if kind is None else kind.startswith("multi")


# --- RealWorldQA -------------------------------------------------------------------------------


@scorer("real_world_qa")
def real_world_qa(prediction: str, metadata: Metadata) -> Score:
    """RealWorldQA: a letter of A to D, whatever the number of options; else the same words after
    the normalisation of VQA."""
    if is_choice(metadata):
        return four_letters(prediction, metadata)
    answers, text = answers_of(metadata), clean_answer(prediction)
    words = normalize_vqa(text)
    right = float(words in [normalize_vqa(answer) for answer in answers])
    return Score(right, words or text or None, answers, {"molmo2": right})


# --- MMMU --------------------------------------------------------------------------------------

_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?(?<!\w)\d{1,3}(?:,\d{3})+(?!\w)"),
    re.compile(r"-?\d+(?:\.\d+)?e[+-]?\d+"),
    re.compile(r"-?(?:\d*\.\d+|\d+(?!\w))(?!e[+-]?\d|[,\d])"),
)


@scorer("mmmu")
def mmmu(prediction: str, metadata: Metadata) -> Score:
    """MMMU: a letter among the options that are not empty; else a number or a text of the answer,
    which any of several references may equal. The reference implementation takes a list of these
    for one text: ``molmo2_open``. For letters it draws one where it finds none."""
    if is_choice(metadata):
        return filled_letter_forms(prediction, metadata)
    answers, as_text = _references(metadata)
    keys = _key_parts(prediction)
    theirs = float(_open_equal(keys, as_text))
    parsed = keys if any(keys) else None
    return Score(float(_open_equal(keys, answers)), parsed, answers, {"molmo2_open": theirs})


def _references(metadata: Metadata) -> tuple[list[str], list[str]]:
    """The references; and the one text that the hub's table has in their place."""
    answers = answers_of(metadata)
    if len(answers) > 1:
        return answers, [str(answers)]
    try:
        listed = ast.literal_eval(answers[0]) if answers[0].startswith("[") else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        listed = None
    if isinstance(listed, list) and listed and all(isinstance(text, str) for text in listed):
        return listed, answers  # but [0, 1] is an interval
    return answers, answers


def _key_parts(prediction: str) -> list[str]:
    """What an open answer comes down to: of each line the shortest text after a word such as
    ``is``; the whole answer if there is none."""
    text, found = clean_answer(prediction).strip(".").lower(), []
    *_, last = lines = list(enumerate(text.split("\n")))
    for i, line in lines:
        marks = (*_KEYS, "=") if i == last[0] else _KEYS
        parts = [line.rpartition(mark)[2].strip() for mark in marks if mark in line]
        part = min(parts, key=len, default="")
        if part and part not in list(":,.!?;'"):
            found.append(part)
    return found or [text]


def _open_equal(keys: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether a number in ``keys`` equals one of ``answers``, to two decimals, or a text contains
    one."""
    read = [n for key in keys for pattern in _NUMBERS for n in pattern.findall(key)]
    numbers, texts = _forms([*keys, *read])
    right, parts = _forms(answers)
    return bool(numbers & right) or any(part in text for text in texts for part in parts)


def _forms(texts: Sequence[str]) -> tuple[set[float], set[str]]:
    """The numbers, to two decimals, and the texts among ``texts``. A single character counts
    beside a space only."""
    numbers, others = set(), set()
    for text in map(str.strip, texts):
        try:
            numbers.add(round(float(text.replace(",", "")), 2))
        except ValueError:
            others |= {f" {text}", f"{text} "} if len(text) == 1 else {text}
    return numbers, {text.lower() for text in others}


# --- MathVista ---------------------------------------------------------------------------------

_LETTER = re.compile(r"\(?([A-Z])(?:[.:)]+\s*(.*))?", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])(?<!\d,)[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
    r"(?![.,]?\d)"
)


@scorer("math_vista")
def math_vista(prediction: str, metadata: Metadata) -> Score:
    """MathVista without GPT, which extracts answers in the official rule: a choice by its letter
    or its text, the only number of an answer; else wrong. So there is no ``molmo2`` either."""
    text = prediction.strip()
    if is_choice(metadata):
        choices = list(metadata.get("choices") or needed(metadata, "options")[0])
        answer = _gold_choice(metadata, choices)
        parsed = _choice(text, choices)
    else:
        (answer,) = needed(metadata, "answer")
        kind = metadata.get("answer_type")
        if kind == "integer":
            parsed = _integer(text)
        elif kind == "float":
            parsed = _float(text, int(needed(metadata, "precision")[0]))
        else:
            parsed = text or None
    return Score(float(parsed == str(answer)), parsed, str(answer))


def _gold_choice(metadata: Metadata, choices: Sequence[str]) -> str:
    index = metadata.get("answer_idx")
    if index is None:
        return needed(metadata, "answer")[0]
    if not 0 <= int(index) < len(choices):
        raise ValueError(f"no reference: answer_idx {index} is not one of {len(choices)} choices")
    return choices[int(index)]


def _choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that ``B``, ``(B)``, ``B. its text`` or its text names. A letter goes first, as in
    the official rule: choices may be letters in another order."""
    if found := _LETTER.fullmatch(text):
        letter, rest = found.groups()
        named = dict(zip(LETTERS, choices, strict=False)).get(letter)
        if named is not None and (not rest or rest.lower() == named.strip().lower()):
            return named
    if text in choices:
        return text
    alike = [choice for choice in choices if choice.strip().lower() == text.lower()]
    return alike[0] if len(alike) == 1 else None


def _integer(text: str) -> str | None:
    """What ``int`` reads, else the only number, truncated."""
    try:
        return str(int(text))
    except ValueError:
        number = _only_number(text)
        return None if number is None or not math.isfinite(number) else str(int(number))


def _float(text: str, decimals: int) -> str | None:
    """What ``float`` reads, else the only number, rounded."""
    try:
        number: float | None = float(text)
    except ValueError:
        number = _only_number(text)
    return None if number is None else str(round(number, decimals))


def _only_number(text: str) -> float | None:
    found = _NUMBER.findall(text.replace("−", "-"))
    return float(found[0].replace(",", "")) if len(found) == 1 else None
