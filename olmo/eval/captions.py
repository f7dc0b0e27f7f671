"""A question and what was answered, as lines for people: of a report, or below a picture."""

from __future__ import annotations

import string
from typing import Any

from olmo.eval.prediction import Prediction

Lines = list[tuple[str, str]]
"""(label, text)"""


def question_lines(one: Prediction) -> Lines:
    """Question, options and right answer, as far as there are any. Options have their letters where
    the right answer is a letter (not the text of an option)."""
    letters = _letters(one)
    options = [f"{k}. {v}" for k, v in letters.items()] if letters else one.options or []
    lines = [
        ("question", one.question),
        ("options", " / ".join(map(str, options))),
        ("answer", value_text(one, one.reference)),
    ]
    return [(label, text) for label, text in lines if text]


def value_text(one: Prediction, value: Any) -> str:
    """A right answer or what was read of a prediction: a letter with its option, a whole number
    without a point, several values with strokes between them; empty for None."""
    if isinstance(value, (list, tuple)):
        return " / ".join(
            f"({', '.join(value_text(one, v) for v in part)})"
            if isinstance(part, (list, tuple))
            else value_text(one, part)
            for part in value
        )
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.15g}"
    letters, text = _letters(one), str(value)
    return f"{text}. {letters[text]}" if text in letters else text


def _letters(one: Prediction) -> dict[str, str]:
    """Options by letter where the right answer is one, else none. A letter beyond the options,
    which some benchmarks have, is one too."""
    options, right = one.options or [], one.reference
    is_letter = isinstance(right, str) and len(right) == 1 and right in string.ascii_uppercase
    if not options or not is_letter or right in options:
        return {}
    return dict(zip(string.ascii_uppercase, options, strict=False))
