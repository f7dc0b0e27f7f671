"""Own data: each example by what its reference is."""

from __future__ import annotations

import math
import re

from olmo.eval.scoring.open import answers_of
from olmo.eval.scoring.score import SCORERS, Metadata, Score, scorer
from olmo.eval.scoring.text import NUMBER_WORDS, clean_answer
from olmo.eval.tasks import OWN_DATA, PREDICTIONS_ONLY, QUESTION_ANSWERING

NUMBER = "number"

_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_FIGURE = re.compile(r"(?<![\w.,:/])[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?![\w:/]|[.,]\d)")
_WORD = re.compile(rf"\b({'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)


@scorer(OWN_DATA)
def own_data(prediction: str, metadata: Metadata) -> Score:
    """Multiple choice with an ``answer_idx``; a number where the one answer is a number; else a
    short answer; without any reference the prediction alone."""
    if metadata.get("answer_idx") is None:
        if not (metadata.get("answers") or metadata.get("answer")):
            return SCORERS[PREDICTIONS_ONLY](prediction, metadata)
        answers = answers_of(metadata)
        if len(answers) == 1 and is_number(answers[0]):
            return SCORERS[NUMBER](prediction, metadata)
    return SCORERS[QUESTION_ANSWERING](prediction, metadata)


@scorer(NUMBER)
def number(prediction: str, metadata: Metadata) -> Score:
    """Our own: the only number of the prediction equals that of the answer. ``1,400`` is 1400,
    words up to ``ten`` count where there are no figures; times and dates are no numbers. An answer
    with no number, or with several different ones, cannot be read."""
    (answer,) = answers_of(metadata)
    gold, found = _numbers(answer), _numbers(clean_answer(prediction))
    if len(gold) != 1:
        raise ValueError(f"no reference: {answer!r:.80} is not one number")
    right = found == gold
    return Score(float(right), found.pop() if len(found) == 1 else None, gold.pop())


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    return _FIGURE.fullmatch(_GROUPED.sub("", text.strip())) is not None and len(text) < 40


def _numbers(text: str) -> set[float]:
    """Different numbers of a text, as ``float`` reads them."""
    figures = [float(figure) for figure in _FIGURE.findall(_GROUPED.sub("", text))]
    words = [] if figures else [float(NUMBER_WORDS.index(w.lower())) for w in _WORD.findall(text)]
    return {figure for figure in (*figures, *words) if math.isfinite(figure)}
