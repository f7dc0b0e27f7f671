"""Multiple choice by the names of options: the nearest name, and our own lenient reading."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from olmo.eval.scoring.letters import LETTERS, gold_letter, option_texts
from olmo.eval.scoring.score import Metadata, Score, needed, scorer
from olmo.eval.scoring.text import clean_answer, edit_distance, normalize_answer

MULTIPLE_CHOICE = "multiple_choice"


# --- the nearest name ---------------------------------------------------------------------------


def clear_name(text: str, names: Sequence[str]) -> int | None:
    """Index of the one option name that ``text`` means. In lower case, the first rule with exactly
    one hit decides: equal (also several); starts with the name; the name starts with the text; the
    name contains it."""
    rules: tuple[Callable[[str], bool], ...] = (
        text.startswith,
        lambda name: name.startswith(text),
        lambda name: text in name,
    )
    if text in names:
        return names.index(text)
    hits = ([i for i, name in enumerate(names) if rule(name)] for rule in rules)
    return next((found[0] for found in hits if len(found) == 1), None)


def near_name(text: str, names: Sequence[str]) -> int | None:
    """Index of the one name of least edit distance to ``text`` without the punctuation around it,
    if that is less than half of the longer one: ``(b)`` is b, ``the answer is b`` is nothing."""
    core = text.strip(string.punctuation + string.whitespace)
    distances = [edit_distance(core, name) for name in names]
    best = distances.index(min(distances))
    near = 2 * distances[best] < max(len(core), len(names[best]))
    return best if near and distances.count(distances[best]) == 1 else None


def guessed_name(text: str, names: Sequence[str]) -> int:
    """As in the reference implementation, the first name of least edit distance: with letters as
    names ``the answer is d`` is a, and ``i don't know`` is d."""
    distances = [edit_distance(text, name) for name in names]
    return distances.index(min(distances))


def by_name(text: str, names: Sequence[str], gold: int, labels: tuple[str, ...] = ()) -> Score:
    """``clear_name``, else ``near_name``; ``molmo2``: else ``guessed_name``. ``ValueError`` if
    ``gold`` is none of the names."""
    if not 0 <= gold < len(names):
        raise ValueError(f"answer_idx {gold} does not name one of {len(names)} options")
    text, low = text.strip().lower(), [name.strip().lower() for name in names]
    found = guessed = clear_name(text, low)
    if found is None:
        found, guessed = near_name(text, low), guessed_name(text, low)
    parsed = None if found is None else names[found]
    scores = {"molmo2": float(guessed == gold)}
    return Score(float(found == gold), parsed, names[gold], scores, labels)


def shown_names(metadata: Metadata) -> list[str]:
    """``option_names``, else a letter for each of ``options``."""
    if metadata.get("option_names"):
        return [str(name) for name in metadata["option_names"]]
    return list(LETTERS[: len(option_texts(metadata))])


@scorer("option_by_text")
def option_by_text(prediction: str, metadata: Metadata) -> Score:
    """A-OKVQA, AI2D, ScienceQA: the names that the model was shown. AI2D's questions have
    ``abc_label``: see ``ai2d_labels``."""
    (gold,) = needed(metadata, "answer_idx")
    names = shown_names(metadata)
    return by_name(clean_answer(prediction), names, int(gold), ai2d_labels(metadata))


@scorer("tomato")
def tomato(prediction: str, metadata: Metadata) -> Score:
    """TOMATO: as ``option_by_text``, without the common clean-up."""
    (gold,) = needed(metadata, "answer_idx")
    return by_name(prediction, shown_names(metadata), int(gold))


def four_letters(prediction: str, metadata: Metadata) -> Score:
    """RealWorldQA with options: always A to D, also where there are fewer."""
    gold = LETTERS.index(gold_letter(metadata))
    return by_name(clean_answer(prediction), list("ABCD"), gold)


def ai2d_labels(metadata: Metadata) -> tuple[str, ...]:
    """The two published numbers that a question of AI2D counts for: both if its options are texts;
    if they are letters in the diagram, the one for opaque or for transparent boxes behind them.
    None for other data sets, which have no ``abc_label``."""
    opaque, transparent = "mc_ai2d_opaque", "mc_ai2d_transparent"
    if metadata.get("abc_label") is None:
        return ()
    if not metadata["abc_label"]:
        return opaque, transparent
    return (transparent,) if metadata.get("has_transparent_box") else (opaque,)


# --- our own lenient reading --------------------------------------------------------------------

_NAME_ENDS = r"(?=\s*$|[)\]]|[.,:;!?](?!\w))"
"""After an option name: the end, a closing bracket, or punctuation that ends the word."""


@scorer(MULTIPLE_CHOICE)
def multiple_choice(prediction: str, metadata: Metadata) -> Score:
    """``parse_choice`` by name or by text of an option; options without a label are named by their
    text."""
    options = metadata.get("options")
    names = shown_names(metadata)
    if options is None and all(len(name) > 1 for name in names):
        options = names
    (gold,) = needed(metadata, "answer_idx")
    if not 0 <= int(gold) < len(names):
        raise ValueError(f"answer_idx {gold!r} does not name one of {len(names)} options")
    choice = parse_choice(prediction, names, options)
    parsed = None if choice is None else names[choice]
    return Score(float(choice == int(gold)), parsed, names[int(gold)])


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
        _only([i for i, t in enumerate(texts) if t and t == answer]),
        named(is_answer, text),
        named(anywhere, _without_options(text, texts)),
        _only(_contained(answer, texts)),
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


def _only(found: Sequence[int]) -> int | None:
    return found[0] if len(found) == 1 else None
