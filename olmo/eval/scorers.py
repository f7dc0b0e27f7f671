"""From a prediction and an example's metadata to a score: one registered function per metric.

A scorer returns at least ``correct`` (0 to 1, the headline score), ``unparsed`` (0 or 1),
``parsed`` (what was read) and ``reference``; also ``scores`` (further values, averaged) and
``labels`` (further categories) where the benchmark has them. A missing reference is a
``ValueError``.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from olmo.eval import answer_rules as rules
from olmo.eval import point_metrics
from olmo.eval.metrics import exact_match, normalize_answer, parse_choice
from olmo.eval.points import read_points, read_timed_points, read_tracks

Metadata = Mapping[str, Any]
Score = dict[str, Any]
Scorer = Callable[[str, Metadata], Score]

MULTIPLE_CHOICE = "multiple_choice"
SHORT_ANSWER = "short_answer"
QUESTION_ANSWERING = "question_answering"
"""Multiple choice where an example has options, a short answer elsewhere."""

SCORERS: dict[str, Scorer] = {}


def scorer(name: str) -> Callable[[Scorer], Scorer]:
    """Register a scorer under the ``metric`` name of a task."""

    def register(function: Scorer) -> Scorer:
        SCORERS[name] = function
        return function

    return register


def score_example(prediction: str, metadata: Metadata, metric: str) -> Score:
    """Score one answer. ``ValueError`` for an unknown metric or without a reference."""
    if metric not in SCORERS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(sorted(SCORERS))}")
    return SCORERS[metric](prediction, metadata)


def _score(correct: float, parsed: Any, reference: Any, **more: Any) -> Score:
    return {
        "correct": correct,
        "unparsed": int(parsed is None),
        "parsed": parsed,
        "reference": reference,
        **more,
    }


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
        return _score(int(found == gold), found, gold)

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
    gold = metadata.get("answer_idx")
    if gold is None or not 0 <= int(gold) < len(names):
        raise ValueError(f"answer_idx {gold!r} does not name one of {len(names)} options")
    found = rules.select_mc_option(rules.clean_answer(prediction), names)
    parsed = None if found is None else names[found]
    return _score(int(found == int(gold)), parsed, names[int(gold)])


@scorer("temp_compass")
def temp_compass(prediction: str, metadata: Metadata) -> Score:
    """TempCompass by its matching rules; what they cannot read is wrong."""
    answer, task = metadata.get("answer"), str(metadata.get("task", "multi-choice"))
    if not isinstance(answer, str):
        raise ValueError(f"no reference: answer is {answer!r}")
    parsed, right = rules.temp_compass(prediction, answer, task)
    aspect = metadata.get("temporal_aspect")
    return _score(int(right), parsed, answer, labels=[f"{task}_{aspect}"] if aspect else [])


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
    return _score(int(choice == int(gold)), parsed, names[int(gold)])


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
        return _score(score(prediction, answers), parsed, reference)

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


# --- counting, pointing, tracking --------------------------------------------------------------


def _count(prediction: str, metadata: Metadata, pointed: bool) -> Score:
    """``pointed``: the number of points counts, not the number in the text."""
    gold = metadata.get("count")
    if gold is None:
        raise ValueError("the metadata of a counting question hold no count")
    gold = int(gold)
    if pointed:
        n_points = len(read_points(prediction, 100, 100))
        found = n_points or (0 if rules.read_count(prediction) == 0 else None)
        tolerance, label = 1, f"count/{gold}"
    else:
        found, low = rules.read_count(prediction), gold // 5 * 5
        tolerance = 1 + int(0.05 * gold)
        label = f"count/{low}-{low + 5}" if low < 25 else "count/25 and more"
    close = found is not None and abs(found - gold) <= tolerance
    return _score(
        int(found == gold),
        found,
        gold,
        scores={"close": float(close), "valid": float(found is not None)},
        labels=[label],
    )


scorer("video_count")(partial(_count, pointed=False))
scorer("image_count")(partial(_count, pointed=True))


def _needed(metadata: Metadata, *names: str) -> list[Any]:
    missing = [name for name in names if metadata.get(name) is None]
    if missing:
        raise ValueError(f"the metadata lack {', '.join(missing)}")
    return [metadata[name] for name in names]


def _point_score(scores: dict[str, float], parsed: Any, reference: Any, headline: str) -> Score:
    valid = float(bool(parsed))
    found = parsed or (None if reference else [])
    return _score(scores[headline], found, reference, scores={**scores, "valid": valid})


@scorer("video_points")
def video_points(prediction: str, metadata: Metadata) -> Score:
    """Molmo2 video pointing: F1 of points in the objects' masks at the very time."""
    gold, masks, duration, (w, h) = _needed(
        metadata, "gt_abs_triplets", "gt_abs_masks", "duration", "image_size"
    )
    found = read_timed_points(prediction, w, h)
    scores = point_metrics.video_points(found, gold, masks, duration, (w, h))
    parsed = [[p.time, p.x, p.y] for p in found]
    return _point_score(scores, parsed, [list(map(float, g)) for g in gold], "f1")


@scorer("image_points")
def image_points(prediction: str, metadata: Metadata) -> Score:
    """Pointing in one image: F1 of points in the objects' masks."""
    gold, masks, (w, h) = _needed(metadata, "points", "masks", "image_size")
    found = read_points(prediction, w, h)
    scores = point_metrics.image_points(found, gold, masks)
    parsed = [list(p) for p in found]
    return _point_score(scores, parsed, [list(map(float, g)) for g in gold], "f1")


@scorer("point_bench")
def point_bench(prediction: str, metadata: Metadata) -> Score:
    """Point-Bench: right when there are points and all of them lie in the mask."""
    mask, (w, h) = _needed(metadata, "mask", "image_size")
    found = read_points(prediction, w, h)
    right = bool(found) and all(point_metrics.is_inside(mask, p) for p in found)
    return _score(int(right), [list(p) for p in found] or None, None)


@scorer("tracking")
def tracking(prediction: str, metadata: Metadata) -> Score:
    """F1 of the points per frame, with HOTA. ``points`` and ``masks`` map frame numbers to object
    ids to points (x, y), or masks."""
    gold, masks, fps, (w, h) = _needed(metadata, "points", "masks", "video_fps", "image_size")
    found = read_tracks(prediction, w, h, fps)
    scores = point_metrics.tracks(found, gold, masks)
    parsed = {str(f): {i: list(p) for i, p in ids.items()} for f, ids in found.items()}
    reference = {str(f): {i: list(p) for i, p in ids.items()} for f, ids in gold.items()}
    return _point_score(scores, parsed, reference, "f1")
