"""Lenient reading of answers, averages and intervals. Pure functions: no randomness beyond a fixed
seed, no I/O.

An answer that cannot be read counts as wrong and is counted as unparsed: it is neither left out
of the average nor replaced by a guess. The benchmarks' own rules are in ``answer_rules``.
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_ARTICLE = re.compile(r"\b(?:a|an|the) (?=\S)")
_PUNCTUATION = str.maketrans({c: " " for c in string.punctuation})
_NAME_ENDS = r"(?=\s*$|[)\]]|[.,:;!?](?!\w))"
"""After an option name: the end, a closing bracket, or punctuation that ends the word."""


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


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. An article comes before a word: the
    last word stays, so that ``A`` and ``the red A`` keep their letter."""
    return _ARTICLE.sub("", " ".join(text.lower().translate(_PUNCTUATION).split()))


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised answers."""
    return normalize_answer(prediction) in {normalize_answer(a) for a in answers}


_DRAWS_AT_ONCE = 1 << 20
"""Bounds the memory of the bootstrap."""


def bootstrap_interval(
    scores: Sequence[float], level: float = 0.95, n: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``scores`` from ``n`` resamples.

    Raises ``ValueError`` without scores and for a ``level`` outside (0, 1).
    """
    if not len(scores):
        raise ValueError("no scores to resample")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    values = np.asarray(scores, dtype=np.float64)
    rng = np.random.default_rng(seed)
    size = len(values)
    rows = max(_DRAWS_AT_ONCE // size, 1)
    means = [
        values[rng.integers(size, size=(min(rows, n - done), size))].mean(1)
        for done in range(0, n, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def aggregate(rows: Sequence[Mapping[str, Any]], macro: str = "") -> dict[str, Any]:
    """Micro-averages over scored rows (``correct``, ``unparsed``, optionally ``scores`` and the
    ``labels`` of their categories, or one ``category``).

    Accuracy is a fraction of ``n``, ``interval`` its 95% bootstrap interval, ``unparsed`` a
    count, ``scores`` the means of further values; ``categories`` maps each label, sorted by name,
    to the first four. ``macro_average`` is the plain mean over the categories whose label begins
    with ``macro``. Without a scored row accuracy, interval and macro average are None.
    """
    by_label: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        for label in labels_of(row):
            by_label[label].append(row)
    categories = {name: _average(by_label[name]) for name in sorted(by_label)}
    counted = [
        one["accuracy"]
        for name, one in categories.items()
        if one["accuracy"] is not None and name.startswith(macro)
    ]
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in (row.get("scores") or {}).items():
            scores[name].append(float(value))
    out = _average(rows)
    if scores:
        out["scores"] = {name: sum(v) / len(v) for name, v in sorted(scores.items())}
    average = sum(counted) / len(counted) if counted else None
    return {**out, "macro_average": average, "categories": categories}


def labels_of(row: Mapping[str, Any]) -> list[str]:
    """Categories of a row."""
    if row.get("labels") is not None:
        return [str(label) for label in row["labels"]]
    return [] if row.get("category") is None else [str(row["category"])]


def _average(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    correct = [float(row["correct"]) for row in rows if row["correct"] is not None]
    return {
        "accuracy": sum(correct) / len(correct) if correct else None,
        "interval": list(bootstrap_interval(correct)) if correct else None,
        "n": len(rows),
        "unparsed": sum(int(row["unparsed"]) for row in rows),
    }
