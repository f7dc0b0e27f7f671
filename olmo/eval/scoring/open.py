"""Open answers: texts in pictures, words, numbers; and benchmarks that have options as well."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence

from olmo.eval.scoring.letters import (
    LETTERS,
    by_name,
    gold_letter,
    letter_forms,
    option_number,
    option_texts,
)
from olmo.eval.scoring.score import Metadata, Score, needed, scorer
from olmo.eval.scoring.text import NUMBER_WORDS, clean_answer, edit_distance, only


def answers_of(metadata: Metadata) -> list[str]:
    """``answers``, else ``answer``; ``ValueError`` without either."""
    answers = metadata.get("answers") or needed(metadata, "answer")
    answers = [answers] if isinstance(answers, str) else list(answers)
    if any(answer is None for answer in answers):
        raise ValueError(f"no reference: answers is {answers}")
    return [str(answer) for answer in answers]


# --- texts in documents ------------------------------------------------------------------------


@scorer("anls")
def anls(prediction: str, metadata: Metadata) -> Score:
    """DocVQA, InfographicVQA: 1 - edit distance / longer raw length, of the best reference, in
    lower case and with white space collapsed; 0 below 0.5. The reference implementation keeps the
    white space of references, and 0.5 is 0 as well."""
    answers, text = answers_of(metadata), clean_answer(prediction)
    best = max(_similarity(text, answer, collapse=True) for answer in answers)
    molmo2 = max(_similarity(text, answer, collapse=False) for answer in answers)
    scores = {"molmo2": molmo2 if molmo2 > 0.5 else 0.0}
    return Score(best if best >= 0.5 else 0.0, text or None, answers, scores)


def _similarity(text: str, answer: str, collapse: bool) -> float:
    longest = max(len(text), len(answer))
    text, answer = text.lower(), answer.lower()
    if collapse:
        text, answer = (" ".join(t.split()) for t in (text, answer))
    return 1 - edit_distance(text, answer) / longest if longest else 1.0


# --- charts ------------------------------------------------------------------------------------


@scorer("relaxed_correctness")
def relaxed_correctness(prediction: str, metadata: Metadata) -> Score:
    """ChartQA: a number within 5 per cent of a reference, any other answer the same in lower
    case."""
    answers, text = answers_of(metadata), clean_answer(prediction)
    right = any(_relaxed_equal(text, answer) for answer in answers)
    return Score(float(right), text or None, answers)


def _relaxed_equal(text: str, answer: str) -> bool:
    ours, theirs = _number(text), _number(answer)
    if ours is None or not theirs:
        return text.lower() == answer.lower()
    return abs(ours - theirs) / abs(theirs) <= 0.05


def _number(text: str) -> float | None:
    """What ``float`` reads, so no ``1,400``; a percentage as a fraction."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


