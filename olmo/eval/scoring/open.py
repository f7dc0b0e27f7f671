"""Open answers: words, texts in pictures, numbers read off charts."""

from __future__ import annotations

from olmo.eval.scoring.choices import MULTIPLE_CHOICE
from olmo.eval.scoring.score import SCORERS, Metadata, Score, needed, scorer
from olmo.eval.scoring.text import clean_answer, edit_distance, normalize_answer
from olmo.eval.tasks import PREDICTIONS_ONLY, QUESTION_ANSWERING

SHORT_ANSWER = "short_answer"


def answers_of(metadata: Metadata) -> list[str]:
    """``answers``, else ``answer``; ``ValueError`` without either."""
    answers = metadata.get("answers") or needed(metadata, "answer")
    answers = [answers] if isinstance(answers, str) else list(answers)
    if any(answer is None for answer in answers):
        raise ValueError(f"no reference: answers is {answers}")
    return [str(answer) for answer in answers]


@scorer(SHORT_ANSWER)
def short_answer(prediction: str, metadata: Metadata) -> Score:
    """Our own: equal to one of the answers, after normalisation."""
    answers, text = answers_of(metadata), normalize_answer(prediction)
    right = text in {normalize_answer(answer) for answer in answers}
    return Score(float(right), text or None, answers[0] if len(answers) == 1 else answers)


@scorer(QUESTION_ANSWERING)
def question_answering(prediction: str, metadata: Metadata) -> Score:
    """Multiple choice where there is an ``answer_idx``, else a short answer."""
    style = SHORT_ANSWER if metadata.get("answer_idx") is None else MULTIPLE_CHOICE
    return SCORERS[style](prediction, metadata)


@scorer(PREDICTIONS_ONLY)
def predictions_only(prediction: str, metadata: Metadata) -> Score:
    """Test splits without public answers."""
    return Score(None, prediction or None)


# --- texts in documents ------------------------------------------------------------------------


@scorer("anls")
def anls(prediction: str, metadata: Metadata) -> Score:
    """DocVQA, InfographicVQA: 1 - edit distance / longer raw length, of the best reference, in
    lower case and with white space collapsed; 0 below 0.5. The reference implementation keeps the
    white space of references, and 0.5 is 0 as well."""
    answers, text = answers_of(metadata), clean_answer(prediction)
    best = max(_similarity(text, answer, collapse=True) for answer in answers)
    molmo2 = max(_similarity(text, answer, collapse=False) for answer in answers)
    scores = {"molmo2": molmo2 if molmo2 > 0.5 else 0.0}
    return Score(best if best >= 0.5 else 0.0, text or None, answers, scores)


def _similarity(text: str, answer: str, collapse: bool) -> float:
    longest = max(len(text), len(answer))
    text, answer = text.lower(), answer.lower()
    if collapse:
        text, answer = (" ".join(t.split()) for t in (text, answer))
    return 1 - edit_distance(text, answer) / longest if longest else 1.0


# --- charts ------------------------------------------------------------------------------------


@scorer("relaxed_correctness")
def relaxed_correctness(prediction: str, metadata: Metadata) -> Score:
    """ChartQA: a number within 5 per cent of a reference, any other answer the same in lower
    case."""
    answers, text = answers_of(metadata), clean_answer(prediction)
    right = any(_relaxed_equal(text, answer) for answer in answers)
    return Score(float(right), text or None, answers)


def _relaxed_equal(text: str, answer: str) -> bool:
    ours, theirs = _number(text), _number(answer)
    if ours is None or not theirs:
        return text.lower() == answer.lower()
    return abs(ours - theirs) / abs(theirs) <= 0.05


def _number(text: str) -> float | None:
    """What ``float`` reads, so no ``1,400``; a percentage as a fraction."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


# --- words -------------------------------------------------------------------------------------


@scorer("a_okvqa_da")
def a_okvqa_da(prediction: str, metadata: Metadata) -> Score:
    """A-OKVQA, direct answers: a third for each of the ten that is the same in lower case, at most
    1."""
    answers, text = answers_of(metadata), clean_answer(prediction).lower()
    equal = sum(answer.strip().lower() == text for answer in answers)
    return Score(min(equal / 3, 1.0), text or None, answers)
