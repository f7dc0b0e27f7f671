"""Multiple choice, read as each benchmark reads it: by letters, by names, by lines of the question.

An answer without an option is wrong. Where the reference implementation then draws at random, asks
a language model or leaves the example out, there is no number of it to compare with.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import replace

from olmo.eval.scoring.score import Metadata, Score, Scorer, needed, scorer
from olmo.eval.scoring.text import clean_answer, edit_distance, only

LETTERS = string.ascii_uppercase
MAX_OPTIONS = 8
"""Letters that can be an answer where an example does not list its options."""

LONG_VIDEO_PREFIXES = (
    *("The best answer is", "The best option is", "The correct answer is", "The correct option is"),
    *("The answer is", "The answer", "Best answer:", "Best option:"),
)
"""Taken out of answers to LongVideoBench, by its script; ``Answer: B`` stays, and reads as A."""
PREFIXES = (*LONG_VIDEO_PREFIXES, "The correct answer", "The correct option", "Answer:", "Option:")
"""Taken out of answers to VideoMME, by its script, in which two commas are missing, so that it
never finds four of these."""

_LETTERED = re.compile(r"^\(?[A-Z][.)] ", re.MULTILINE)
_GOLD = re.compile(r"\s*\(?([A-Za-z])\s*(?:[.):].*)?", re.DOTALL)


# --- what is right, and what there is to choose from --------------------------------------------


def option_number(index: int | str, n_options: int) -> int:
    """``answer_idx`` (from 0, also as text); ``ValueError`` if it names none of the options."""
    if not 0 <= int(index) < n_options:
        raise ValueError(
            f"no reference: expected answer_idx from 0 and below {n_options}, got {index!r}"
        )
    return int(index)


def gold_letter(metadata: Metadata) -> str:
    """The letter of ``answer_idx``, else that which ``answer`` begins with: ``B``, ``(b)``,
    ``B. text``. ``ValueError`` without either."""
    index, answer = metadata.get("answer_idx"), metadata.get("answer")
    if index is not None:
        return LETTERS[option_number(index, len(LETTERS))]
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
    for prefix in sorted(prefixes, key=len, reverse=True):  # none leaves a rest of a longer one
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
    text, found = _fragments(text, options, ["({})", "{} ", "{}."])
    return min(found, key=lambda f: text.rfind(f[0]))[1] if found else None


def latest_candidate(text: str, options: Sequence[str]) -> str | None:
    """NExT-QA: the latest ``(X)``; without any, the latest `` X ``, then ``X.``, then the text of
    an option as in ``earliest_candidate``."""
    return _last(*_fragments(text, options, ["({})"], [" {} "], ["{}."]))


def last_form(text: str, options: Sequence[str]) -> str | None:
    """MuirBench, BLINK, MMIU, MMMU: the letters in any of the forms ``(X)``, ``X)``, ``X.``,
    ``X:``; of several the one whose form comes last. That form is the first of the four that the
    answer has: in ``B: and C)`` it is ``X)``, so that B has no place and C is read. Without any,
    the last `` X ``; then the text of an option as in ``earliest_candidate``."""
    forms = ["({})", "{})", "{}.", "{}:"]
    return _last(*_fragments(text, options, forms, [" {} "], alike=True))


def _fragments(
    text: str, options: Sequence[str], *groups: Sequence[str], alike: bool = False
) -> tuple[str, Fragments]:
    """The answer, and the letters in it in the first group of forms that it has; ``alike``: all of
    them in the first of these forms. Without any, the answer in lower case, and the texts of
    options that stand in more than five words.

    The answer is without marks at the ends, each kind taken off once, and with a space there."""
    text = clean_answer(text)
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for forms in groups:
        letters = LETTERS[: len(options)]
        if hits := [(form, c) for form in forms for c in letters if form.format(c) in text]:
            return text, [((hits[0][0] if alike else form).format(c), c) for form, c in hits]
    text = text.lower()
    texts = [(o.lower(), c) for o, c in zip(options, LETTERS, strict=False) if o.strip()]
    return text, [f for f in texts if f[0] in text and len(text.split()) > 5]


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
    by its ``relationship``, how many images the question has, shown or left out."""
    found, gold = last_form(prediction, option_texts(metadata)), gold_letter(metadata)
    n = len(metadata.get("image_group_size") or [None]) + int(
        metadata.get("n_images_left_out") or 0
    )
    group = f"num_images{'<=10' if n <= 10 else '<=20' if n <= 20 else '>20'}"
    labels = (group,) if metadata.get("relationship") else ()
    return Score(float(found == gold), found, gold, labels=labels)


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
    hits = (only([i for i, name in enumerate(names) if rule(name)]) for rule in rules)
    return next((i for i in hits if i is not None), None)


