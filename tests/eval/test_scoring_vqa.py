"""Answers that ten people gave: VQA v2, TextVQA."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring.open import CONTRACTIONS, normalize_text_vqa, normalize_vqa
from tests.eval.recorded_answers import recorded, score, wrongly_scored


@pytest.mark.parametrize(
    ("metric", "task", "n"),
    [("text_vqa_score", "text_vqa", 1602), ("vqa_score", "coco_2014_vqa_8192", 646)],
)
def test_recorded_answers(metric, task, n):
    assert wrongly_scored(metric, task) == [n]


def test_contractions_are_those_of_the_official_table():
    table = recorded("vqa_contractions.json")
    assert len(table) == 120
    effective = {k: v for k, v in table.items() if k == k.lower() and k != v}
    assert effective == CONTRACTIONS


@pytest.mark.parametrize(
    ("equal", "official", "molmo2"),
    [(0, 0, 0), (1, 0.3, 1 / 3), (2, 0.6, 2 / 3), (3, 0.9, 1), (4, 1, 1), (10, 1, 1)],
)
def test_share_of_ten_references(equal, official, molmo2):
    answers = ["a Dog."] * equal + ["cat"] * (10 - equal)
    for metric in ("vqa_score", "text_vqa_score"):
        found = score("dog", {"answers": answers}, metric)
        assert found.correct == pytest.approx(official)
        assert found.scores["molmo2"] == pytest.approx(molmo2)


@pytest.mark.parametrize(
    ("text", "answer", "molmo2", "ours"),
    [
        *(("two", "2", 1, 1), ("None", "none", 1, 1), ("None", "0", 1, 1)),
        *(("t shirt", "t-shirt", 1, 1), ("tshirt", "t-shirt", 0, 0)),
        *(("coca - cola", "coca cola", 1, 1), ("1000", "1,000", 1, 1), ("5.00", "$5.00", 0, 0)),
        *(("usa", "U.S.A.", 1, 1), ("3.5", "35", 0, 0), ("dont", "don't", 1, 1)),
        *(("oclock", "o'clock", 1, 1), ("yesno", "yes,no", 0, 1), ("yes no", "yes,no", 1, 0)),
        *(("mcdonald 's", "mcdonald's", 0, 1), ("100 %", "100%", 0, 0), ("(left)", "left", 1, 1)),
    ],
)
def test_text_vqa(text, answer, molmo2, ours):
    found = score(text, {"answers": [answer] * 10}, "text_vqa_score")
    assert (found.scores["molmo2"], found.correct) == (molmo2, ours)


def test_normalisation():
    assert normalize_vqa("The\tt-shirt\nand ten dogs?") == "t shirt and 10 dogs"
    assert normalize_vqa("yes, no-no") == "yes no no"
    assert normalize_vqa("1,000-2 a.b 3.5 4.") == "10002 ab 3.5 4"
    assert normalize_vqa("they'dve somebody'd let's lets") == "they'd've somebodyd let's lets"
    assert normalize_vqa("a" + "." * 40) == "a" + "." * 8
    assert normalize_text_vqa("It's 1,000?") == "it 's 1000"


def test_parsed_and_reference():
    found = score("Answer: the dogs!", {"answers": ["dog"] * 10}, "vqa_score")
    assert (found.parsed, found.reference) == ("dogs", ["dog"] * 10)
    assert score(" ", {"answers": ["dog"]}, "vqa_score").parsed is None
    assert score("The", {"answers": ["dog"]}, "vqa_score").parsed == "The"


@pytest.mark.parametrize("metric", ["vqa_score", "text_vqa_score"])
def test_without_a_reference(metric):
    with pytest.raises(ValueError, match="no reference"):
        score("x", {"answers": []}, metric)


@given(st.text(max_size=40), st.lists(st.text(max_size=10), min_size=1, max_size=4))
def test_any_text_has_both_scores(text, answers):
    for metric in ("vqa_score", "text_vqa_score"):
        found = score(text, {"answers": answers}, metric)
        assert 0 <= found.correct <= 1 and 0 <= found.scores["molmo2"] <= 1
    assert normalize_vqa(normalize_vqa(text).upper()) is not None
