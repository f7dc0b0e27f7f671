"""Open answers: DocVQA, ChartQA, A-OKVQA, short answers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring import open as open_answers
from olmo.eval.scoring import score_example
from olmo.eval.scoring.score import SCORERS, Score, scorer
from tests.eval.recorded_answers import score, wrongly_scored


@pytest.mark.parametrize(
    ("metric", "tasks", "n"),
    [
        ("anls", ("doc_qa", "info_qa"), 627),
        ("relaxed_correctness", ("chart_qa",), 820),
        ("a_okvqa_da", ("a_okvqa_da",), 30),
    ],
)
def test_recorded_answers(metric, tasks, n):
    assert wrongly_scored(metric, *tasks) == [n]


@pytest.mark.parametrize(
    ("text", "answers", "molmo2", "ours"),
    [
        ("ABCD", ["abcd"], 1, 1),
        ("abcx", ["abcd"], 0.75, 0.75),
        ("abxy", ["abcd"], 0, 0.5),
        ("axyz", ["abcd"], 0, 0),
        ("ab  cd", ["ab cd"], 1, 1),
        ("ab cd", ["ab  cd"], 5 / 6, 1),
        ("abcd", [" abcd "], 2 / 3, 1),
        ("a bcd", ["abcd"], 0.8, 0.8),
        ("5.00", ["$5.00"], 0.8, 0.8),
        ("10 %", ["10%", "10 %"], 1, 1),
        ("", ["ab"], 0, 0),
        ("", [""], 1, 1),
        ("STRASSE", ["straße"], 5 / 7, 5 / 7),
        ("istanbul", ["İstanbul"], 7 / 8, 7 / 8),
    ],
)
def test_anls(text, answers, molmo2, ours):
    found = score(text, {"answers": answers}, "anls")
    assert math.isclose(found.correct, ours)
    assert math.isclose(found.scores["molmo2"], molmo2)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        *(("14.7", "14", 1), ("14.71", "14", 0), ("13.3", "14", 1)),
        *(("14%", "0.14", 1), ("14%", "14", 0), ("14 %", "14%", 1), ("14%%", "14%", 1)),
        *(("1,400", "1400", 0), ("1,400", "1,400", 1), ("1.4e3", "1400", 1)),
        *(("1_4", "14", 1), ("１４", "14", 1), ("$14", "14", 0)),
        *(("0.0", "0", 0), ("0", "0", 1), ("-14", "14", 0), ("2106", "2010", 1)),
        *(("YES", "Yes", 1), ("Yes.", "Yes", 0), ("[14,15]", "[14, 15]", 0), ("%", "%", 1)),
        *(("inf", "14", 0), ("inf", "inf", 0), ("nan", "nan", 0)),
    ],
)
def test_relaxed_correctness(text, answer, right):
    assert score(text, {"answers": [answer]}, "relaxed_correctness").correct == right


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("Dog", ["dog"] * 2 + ["cat"] * 8, 2 / 3),
        (" dog ", ["dog"] * 2 + ["cat"] * 8, 2 / 3),
        ("dog.", ["dog"] * 2 + ["cat"] * 8, 0),
        ("a dog", ["dog"] * 2 + ["cat"] * 8, 0),
        ("dogs", ["dog"] * 2 + ["cat"] * 8, 0),
        ("cat", ["dog"] * 2 + ["cat"] * 8, 1),
        ("dog", ["Dog"] + ["cat"] * 9, 1 / 3),
        ("Answer: dog", ["dog"] * 3 + ["cat"] * 7, 1),
    ],
)
def test_a_okvqa_direct_answers(text, answers, expected):
    assert score(text, {"answers": answers}, "a_okvqa_da").correct == pytest.approx(expected)


def test_short_answer():
    assert score("Two.", {"answers": ["two", "2"]}, "short_answer") == Score(1, "two", ["two", "2"])
    assert score("!", {"answer": "two"}, "short_answer") == Score(0, None, "two")
    assert score("the three", {"answer": 3}, "short_answer").parsed == "three"


def test_question_answering_goes_by_the_example(monkeypatch):
    monkeypatch.setitem(SCORERS, "multiple_choice", lambda text, metadata: Score(1, "its own"))
    choice = {"answer_idx": 0, "options": ["red A", "red K"]}
    assert score("?", choice, "question_answering").parsed == "its own"
    assert score("Red K", {"answer": "red K"}, "question_answering").correct == 1


def test_predictions_only():
    assert score("B", {}, "predictions_only") == Score(None, "B")
    assert score("", {}, "predictions_only").parsed is None


OPEN = ("short_answer", "question_answering", "anls", "relaxed_correctness", "a_okvqa_da")


@pytest.mark.parametrize("metric", OPEN)
@pytest.mark.parametrize("metadata", [{}, {"answer": None}, {"answers": []}, {"answers": [None]}])
def test_without_a_reference(metric, metadata):
    with pytest.raises(ValueError, match="no reference"):
        score("x", metadata, metric)


@given(st.text(max_size=30), st.lists(st.text(max_size=10), min_size=1, max_size=3))
def test_any_text_has_a_score(text, answers):
    for metric in OPEN:
        found = score(text, {"answers": answers}, metric)
        assert found.correct is not None and 0 <= found.correct <= 1
        assert ("molmo2" in found.scores) == (metric == "anls")


def test_a_name_belongs_to_one_module():
    with pytest.raises(ValueError, match="take another name"):
        scorer("anls")(lambda text, metadata: Score(0))
    assert SCORERS["anls"] is open_answers.anls


def test_an_unknown_metric():
    with pytest.raises(ValueError, match="unknown metric 'essay'; known: a_okvqa_da"):
        score_example("A", {}, "essay")
