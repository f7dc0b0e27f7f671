"""Texts of answers: the common clean-up, normalisation, distance."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)
"""Each at the place of its number."""
T = TypeVar("T")

_ARTICLE = re.compile(r"\b(?:a|an|the) (?=\S)")
_PUNCTUATION = str.maketrans({c: " " for c in string.punctuation})


def clean_answer(text: str) -> str:
    """The first step of many benchmarks: what stands between the first ``Answer:`` and the next;
    else the most frequent of several lines, empty ones count, the first of equals; white space of
    that is collapsed."""
    text = text.strip()
    if "Answer:" in text:
        return text.split("Answer:")[1].strip()
    if "\n" in text:
        lines = Counter(" ".join(line.split()) for line in text.split("\n"))
        text = lines.most_common(1)[0][0]
    return " ".join(text.split())


def normalize_answer(text: str) -> str:
    """Our own: lower case, no punctuation, no articles, single spaces. An article comes before a
    word: the last word stays, so that ``A`` and ``the red A`` keep their letter."""
    return _ARTICLE.sub("", " ".join(text.lower().translate(_PUNCTUATION).split()))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def only(found: Sequence[T]) -> T | None:
    """The one thing found; None without, and for several."""
    return found[0] if len(found) == 1 else None
