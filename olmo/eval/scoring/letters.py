"""Multiple choice by letters, read as each benchmark reads them.

An answer without a letter is wrong. Where the reference implementation then draws at random, asks
a language model or leaves the example out, there is no number of it to compare with.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from olmo.eval.scoring.score import Metadata, Score, Scorer, needed, scorer
from olmo.eval.scoring.text import clean_answer

LETTERS = string.ascii_uppercase
MAX_OPTIONS = 8
"""Letters that can be an answer where an example does not list its options."""


def _longest_first(*phrases: str) -> tuple[str, ...]:
    """So that no phrase leaves a rest of another that begins with it."""
    return tuple(sorted(phrases, key=lambda phrase: (-len(phrase), phrase)))


_SAID = [f"The {kind} {name} is" for kind in ("best", "correct") for name in ("answer", "option")]
LONG_VIDEO_PREFIXES = _longest_first(
    *_SAID, "The answer", "The answer is", "Best answer:", "Best option:"
)
"""Taken out of answers to LongVideoBench, by its script; ``Answer: B`` stays, and reads as A."""
PREFIXES = _longest_first(
    *LONG_VIDEO_PREFIXES, "Answer:", "Option:", "The correct answer", "The correct option"
)
"""Taken out of answers to VideoMME, by its script, in which two commas are missing, so that it
never finds four of these."""

_LETTERED = re.compile(r"^\(?[A-Z][.)] ", re.MULTILINE)
_GOLD = re.compile(r"\s*\(?([A-Za-z])\s*(?:[.):].*)?", re.DOTALL)


# --- what is right, and what there is to choose from --------------------------------------------


def gold_letter(metadata: Metadata) -> str:
    """The letter of ``answer_idx`` (from 0, also as text), else that which ``answer`` begins with:
    ``B``, ``(b)``, ``B. text``. ``ValueError`` without either."""
    index, answer = metadata.get("answer_idx"), metadata.get("answer")
    if index is not None:
        if not 0 <= int(index) < len(LETTERS):
            raise ValueError(f"no reference: no letter has the number answer_idx {index!r}")
        return LETTERS[int(index)]
    found = _GOLD.fullmatch(answer) if isinstance(answer, str) else None
    if found is None:
        raise ValueError(f"no reference: answer is {answer!r} and answer_idx is missing")
    return found[1].upper()


def option_texts(metadata: Metadata) -> list[str]:
    """``options`` as texts (some data sets have numbers); ``ValueError`` without."""
    (options,) = needed(metadata, "options")
    return [str(option) for option in options]


def by_letter(read: Callable[[str, Metadata], str | None]) -> Scorer:
    """The scorer that compares the letter that ``read`` finds with the reference."""

    def score(prediction: str, metadata: Metadata) -> Score:
        gold, found = gold_letter(metadata), read(prediction, metadata)
        return Score(float(found == gold), found, gold)

    return score


# --- first and lone letters ---------------------------------------------------------------------


def first_letter(text: str, letters: str) -> str | None:
    """The first character, in any case, if it is one of ``letters``: ``b) foo`` and ``bananas``
    are B; ``(B)`` and ``The answer is B`` are not answers."""
    first = text.strip().lower()[:1]
    return first.upper() if first and first in letters.lower() else None


def lone_capital(text: str) -> str | None:
    """The first capital A to D that is a word of its own."""
    found = re.search(r"\b[A-D]\b", text)
    return found and found[0]


def any_capital(text: str, letters: str, prefixes: Sequence[str]) -> str | None:
    """The first of ``letters`` anywhere, once ``prefixes`` are taken out: ``Because`` is B."""
    for prefix in prefixes:
        text = text.replace(prefix, "")
    return next((c for c in text if c in letters), None)


def _possible(metadata: Metadata) -> str:
    """Letters of the listed options, or of those in the question; always the right one."""
    lettered = len(_LETTERED.findall(metadata.get("question") or ""))
    n = len(metadata.get("options") or ()) or lettered or MAX_OPTIONS
    return LETTERS[: max(n, LETTERS.index(gold_letter(metadata)) + 1)]


scorer("em_start")(by_letter(lambda p, m: first_letter(clean_answer(p), _possible(m))))
scorer("first_character")(by_letter(lambda p, m: first_letter(p, _possible(m))))
scorer("perception_test_mc")(by_letter(lambda p, m: lone_capital(clean_answer(p))))
scorer("video_mme")(by_letter(lambda p, m: any_capital(p, "ABCD", PREFIXES)))
scorer("long_video_bench")(by_letter(lambda p, m: any_capital(p, "ABCDE", LONG_VIDEO_PREFIXES)))


# --- forms of letters ---------------------------------------------------------------------------

Fragments = list[tuple[str, str]]
"""Fragments of an answer, each with the letter that it stands for."""


def earliest_candidate(text: str, options: Sequence[str]) -> str | None:
    """EgoSchema: among ``(X)``, ``X`` and a space, ``X.``, each at its last place, the earliest.
    Without any, the texts of options are looked for, in an answer of more than five words."""
    text, letters = _padded(text), LETTERS[: len(options)]
    found = [f for form in ("({})", "{} ", "{}.") for f in _formed(text, form, letters)]
    if not found:
        text, found = _named(text, options)
    return min(found, key=lambda f: text.rfind(f[0]))[1] if found else None


def latest_candidate(text: str, options: Sequence[str]) -> str | None:
    """NExT-QA: the latest ``(X)``; without any, the latest `` X ``, then ``X.``, then the text of
    an option as in ``earliest_candidate``."""
    text, letters = _padded(text), LETTERS[: len(options)]
    for form in ("({})", " {} ", "{}."):
        if found := _formed(text, form, letters):
            return _last(text, found)
    return _last(*_named(text, options))


def last_form(text: str, options: Sequence[str]) -> str | None:
    """MuirBench, BLINK, MMIU, MMMU: the letters in any of the forms ``(X)``, ``X)``, ``X.``,
    ``X:``; of several the one whose form comes last. That form is the first of the four that the
    answer has: in ``B: and C)`` it is ``X)``, so that B has no place and C is read. Without any,
    the last `` X ``; then the text of an option as in ``earliest_candidate``."""
    text, letters = _padded(text), LETTERS[: len(options)]
    hits = {form: _formed(text, form, letters) for form in ("({})", "{})", "{}.", "{}:")}
    if form := next((form for form, found in hits.items() if found), None):
        return _last(text, [(form.format(c), c) for found in hits.values() for _, c in found])
    if found := _formed(text, " {} ", letters):
        return _last(text, found)
    return _last(*_named(text, options))


def _padded(text: str) -> str:
    """Without marks at the ends, each kind taken off once, and with a space there."""
    text = clean_answer(text)
    for mark in ",.!?;:'":
        text = text.strip(mark)
    return f" {text} "


def _formed(text: str, form: str, letters: str) -> Fragments:
    """The letters that stand in ``text`` in this form."""
    return [(form.format(c), c) for c in letters if form.format(c) in text]


def _named(text: str, options: Sequence[str]) -> tuple[str, Fragments]:
    """``text`` in lower case, and the texts of options that stand in more than five words."""
    low = text.lower()
    if len(low.split()) <= 5:
        return low, []
    texts = [(o.lower(), c) for o, c in zip(options, LETTERS, strict=False) if o.strip()]
    return low, [f for f in texts if f[0] in low]


def _last(text: str, found: Fragments) -> str | None:
    """The letter whose fragment is last in ``text``, the first of equals."""
    return max(found, key=lambda f: text.rfind(f[0]))[1] if found else None


def _options_or_five(metadata: Metadata) -> list[str]:
    return [str(option) for option in metadata.get("options") or [""] * 5]


scorer("ego_schema_mc")(by_letter(lambda p, m: earliest_candidate(p, _options_or_five(m))))
scorer("nextqa_mc")(by_letter(lambda p, m: latest_candidate(p, _options_or_five(m))))


@scorer("letter_forms")
def letter_forms(prediction: str, metadata: Metadata) -> Score:
    """MuirBench, BLINK, MMIU: ``last_form`` among the letters of ``options``. The right letter may
    lie beyond them, as in some rows of MMIU, which then can only be wrong. Labels: for MMIU, known
    by its ``relationship``, how many images the question has."""
    found, gold = last_form(prediction, option_texts(metadata)), gold_letter(metadata)
    labels = (image_count(metadata),) if metadata.get("relationship") else ()
    return Score(float(found == gold), found, gold, labels=labels)


def filled_letter_forms(prediction: str, metadata: Metadata) -> Score:
    """MMMU: as ``letter_forms``, once empty options are dropped."""
    options = [text for text in option_texts(metadata) if text.strip()]
    return letter_forms(prediction, {**metadata, "options": options})


def image_count(metadata: Metadata) -> str:
    """MMIU's groups of questions by their number of images, shown or left out."""
    shown = len(metadata.get("image_group_size") or (None,))
    n = shown + int(metadata.get("n_images_left_out") or 0)
    return f"num_images{'<=10' if n <= 10 else '<=20' if n <= 20 else '>20'}"