# --- answers that ten people gave --------------------------------------------------------------

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_WORDS = {word: str(n) for n, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")

_ENDINGS = {
    "n't": "ai are ca could did do does had has have is might must need ought sha should was were "
    "wo would",
    "n't've": "could had might should would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "": "'ow's'at 'twas ma'am o'clock y'all",
}
_CONTRACTED = [stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split()]
CONTRACTIONS = {w[:i] + w[i + 1 :]: w for w in _CONTRACTED for i, c in enumerate(w) if c == "'"}
CONTRACTIONS["somebody'd"] = "somebodyd"  # this one is the wrong way round in the table of VQA v2
"""A contraction without one of its apostrophes -> the contraction. In lower case, as texts are
when it is used; ``let's`` and ``she's`` are not in that table, as no change."""


def normalize_vqa(text: str) -> str:
    """VQA v2: lower case, numbers up to ten as digits, no articles, ``dont`` is ``don't``.

    A punctuation mark becomes a space, but vanishes if the text has it beside a space, or a number
    with a comma anywhere: ``t-shirt`` is ``t shirt``, ``coca - cola`` is ``coca cola``, ``1,000``
    is ``1000``.
    """
    text = text.replace("\n", " ").replace("\t", " ").lower().strip()
    grouped = re.search(r"\d,\d", text)
    text = text.translate(
        {ord(m): "" if grouped or f"{m} " in text or f" {m}" in text else " " for m in _MARKS}
    )
    # The limit is that of the official script, which takes a flag for a count.
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [_WORDS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalize_text_vqa(text: str) -> str:
    """TextVQA: the same, after commas and question marks are gone and ``'s`` stands alone."""
    text = text.lower().replace(",", "").replace("?", "")
    return normalize_vqa(text.replace("'s", " 's"))


def _leave_one_out(equal: int, of: int) -> float:
    """Mean over the sets that lack one reference of min(equal ones / 3, 1). It is made for ten
    references: a single one leaves none to be equal to, and gives 0."""
    lacking_equal, lacking_other = (min(k / 3, 1.0) for k in (max(equal - 1, 0), equal))
    return (equal * lacking_equal + (of - equal) * lacking_other) / of


def _score(prediction: str, metadata: Metadata, normalize: Callable[[str], str]) -> Score:
    answers, text = answers_of(metadata), clean_answer(prediction)

    def equal(by: Callable[[str], str]) -> int:
        return [by(answer) for answer in answers].count(by(text))

    correct = _leave_one_out(equal(normalize), len(answers))
    molmo2 = min(equal(normalize_vqa) / 3, 1.0)
    return Score(correct, normalize(text) or text or None, answers, {"molmo2": molmo2})


@scorer("vqa_score")
def vqa_score(prediction: str, metadata: Metadata) -> Score:
    """VQA v2, OK-VQA: 0.3 for each annotator who gave this answer, at most 1; in the reference
    implementation a third."""
    return _score(prediction, metadata, normalize_vqa)


@scorer("text_vqa_score")
def text_vqa_score(prediction: str, metadata: Metadata) -> Score:
    """TextVQA: the same with a normalisation of its own, which the reference implementation
    lacks."""
    return _score(prediction, metadata, normalize_text_vqa)


@scorer("a_okvqa_da")
def a_okvqa_da(prediction: str, metadata: Metadata) -> Score:
    """A-OKVQA, direct answers: a third for each of the ten that is the same in lower case, at most
    1."""
    answers, text = answers_of(metadata), clean_answer(prediction).lower()
    equal = sum(answer.strip().lower() == text for answer in answers)
    return Score(min(equal / 3, 1.0), text or None, answers)


# --- options or not ----------------------------------------------------------------------------


def is_choice(metadata: Metadata) -> bool:
    """Whether the question has options: by its ``question_type`` (``multiple-choice``,
    ``multi_choice``), else by its ``answer_idx``."""
    kind = metadata.get("question_type")
    return metadata.get("answer_idx") is not None if kind is None else kind.startswith("multi")


@scorer("real_world_qa")
def real_world_qa(prediction: str, metadata: Metadata) -> Score:
    """RealWorldQA: a letter of A to D, whatever the number of options; else the same words after
    the normalisation of VQA."""
    text = clean_answer(prediction)
    if is_choice(metadata):
        return by_name(text, "ABCD", LETTERS.index(gold_letter(metadata)))
    answers, words = answers_of(metadata), normalize_vqa(text)
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
        options = [text for text in option_texts(metadata) if text.strip()]
        return letter_forms(prediction, {**metadata, "options": options})
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
    lines = text.split("\n")
    for i, line in enumerate(lines, 1):
        marks = (*_KEYS, "=") if i == len(lines) else _KEYS
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
        index = metadata.get("answer_idx")
        if index is None:
            (answer,) = needed(metadata, "answer")
        else:
            answer = choices[option_number(index, len(choices))]
        parsed = _choice(text, choices)
    else:
        (answer,) = needed(metadata, "answer")
        parsed = _free_form(text, metadata)
    return Score(float(parsed == str(answer)), parsed, str(answer))


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
    return only([choice for choice in choices if choice.strip().lower() == text.lower()])


def _free_form(text: str, metadata: Metadata) -> str | None:
    """As the ``answer_type`` wants it: for numbers what Python reads, else the only number, an
    integer truncated, a float rounded to ``precision`` decimals."""
    kind = metadata.get("answer_type")
    if kind == "integer":
        number = _read(int, text)
        return None if number in (None, math.inf, -math.inf) else str(int(number))
    if kind == "float":
        (decimals,) = needed(metadata, "precision")
        number = _read(float, text)
        return None if number is None else str(round(number, int(decimals)))
    return text or None


def _read(kind: Callable[[str], float], text: str) -> float | None:
    """What ``kind`` reads, else the only number."""
    try:
        return kind(text)
    except ValueError:
        found = only(_NUMBER.findall(text.replace("−", "-")))
        return None if found is None else float(found.replace(",", ""))