def near_name(text: str, names: Sequence[str]) -> int | None:
    """Index of the one name of least edit distance to ``text`` without the punctuation around it,
    if that is less than half of the longer one: ``(b)`` is b, ``the answer is b`` is nothing."""
    core = text.strip(string.punctuation + string.whitespace)
    distances = [edit_distance(core, name) for name in names]
    best = only([i for i, distance in enumerate(distances) if distance == min(distances)])
    near = best is not None and 2 * distances[best] < max(len(core), len(names[best]))
    return best if near else None


def guessed_name(text: str, names: Sequence[str]) -> int:
    """As in the reference implementation, the first name of least edit distance: with letters as
    names ``the answer is d`` is a, and ``i don't know`` is d."""
    return min(range(len(names)), key=lambda i: edit_distance(text, names[i]))


def by_name(text: str, names: Sequence[str], gold: int) -> Score:
    """``clear_name``, else ``near_name``; ``molmo2``: else ``guessed_name``. ``ValueError`` if
    ``gold`` is none of the names."""
    gold = option_number(gold, len(names))
    text, low = text.strip().lower(), [name.strip().lower() for name in names]
    found = guessed = clear_name(text, low)
    if found is None:
        found, guessed = near_name(text, low), guessed_name(text, low)
    parsed = None if found is None else names[found]
    return Score(float(found == gold), parsed, names[gold], {"molmo2": float(guessed == gold)})


def shown_names(metadata: Metadata) -> list[str]:
    """``option_names``, else a letter for each of ``options``."""
    names = metadata.get("option_names") or LETTERS[: len(option_texts(metadata))]
    return [str(name) for name in names]


@scorer("option_by_text")
def option_by_text(prediction: str, metadata: Metadata) -> Score:
    """A-OKVQA, AI2D, ScienceQA: ``tomato`` after the common clean-up. AI2D's questions have
    ``abc_label``: see ``ai2d_labels``."""
    return replace(tomato(clean_answer(prediction), metadata), labels=ai2d_labels(metadata))


@scorer("tomato")
def tomato(prediction: str, metadata: Metadata) -> Score:
    """TOMATO: the names that the model was shown."""
    (gold,) = needed(metadata, "answer_idx")
    return by_name(prediction, shown_names(metadata), gold)


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


# --- TempCompass -------------------------------------------------------------------------------

_NAME = r"(?:(?:Option|Caption|Sentence)\s+)?([A-Z0-9])(?:$|[.):])"
"""``B``, ``B.``, ``B)``, ``Option 2:``, ``Caption B``."""
_OPTION = re.compile(rf"{_NAME}\s*(.*)")


@scorer("temp_compass")
def temp_compass(prediction: str, metadata: Metadata) -> Score:
    """By the metadata's ``task``: ``yes_no``, else a choice. ``answer`` is ``yes``, ``no``, or the
    line of the right option; ``question`` has all options on lines of their own. Label: the task
    with the metadata's ``temporal_aspect``."""
    (answer,) = needed(metadata, "answer")
    answer = str(answer).strip()
    task, aspect = str(metadata.get("task") or "multi-choice"), metadata.get("temporal_aspect")
    if task == "yes_no":
        parsed, gold = yes_or_no(prediction), answer.lower()
    else:
        right = re.match(_NAME, answer)
        if right is None:
            raise ValueError(f"no reference: the answer {answer!r} names no option")
        lines = str(metadata.get("question") or "").splitlines()
        parsed, gold = named_option(prediction, [answer, *lines]), right[1]
    labels = (f"{task}_{aspect}",) if aspect else ()
    return Score(float(parsed == gold), parsed, gold, labels=labels)


def yes_or_no(text: str) -> str | None:
    """What the answer begins with, in any case; as in the original ``yesterday`` is yes."""
    text = text.strip().lower()
    return next((word for word in ("yes", "no") if text.startswith(word)), None)


def named_option(text: str, lines: list[str]) -> str | None:
    """The letter or digit of the option that is named first, as in ``B``, ``B. text``, ``Option
    2:``; else of that whose line, name or sentence the answer is, but for case and a full stop.
    Options are the ``lines`` like ``A. text`` and ``Caption B: text``; the first of equals."""
    text = text.strip()
    plain = _plain(text)
    options = [found for line in lines if (found := _OPTION.fullmatch(line.strip()))]
    named = re.match(_NAME, text)
    if named and named[1] in {option[1] for option in options}:
        return named[1]
    for option in options:
        name = option[0].partition(":")[0]
        if plain and plain in map(_plain, (option[0], name, option[2])):
            return option[1]
    return None


def _plain(text: str) -> str:
    return text.strip().lower().removesuffix(".")
