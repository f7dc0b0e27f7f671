"""Answers that ten people gave: VQA v2, OK-VQA, TextVQA."""

from __future__ import annotations

import re
from collections.abc import Callable

from olmo.eval.scoring.open import answers_of
from olmo.eval.scoring.score import Metadata, Score, scorer
from olmo.eval.scoring.text import NUMBER_WORDS, clean_answer

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_WORDS = {word: str(n) for n, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")

_ENDINGS = {
    "n't": "ai are ca could did do does had has have is might must need ought sha should was were "
    "wo would",
    "n't've": "could had might should would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
    "": "'ow's'at 'twas ma'am o'clock y'all",
}


def _contractions() -> dict[str, str]:
    """A contraction without one of its apostrophes -> the contraction. In lower case, as texts are
    when it is used; ``let's`` and ``she's`` are not in the table of VQA v2, as no change."""
    words = [stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split()]
    return {w[:i] + w[i + 1 :]: w for w in words for i, c in enumerate(w) if c == "'"} | {
        "somebody'd": "somebodyd"  # this one is the wrong way round in that table
    }


CONTRACTIONS = _contractions()


def normalize_vqa(text: str) -> str:
    """VQA v2: lower case, numbers up to ten as digits, no articles, ``dont`` is ``don't``.

    A punctuation mark becomes a space, but vanishes if the text has it beside a space, or a number
    with a comma anywhere: ``t-shirt`` is ``t shirt``, ``coca - cola`` is ``coca cola``, ``1,000``
    is ``1000``.
    """
    text = text.replace("\n", " ").replace("\t", " ").lower().strip()
    grouped = re.search(r"\d,\d", text)
    text = text.translate(
        {ord(m): "" if grouped or f"{m} " in text or f" {m}" in text else " " for m in _MARKS}
    )
    # The limit is that of the official script, which takes a flag for a count.
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [_WORDS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalize_text_vqa(text: str) -> str:
    """TextVQA: the same, after commas and question marks are gone and ``'s`` stands alone."""
    text = text.lower().replace(",", "").replace("?", "")
    return normalize_vqa(text.replace("'s", " 's"))


def _leave_one_out(equal: int, of: int) -> float:
    """Mean over the sets that lack one reference of min(equal ones / 3, 1). It is made for ten
    references: a single one leaves none to be equal to, and gives 0."""
    lacking_equal, lacking_other = (min(k / 3, 1.0) for k in (max(equal - 1, 0), equal))
    return (equal * lacking_equal + (of - equal) * lacking_other) / of


def _score(prediction: str, metadata: Metadata, normalize: Callable[[str], str]) -> Score:
    answers, text = answers_of(metadata), clean_answer(prediction)

    def equal(by: Callable[[str], str]) -> int:
        return [by(answer) for answer in answers].count(by(text))

    correct = _leave_one_out(equal(normalize), len(answers))
    molmo2 = min(equal(normalize_vqa) / 3, 1.0)
    return Score(correct, normalize(text) or text or None, answers, {"molmo2": molmo2})


@scorer("vqa_score")
def vqa_score(prediction: str, metadata: Metadata) -> Score:
    """VQA v2, OK-VQA: 0.3 for each annotator who gave this answer, at most 1; in the reference
    implementation a third."""
    return _score(prediction, metadata, normalize_vqa)


@scorer("text_vqa_score")
def text_vqa_score(prediction: str, metadata: Metadata) -> Score:
    """TextVQA: the same with a normalisation of its own, which the reference implementation
    lacks."""
    return _score(prediction, metadata, normalize_text_vqa)
