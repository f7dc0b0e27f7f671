"""How each benchmark reads an answer: pure functions from text to an option letter or a number.

The rules are those of the benchmarks' own evaluation, quirks included, so that numbers can be
compared; ``None`` means that the rule finds no answer. Where the original then guesses at random
or leaves the example out, it counts here as wrong.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

LETTERS = string.ascii_uppercase
MAX_OPTIONS = 8
"""Letters that count as an option where an example does not list its options."""

STOCK_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)
"""Taken out of an answer to VideoMME and LongVideoBench before a letter is looked for."""

NUMBER_PATTERNS = (
    re.compile(r"\ba total of (\d+)"),
    re.compile(r"\bthe total number(?: of [^.:]*?)? is:?\s*(\d+)"),
)


def clean_answer(text: str) -> str:
    """The common first step: what follows ``Answer:``; else the most frequent of several lines;
    white space collapsed."""
    text = text.strip()
    if "Answer:" in text:
        text = text.rpartition("Answer:")[2]
    elif "\n" in text:
        lines = Counter(line.strip() for line in text.splitlines() if line.strip())
        text = lines.most_common(1)[0][0]
    return " ".join(text.split())


def first_letter(text: str, n_options: int = MAX_OPTIONS) -> str | None:
    """MVBench, MotionBench, MLVU, VideoEvalPro, LVBench: the first character, in any case.

    ``b) foo`` and ``bananas`` are B; ``(B)`` and ``The answer is B`` are not answers.
    """
    first = clean_answer(text)[:1].upper()
    return first if first and first in LETTERS[:n_options] else None


def lone_capital(text: str, n_options: int = 4) -> str | None:
    """PerceptionTest: the first capital option letter that is a word of its own."""
    found = re.search(rf"\b[{LETTERS[:n_options]}]\b", clean_answer(text))
    return found and found[0]


def any_capital(text: str, n_options: int = 4) -> str | None:
    """VideoMME (A to D) and LongVideoBench (A to E): the first capital option letter anywhere,
    after stock prefixes are taken out: ``Because`` is B."""
    for prefix in STOCK_PREFIXES:
        text = text.replace(prefix, "")
    found = re.search(rf"[{LETTERS[:n_options]}]", text)
    return found and found[0]


def earliest_candidate(text: str, options: Sequence[str]) -> str | None:
    """EgoSchema: among ``(X)``, ``X`` and a space, ``X.``, each at its last place, the earliest.

    An answer of more than five words without any is searched for the options' texts.
    """
    text = _padded(text)
    letters = LETTERS[: len(options)]
    forms = [(form.format(c), c) for form in ("({})", "{} ", "{}.") for c in letters]
    places = _last_places(text, forms) or _option_places(text, options)
    return min(places)[1] if places else None


def latest_candidate(text: str, options: Sequence[str]) -> str | None:
    """NExT-QA: the latest ``(X)``; without any, the latest `` X ``; then ``X.``; then the text of
    an option, in an answer of more than five words."""
    text = _padded(text)
    letters = LETTERS[: len(options)]
    for form in ("({})", " {} ", "{}."):
        if places := _last_places(text, [(form.format(c), c) for c in letters]):
            return max(places)[1]
    places = _option_places(text, options)
    return max(places)[1] if places else None


def _padded(text: str) -> str:
    text = clean_answer(text)
    for mark in ",.!?;:'":
        text = text.strip(mark)
    return f" {text} "


def _last_places(text: str, forms: Sequence[tuple[str, str]]) -> list[tuple[int, str]]:
    found = [(text.rfind(form), letter) for form, letter in forms]
    return [(place, letter) for place, letter in found if place >= 0]


def _option_places(text: str, options: Sequence[str]) -> list[tuple[int, str]]:
    if len(text.split()) <= 5:
        return []
    forms = [(o.lower(), c) for o, c in zip(options, LETTERS, strict=False)]
    return _last_places(text.lower(), forms)


def select_mc_option(text: str, names: Sequence[str], guess: bool = False) -> int | None:
    """TOMATO and image multiple choice: index of the option name that ``text`` is closest to.

    In lower case, the first rule with one hit decides: equal; starts with the name; the name
    starts with the text; the name contains the text; least edit distance. An answer that (without
    punctuation around it) differs from the nearest name by more than half, or is equally near to
    several, is none; with ``guess`` it is the first of the nearest, as in the original, which
    reads ``I don't know`` as D.
    """
    text, names = text.strip().lower(), [name.lower() for name in names]
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: text == name,
        lambda name: text.startswith(name),
        lambda name: bool(text) and name.startswith(text),
        lambda name: bool(text) and text in name,
    )
    for rule in rules:
        hits = [i for i, name in enumerate(names) if rule(name)]
        if len(hits) == 1:
            return hits[0]
    distances = [edit_distance(text, name) for name in names]
    nearest = [i for i, d in enumerate(distances) if d == min(distances)]
    best, core = nearest[0], text.strip(string.punctuation)
    longer = max(len(core), len(names[best]))
    near = len(nearest) == 1 and 2 * edit_distance(core, names[best]) <= longer
    return best if near or guess else None


def temp_compass(text: str, answer: str, task: str) -> tuple[str | None, bool]:
    """TempCompass: what was read, and whether it is right. ``task``: ``multi-choice``,
    ``caption_matching`` or ``yes_no``. The original asks a language model about the rest."""
    text, answer = clean_answer(text), answer.strip()
    if task == "yes_no":
        found = re.match(r"(yes|no)\b", text, re.IGNORECASE)
        read = found and found[1].lower()
        return read, read is not None and read == answer.lower()
    sentence = re.sub(rf"^{_NAMED}\s*", "", answer).lower()
    if text and text.lower().removesuffix(".") in (answer.lower(), sentence.removesuffix(".")):
        return text, True
    ours, gold = re.match(_NAMED, text), re.match(_NAMED, answer)
    name = ours and ours[1]
    return name, name is not None and name == (gold[1] if gold else answer[:1])


_NAMED = r"(?:(?:Option|Caption|Sentence)\s+)?([A-Z0-9])(?:$|[.):])"
"""``B``, ``B.``, ``B)``, ``Option 2:``, ``Caption B``."""


def read_count(text: str) -> int | None:
    """The number that an answer gives: alone, or after ``a total of`` or ``the total number of
    ... is:``; ``none`` is 0."""
    text = text.strip().lower().removesuffix(".")
    if re.fullmatch(r"\d+", text):
        return int(text)
    for pattern in NUMBER_PATTERNS:
        if found := pattern.search(text):
            return int(found[1])
    return 0 if re.search(r"\bnone\b", text) else None


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
