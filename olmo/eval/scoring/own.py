"""Our own rules, for data that are no benchmark: each example by what its reference is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from olmo.eval.scoring.letters import option_number, shown_names
from olmo.eval.scoring.open import answers_of
from olmo.eval.scoring.score import (
    OWN_DATA,
    PREDICTIONS_ONLY,
    QUESTION_ANSWERING,
    SCORERS,
    Metadata,
    Score,
    needed,
    scorer,
)
from olmo.eval.scoring.text import NUMBER_WORDS, clean_answer, normalize_answer, only


@scorer(OWN_DATA)
def own_data(prediction: str, metadata: Metadata) -> Score:
    """Multiple choice with an ``answer_idx``; a number where the one answer is a number; else a
    short answer; without any reference the prediction alone."""
    if metadata.get("answer_idx") is None:
        if not (metadata.get("answers") or metadata.get("answer")):
            return predictions_only(prediction, metadata)
        if metadata.get("options"):
            needed(metadata, "answer_idx")
        answers = answers_of(metadata)
        if len(answers) == 1 and is_number(answers[0]):
            return number(prediction, metadata)
    return question_answering(prediction, metadata)


@scorer(QUESTION_ANSWERING)
def question_answering(prediction: str, metadata: Metadata) -> Score:
    """Multiple choice where there is an ``answer_idx``, else a short answer."""
    style = "short_answer" if metadata.get("answer_idx") is None else "multiple_choice"
    return SCORERS[style](prediction, metadata)


@scorer(PREDICTIONS_ONLY)
def predictions_only(prediction: str, metadata: Metadata) -> Score:
    """Test splits without public answers."""
    return Score(None, prediction or None)


@scorer("short_answer")
def short_answer(prediction: str, metadata: Metadata) -> Score:
    """Equal to one of the answers, after normalisation."""
    answers, text = answers_of(metadata), normalize_answer(prediction)
    right = text in {normalize_answer(answer) for answer in answers}
    return Score(float(right), text or None, answers[0] if len(answers) == 1 else answers)


# --- numbers ------------------------------------------------------------------------------------

_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_FIGURE = re.compile(r"(?<![\w.,:/])[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?![\w:/]|[.,]\d)")
_WORD = re.compile(rf"\b({'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)


@scorer("number")
def number(prediction: str, metadata: Metadata) -> Score:
    """The only number of the prediction equals that of the answer. ``1,400`` is 1400,
    words up to ``ten`` count where there are no figures; times and dates are no numbers. An answer
    with no number, or with several different ones, cannot be read."""
    (answer,) = answers_of(metadata)
    gold, found = only(_numbers(answer)), only(_numbers(clean_answer(prediction)))
    if gold is None:
        raise ValueError(f"no reference: {answer!r:.80} is not one number")
    return Score(float(found == gold), found, gold)


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    return _FIGURE.fullmatch(_GROUPED.sub("", text.strip())) is not None and len(text) < 40


def _numbers(text: str) -> list[float]:
    """Different numbers of a text, as ``float`` reads them."""
    figures = [float(figure) for figure in _FIGURE.findall(_GROUPED.sub("", text))]
    words = [] if figures else [float(NUMBER_WORDS.index(w.lower())) for w in _WORD.findall(text)]
    return [*{figure for figure in (*figures, *words) if math.isfinite(figure)}]


# --- options ------------------------------------------------------------------------------------

_NAME_ENDS = r"(?=\s*$|[)\]]|[.,:;!?](?!\w))"
"""After an option name: the end, a closing bracket, or punctuation that ends the word."""


@scorer("multiple_choice")
def multiple_choice(prediction: str, metadata: Metadata) -> Score:
    """``parse_choice`` by name or by text of an option; options without a label are named by their
    text."""
    options, names = metadata.get("options"), shown_names(metadata)
    if options is None and all(len(name) > 1 for name in names):
        options = names
    gold = option_number(needed(metadata, "answer_idx")[0], len(names))
    choice = parse_choice(prediction, names, options)
    parsed = None if choice is None else names[choice]
    return Score(float(choice == gold), parsed, names[gold])


def parse_choice(
    text: str, option_names: Sequence[str], options: Sequence[str] | None = None
) -> int | None:
    """Index of the option that ``text`` answers with, or None when there is no clear one.

    Read is what follows the last ``Answer:``, if anything does. The first rule that hits decides:

    1. The text starts with a name in any case that is bracketed, punctuated or alone:
       ``(B)``, ``b)``, ``B. a book``, ``B``.
    2. The text equals one option.
    3. Rule 1 after ``answer is``: ``The answer is (b).``
    4. The first name that is clearly an option: bracketed (``(b)``), after ``option``, or a
       capital letter as a word. A capital ``A`` or ``I`` before a lower-case word (but ``or`` and
       ``and``) is an article or a pronoun, not an option; neither a name after ``not`` counts nor
       a letter that is part of the text of an option (``the red A``).
    5. The text contains one option. An option that is part of another contained one does not
       count: ``dark red`` is not also ``red``.

    Refusals and empty texts match none of these.
    """
    after = re.split(r"answer\s*:", text, flags=re.IGNORECASE)[-1]
    text = (after if after.strip() else text).strip(" \t\r\n\"'*`")
    texts = _option_texts(option_names, options) if options else []
    index = {name.lower(): i for i, name in enumerate(option_names)}
    starts, is_answer, anywhere = _choice_patterns(option_names)

    def named(pattern: re.Pattern[str], text: str) -> int | None:
        match = pattern.search(text)
        return match and index[next(g for g in match.groups() if g is not None).lower()]

    answer = normalize_answer(text)
    found = (
        named(starts, text),
        only([i for i, t in enumerate(texts) if t and t == answer]),
        named(is_answer, text),
        named(anywhere, _without_options(text, texts)),
        only(_contained(answer, texts)),
    )
    return next((i for i in found if i is not None), None)


def _choice_patterns(names: Sequence[str]) -> list[re.Pattern[str]]:
    """Rules 1, 3 and 4 of ``parse_choice``; each hit has exactly one group that is not None."""
    any_case = f"(?i:{_alternatives(names)})"
    bracketed = rf"[(\[]({any_case})[)\]]"
    punctuated = rf"({any_case}){_NAME_ENDS}"
    word = r"(?<![\w./'’-])"
    capital = r"(?!)"  # names other than letters are never read out of running text
    if letters := [n.upper() for n in names if n.isalpha()]:
        article = r"(?![AI]\s+(?!(?:or|and)\b)[a-z])"
        capital = rf"{article}({_alternatives(letters)})(?![\w/'’-])"
    anywhere = (
        rf"(?<!\w){bracketed}",
        rf"(?i:\b(?:option|choice|letter))\s+{punctuated}",
        rf"{word}{capital}",
    )
    is_answer = r"(?i:\banswer(?:\s+(?:is|would\s+be))?\s*:?\s*(?:option|choice|letter)?)\s*\**"
    return [
        re.compile(rf"^(?:{bracketed}|{punctuated})"),
        re.compile(rf"{is_answer}(?:{bracketed}|{word}(?:{punctuated}|{capital}))"),
        re.compile(rf"(?<!\bnot )(?:{'|'.join(anywhere)})"),
    ]


def _alternatives(names: Sequence[str]) -> str:
    return "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True))


def _option_texts(names: Sequence[str], options: Sequence[str]) -> list[str]:
    """Normalised texts, without the ``A. `` that some data sets put before them."""
    return [
        normalize_answer(re.sub(rf"^\(?{re.escape(name)}[.):]\s+", "", option))
        for name, option in zip(names, options, strict=True)
    ]


def _without_options(text: str, option_texts: Sequence[str]) -> str:
    """``text`` with every option of several words blanked, the longest first."""
    for option in sorted(option_texts, key=len, reverse=True):
        words = option.split()
        if len(words) > 1:
            pattern = r"\W+".join(map(re.escape, words))
            text = re.sub(rf"(?i)\b{pattern}\b", "_", text)
    return text


def _contained(answer: str, texts: Sequence[str]) -> list[int]:
    """Texts whose words stand in ``answer`` in a row and not only inside another such text."""
    found = [i for i, t in enumerate(texts) if t and f" {t} " in f" {answer} "]
    return [
        i for i in found if not any(j != i and f" {texts[i]} " in f" {texts[j]} " for j in found)
    ]
