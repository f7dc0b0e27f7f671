"""Scores of letters, words and numbers, in the way of each benchmark."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

from olmo.eval import answer_rules as rules
from olmo.eval.metrics import exact_match, normalize_answer, parse_choice
from olmo.eval.score import SCORERS, Metadata, Score, Scorer, score_of, scorer

MULTIPLE_CHOICE = "multiple_choice"
SHORT_ANSWER = "short_answer"
QUESTION_ANSWERING = "question_answering"
"""Multiple choice where an example has options, a short answer elsewhere."""


# --- multiple choice ---------------------------------------------------------------------------


def _gold_letter(metadata: Metadata) -> str:
    """``answer`` (``B``, ``B.``), else the letter of ``answer_idx``."""
    answer, index = metadata.get("answer"), metadata.get("answer_idx")
    if isinstance(answer, str) and re.match(r"\s*\(?[A-Za-z](?![A-Za-z0-9])", answer):
        return answer.strip(" \t\n(")[0].upper()
    if index is None:
        raise ValueError(f"no reference: answer is {answer!r} and answer_idx is missing")
    return rules.LETTERS[int(index)]


def _by_letter(read: Callable[[str, Metadata], str | None]) -> Scorer:
    """The scorer that compares the letter that ``read`` finds with the reference."""

    def score(prediction: str, metadata: Metadata) -> Score:
        gold, found = _gold_letter(metadata), read(prediction, metadata)
        return score_of(int(found == gold), found, gold)

    return score


def _n_options(metadata: Metadata, default: int) -> int:
    """Listed in ``options``, or lettered in the ``question``."""
    if metadata.get("options"):
        return len(metadata["options"])
    return len(_LETTERED.findall(metadata.get("question") or "")) or default


_LETTERED = re.compile(r"^\(?[A-Z][.)] ", re.MULTILINE)


def _options(metadata: Metadata, default: int = 5) -> list[str]:
    """Texts of the options; without a list only their letters can be read."""
    return list(metadata.get("options") or ["\0"] * default)


scorer("em_start")(_by_letter(lambda p, m: rules.first_letter(p, _n_options(m, rules.MAX_OPTIONS))))
scorer("perception_test_mc")(_by_letter(lambda p, m: rules.lone_capital(p)))
scorer("ego_schema_mc")(_by_letter(lambda p, m: rules.earliest_candidate(p, _options(m))))
scorer("nextqa_mc")(_by_letter(lambda p, m: rules.latest_candidate(p, _options(m))))
scorer("video_mme")(_by_letter(lambda p, m: rules.any_capital(p, 4)))
scorer("long_video_bench")(_by_letter(lambda p, m: rules.any_capital(p, 5)))


@scorer("select_mc_option")
def select_mc_option(prediction: str, metadata: Metadata) -> Score:
    """TOMATO and image multiple choice, over the names shown to the model."""
    names = list(metadata.get("option_names") or rules.LETTERS[: _n_options(metadata, 0)])
    found = rules.select_mc_option(rules.clean_answer(prediction), names)
    parsed = None if found is None else names[found]
    gold, answer = metadata.get("answer_idx"), metadata.get("answer")
    if gold is None and answer in list(rules.LETTERS[len(names) :]):
        return score_of(0, parsed, answer)  # MMIU: the letter of no option, nothing is right
    if gold is None or not 0 <= int(gold) < len(names):
        raise ValueError(f"answer_idx {gold!r} does not name one of {len(names)} options")
    return score_of(int(found == int(gold)), parsed, names[int(gold)])


@scorer("temp_compass")
def temp_compass(prediction: str, metadata: Metadata) -> Score:
    """TempCompass by its matching rules; what they cannot read is wrong."""
    answer, task = metadata.get("answer"), str(metadata.get("task", "multi-choice"))
    if not isinstance(answer, str):
        raise ValueError(f"no reference: answer is {answer!r}")
    parsed, right = rules.temp_compass(prediction, answer, task)
    aspect = metadata.get("temporal_aspect")
    return score_of(int(right), parsed, answer, labels=[f"{task}_{aspect}"] if aspect else [])


@scorer(MULTIPLE_CHOICE)
def multiple_choice(prediction: str, metadata: Metadata) -> Score:
    """Our own lenient reading (``metrics.parse_choice``), by name or by text of an option."""
    options = metadata.get("options")
    names = metadata.get("option_names") or string.ascii_uppercase[: len(options or ())]
    if options is None and all(len(name) > 1 for name in names):
        options = names  # options without a label are named by their text
    gold = metadata.get("answer_idx")
    if gold is None or not 0 <= int(gold) < len(names):
        raise ValueError(f"answer_idx {gold!r} does not name one of {len(names)} options")
    choice = parse_choice(prediction, names, options)
    parsed = None if choice is None else names[choice]
    return score_of(int(choice == int(gold)), parsed, names[int(gold)])


# --- open answers ------------------------------------------------------------------------------


def _answers(metadata: Metadata) -> list[str]:
    answers = metadata.get("answers") or [metadata.get("answer")]
    answers = [answers] if isinstance(answers, str) else list(answers)
    if any(a is None for a in answers):
        raise ValueError("the metadata of a short answer hold neither answers nor answer")
    return [str(a) for a in answers]


def _open_answer(score: Callable[[str, list[str]], float]) -> Scorer:
    def scored(prediction: str, metadata: Metadata) -> Score:
        answers = _answers(metadata)
        parsed = normalize_answer(prediction) or None
        reference = answers[0] if len(answers) == 1 else answers
        return score_of(score(prediction, answers), parsed, reference)

    return scored


def vqa_score(prediction: str, answers: list[str]) -> float:
    """VQA: a third for each annotator who gave this answer, at most 1."""
    counts = Counter(normalize_answer(a) for a in answers)
    return min(counts[normalize_answer(prediction)] / 3, 1.0)


def anls(prediction: str, answers: list[str]) -> float:
    """DocVQA, InfographicVQA: 1 - edit distance / longer length, at best; 0 if not above 0.5."""
    best, text = 0.0, " ".join(prediction.lower().split())
    for answer in answers:
        other = " ".join(answer.lower().split())
        longest = max(len(text), len(other))
        best = max(best, 1 - rules.edit_distance(text, other) / longest if longest else 1.0)
    return best if best > 0.5 else 0.0


def relaxed_correctness(prediction: str, answers: list[str]) -> float:
    """ChartQA: a number within 5 per cent, any other answer the same in lower case."""
    return float(any(_relaxed_equal(prediction.strip(), a.strip()) for a in answers))


def _relaxed_equal(prediction: str, answer: str) -> bool:
    ours, theirs = _as_number(prediction), _as_number(answer)
    if ours is None or not theirs:
        return prediction.lower() == answer.lower()
    return abs(ours - theirs) <= 0.05 * abs(theirs)


def _as_number(text: str) -> float | None:
    found = re.fullmatch(r"-?\d[\d,]*\.?\d*(%?)", text)
    if not found:
        return None
    value = float(text.rstrip("%").replace(",", ""))
    return value / 100 if found[1] else value


scorer(SHORT_ANSWER)(_open_answer(lambda p, a: int(exact_match(p, a))))
scorer("vqa_score")(_open_answer(vqa_score))
scorer("anls")(_open_answer(anls))
scorer("relaxed_correctness")(_open_answer(relaxed_correctness))


@scorer(QUESTION_ANSWERING)
def question_answering(prediction: str, metadata: Metadata) -> Score:
    """Multiple choice where there is an ``answer_idx``, else a short answer."""
    style = SHORT_ANSWER if metadata.get("answer_idx") is None else MULTIPLE_CHOICE
    return SCORERS[style](prediction, metadata)


@scorer("predictions_only")
def predictions_only(prediction: str, metadata: Metadata) -> Score:
    """Test splits without public answers."""
    return {"correct": None, "unparsed": int(not prediction), "parsed": None, "reference": None}
