"""Scores of single answers, for every metric of the task table."""

import numpy as np
import pytest

from olmo.eval import point_scorers  # noqa: F401 (registers)
from olmo.eval.scorers import SCORERS, score_example
from olmo.eval.text_scorers import anls, relaxed_correctness, vqa_score


def test_score_multiple_choice():
    metadata = {"answer_idx": 1, "options": ["cat", "dog"]}
    right = {"correct": 1, "unparsed": 0, "parsed": "B", "reference": "B"}
    assert score_example("(B)", metadata, "multiple_choice") == right
    assert score_example("dog", metadata, "multiple_choice") == right
    assert score_example("A", metadata, "multiple_choice")["correct"] == 0
    assert score_example("", metadata, "multiple_choice") == {
        "correct": 0,
        "unparsed": 1,
        "parsed": None,
        "reference": "B",
    }
    named = {"answer_idx": 0, "option_names": ["1", "2"]}
    assert score_example("1", named, "multiple_choice")["parsed"] == "1"
    unlabelled = {"answer_idx": 1, "option_names": ["a red ball", "a dog"]}
    assert score_example("It is a dog", unlabelled, "multiple_choice")["parsed"] == "a dog"
    letters = {"answer_idx": 1, "option_names": "ABCD"}
    assert score_example("plan b", letters, "multiple_choice")["parsed"] is None


def test_score_short_answer():
    assert score_example("Two.", {"answers": ["two", "2"]}, "short_answer") == {
        "correct": 1,
        "unparsed": 0,
        "parsed": "two",
        "reference": ["two", "2"],
    }
    assert score_example("!", {"answer": "two"}, "short_answer")["unparsed"] == 1
    assert score_example("three", {"answer": "two"}, "short_answer")["reference"] == "two"


def test_score_question_answering_goes_by_the_example():
    choice = {"answer_idx": 1, "options": ["red A", "red K"], "answer": "red K"}
    assert score_example("B", choice, "question_answering")["correct"] == 1
    assert score_example("the red A", choice, "question_answering")["parsed"] == "A"
    short = {"answer": "red K"}
    assert score_example("Red K", short, "question_answering")["correct"] == 1
    assert score_example("B", short, "question_answering")["correct"] == 0


@pytest.mark.parametrize(
    ("metadata", "style"),
    [
        ({"options": ["a", "b"]}, "multiple_choice"),
        ({"options": ["a", "b"], "answer_idx": 2}, "multiple_choice"),
        ({"answer_idx": 0}, "multiple_choice"),
        ({}, "short_answer"),
        ({"answer": "x"}, "essay"),
    ],
)
def test_scoring_without_a_reference_fails(metadata, style):
    with pytest.raises(ValueError):
        score_example("A", metadata, style)


OPTIONS = ["the green box", "the red ball", "nothing", "the blue cup", "a dog"]
LETTER_METRICS = {
    "em_start": {"B": 1, "b)": 1, "(B)": 0, "A": 0},
    "perception_test_mc": {"(B)": 1, "b": 0, "The answer is B": 1, "D": 0},
    "ego_schema_mc": {"(B) x": 1, "A B": 0, "I think it is the red ball here": 1},
    "nextqa_mc": {"(B) x": 1, "A B": 1, "B A": 0},
    "video_mme": {"The best answer is: B": 1, "Because": 1, "E": 0},
    "long_video_bench": {"Answer: B": 1, "E": 0},
}


@pytest.mark.parametrize("metric", LETTER_METRICS)
@pytest.mark.parametrize("reference", [{"answer": "B."}, {"answer_idx": "1"}, {"answer": "(b)"}])
def test_letters(metric, reference):
    metadata = {**reference, "options": OPTIONS}
    for text, right in LETTER_METRICS[metric].items():
        score = score_example(text, metadata, metric)
        assert (score["correct"], score["reference"]) == (right, "B"), text
    for text in ("", "no idea", "I am sorry."):
        score = score_example(text, metadata, metric)
        assert (score["correct"], score["unparsed"], score["parsed"]) == (0, 1, None), text
    with pytest.raises(ValueError, match="no reference"):
        score_example("B", {"answer": "because"}, metric)


def test_letters_end_where_the_options_of_the_question_end():
    metadata = {"answer": "A", "question": "Which?\nA. x\nB. y\n(C) z\nAnswer with a letter."}
    assert score_example("C", metadata, "em_start")["unparsed"] == 0
    assert score_example("Don't know", metadata, "em_start")["unparsed"] == 1


def test_select_mc_option():
    metadata = {"options": ["1", "2"], "option_names": "AB", "answer_idx": 1}
    assert score_example("B. 2", metadata, "select_mc_option")["correct"] == 1
    assert score_example("The answer is B", metadata, "select_mc_option")["unparsed"] == 1
    beyond = metadata | {"answer_idx": None, "answer": "C"}  # in MMIU: nothing is right
    scores = [score_example(text, beyond, "select_mc_option")["correct"] for text in "ABC"]
    assert scores == [0, 0, 0]
    for wrong in ({"options": ["1"]}, beyond | {"answer": "B"}):
        with pytest.raises(ValueError, match="answer_idx"):
            score_example("B", wrong, "select_mc_option")


