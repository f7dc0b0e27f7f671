"""TempCompass: its matching rules. What they cannot read, a language model judges there; here it
is wrong."""

from __future__ import annotations

import re

from olmo.eval.scoring.score import Metadata, Score, needed, scorer

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
        lines = str(metadata.get("question") or "").splitlines()
        parsed, gold = named_option(prediction, [answer, *lines]), _name(answer)
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


def _name(answer: str) -> str:
    found = re.match(_NAME, answer)
    if found is None:
        raise ValueError(f"no reference: the answer {answer!r} names no option")
    return found[1]


def _plain(text: str) -> str:
    return text.strip().lower().removesuffix(".")