def test_temp_compass():
    metadata = {"answer": "yes", "task": "yes_no", "temporal_aspect": "speed"}
    score = score_example("Yes.", metadata, "temp_compass")
    assert (score["correct"], score["labels"]) == (1, ["yes_no_speed"])
    with pytest.raises(ValueError, match="no reference"):
        score_example("Yes", {"task": "yes_no"}, "temp_compass")


@pytest.mark.parametrize(
    ("answers", "expected"), [(["cat"] * 10, 1), (["cat", "dog", "Cat."], 2 / 3), (["dog"], 0)]
)
def test_vqa_score(answers, expected):
    assert vqa_score("the cat", answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [("hello", ["hello"], 1), ("helo", ["Hello", "x"], 0.8), ("hi", ["hello"], 0), ("", [""], 1)],
)
def test_anls(text, answers, expected):
    assert anls(text, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("105", "100", True),
        ("105.1", "100", False),
        ("50%", "0.5", True),
        ("1,000", "1000", True),
        ("0", "0", True),
        ("0.1", "0", False),
        ("Yes", "yes", True),
        ("no", "yes", False),
    ],
)
def test_relaxed_correctness(text, answer, right):
    assert relaxed_correctness(text, [answer]) == right


@pytest.mark.parametrize(
    ("text", "gold", "correct", "close", "label"),
    [
        ("There is a total of 3.", 3, 1, 1, "count/0-5"),
        ("4", 3, 0, 1, "count/0-5"),
        ("5", 3, 0, 0, "count/0-5"),
        ("42", 40, 0, 1, "count/25 and more"),  # 1 + floor(0.05 * 40) = 3
        ("lots", 5, 0, 0, "count/5-10"),
    ],
)
def test_video_count(text, gold, correct, close, label):
    score = score_example(text, {"count": gold}, "video_count")
    assert (score["correct"], score["scores"]["close"]) == (correct, close)
    assert score["labels"] == [label] and score["unparsed"] == (text == "lots")


def test_image_count_counts_points():
    text = 'Counting the <points coords="1 1 100 100 2 200 200">x</points> shows a total of 9.'
    assert score_example(text, {"count": 2}, "image_count")["parsed"] == 2
    assert score_example("There are none.", {"count": 0}, "image_count")["correct"] == 1
    assert score_example("9", {"count": 9}, "image_count")["unparsed"] == 1


MASK = np.zeros((100, 100), dtype=bool)
MASK[10:20, 10:20] = True
POINT = '<points coords="0.5 1 150 150">x</points>'


def test_points():
    video = {
        "gt_abs_triplets": [(0.5, 15, 15)],
        "gt_abs_masks": [{0.5: MASK}],
        "duration": 4.0,
        "image_size": (100, 100),
    }
    score = score_example(POINT, video, "video_points")
    assert score["correct"] == 1 and score["scores"]["valid"] == 1
    assert score["parsed"] == [[0.5, 15.0, 15.0]]
    assert score_example("left", video, "video_points")["unparsed"] == 1
    image = {"points": [(15, 15)], "masks": [MASK], "image_size": (100, 100)}
    assert score_example(POINT, image, "image_points")["correct"] == 1
    bench = {"mask": MASK, "image_size": (100, 100)}
    assert score_example(POINT, bench, "point_bench")["correct"] == 1
    two = '<points coords="1 1 150 150 2 900 900">x</points>'
    assert score_example(two, bench, "point_bench")["correct"] == 0
    nothing = {**image, "points": [], "masks": []}
    assert score_example("There are none.", nothing, "image_points")["correct"] == 1
    with pytest.raises(ValueError, match="lack masks"):
        score_example(POINT, {"points": [], "image_size": (1, 1)}, "image_points")


def test_tracking():
    metadata = {
        "points": {0: {"a": (15, 15)}, 2: {"a": (15, 15)}},
        "masks": {0: {"a": MASK}, 2: {"a": MASK}},
        "video_fps": 2,
        "image_size": (100, 100),
    }
    text = '<tracks coords="0.0 1 150 150;1.0 1 150 150">x</tracks>'
    score = score_example(text, metadata, "tracking")
    assert score["correct"] == 1 and score["scores"]["HOTA"] == 1
    assert score["parsed"] == {"0": {"1": [15.0, 15.0]}, "2": {"1": [15.0, 15.0]}}


def test_predictions_only():
    assert score_example("B", {}, "predictions_only")["correct"] is None


def test_unknown_metric():
    with pytest.raises(ValueError, match="unknown metric 'essay'; known: anls"):
        score_example("A", {}, "essay")
    assert len(SCORERS) > 15
