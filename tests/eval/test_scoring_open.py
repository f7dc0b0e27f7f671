"""Open answers, and benchmarks that have options as well: recorded answers, and by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.eval.scoring import open as open_answers
from olmo.eval.scoring import score_example
from olmo.eval.scoring.open import CONTRACTIONS, normalize_text_vqa, normalize_vqa
from olmo.eval.scoring.score import SCORERS, Score, scorer
from tests.eval.recorded_answers import recorded, score, wrongly_scored

OPTIONS = ["the red book", "a blue car", "None of the above", "I do not know"]
CHOICES = ["3/11", "8/11", "6/11", "3/5"]


@pytest.mark.parametrize(
    ("metric", "tasks", "n"),
    [
        ("anls", ("doc_qa", "info_qa"), 627),
        ("relaxed_correctness", ("chart_qa",), 820),
        ("a_okvqa_da", ("a_okvqa_da",), 30),
        ("text_vqa_score", ("text_vqa",), 1602),
        ("vqa_score", ("coco_2014_vqa_8192",), 646),
        ("real_world_qa", ("real_world_qa_no_instruction",), 135),
        ("mmmu", ("mmmu",), 304),
    ],
)
def test_recorded_answers(metric, tasks, n):
    assert wrongly_scored(metric, *tasks) == [n]


def test_recorded_answers_to_math_vista():
    """Its float questions are all wrong in the reference implementation."""
    assert wrongly_scored("math_vista", "math_vista_v2", without_molmo2=True) == [63]


# --- texts and numbers -------------------------------------------------------------------------


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


# --- ten people --------------------------------------------------------------------------------


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


# --- RealWorldQA -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "molmo2", "ours"),
    [
        ("B.", "B", 1, 1),
        ("bicycle", "B", 1, 1),
        ("(B)", "B", 1, None),
        ("The answer is B", "B", 0, None),
        ("It is c", "C", 1, None),
        ("I don't know", "D", 1, 0),
    ],
)
def test_real_world_qa_letters(text, answer, molmo2, ours):
    found = score(text, {"question_type": "multiple_choice", "answer": answer}, "real_world_qa")
    assert found.scores == {"molmo2": molmo2}
    assert ours is None or found.correct == ours
    assert found.reference == answer


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        *(("three", "3", 1), ("3 cars", "3", 0), ("3.0", "3", 0), ("none", "0", 1)),
        *(("a stop sign", "stop sign", 1), ("stop-sign", "stop sign", 1), ("Yes!", "yes", 1)),
    ],
)
def test_real_world_qa_short_answers(text, answer, right):
    found = score(text, {"question_type": "short_answer", "answer": answer}, "real_world_qa")
    assert (found.correct, found.scores["molmo2"]) == (right, right)


def test_real_world_qa_what_was_read():
    letters = {"answer_idx": 1}
    found = score("I don't know", letters, "real_world_qa")
    assert (found.parsed, found.reference) == (None, "B")
    assert score("b)", letters, "real_world_qa").parsed == "B"
    assert score("The 3 cars", {"answer": "3"}, "real_world_qa").parsed == "3 cars"


# --- MMMU --------------------------------------------------------------------------------------

TWO = "['24/7', '3.429']"


@pytest.mark.parametrize(
    ("text", "answer", "molmo2", "ours"),
    [
        *(("5", "5", 1, 1), ("5.004", "5", 1, 1), ("5.006", "5", 0, 0), ("50", "5", 0, 0)),
        ("The answer is 5. Check it.", "5", 1, 1),
        ("It is 4. So x=5", "5", 1, 1),
        *(("five", "5", 0, 0), ("1e3", "1,000", 1, 1), ("$1,000", "1,000", 1, 1)),
        *(("b", "b", 1, 1), ("the value b is", "b", 1, 1), ("a b c", "b", 1, 1)),
        *(("abc", "b", 0, 0), ("scatter", "cat", 1, 1), ("thus 7\nso 5", "5", 0, 0)),
        *(("24/7", TWO, 0, 1), ("3.43", TWO, 0, 1), ("7", TWO, 0, 0)),
        *(("10%", "10%", 1, 1), ("10", "10%", 0, 0), ("-.5", "-0.5", 1, 1)),
        *(("[0, 1]", "[0, 1]", 1, 1), ("1", "[0, 1]", 0, 0), ("[x", "[x", 1, 1)),
        ("Answer: so 7\nx = 5", "5", 1, 1),
        ("Answer: x = 7\nso 5", "7", 0, 0),
    ],
)
def test_mmmu_open(text, answer, molmo2, ours):
    found = score(text, {"question_type": "open", "answer": answer}, "mmmu")
    assert (found.scores["molmo2_open"], found.correct) == (molmo2, ours)


def test_mmmu_references_as_a_list():
    found = score("3.43", {"answers": ["24/7", "3.429"]}, "mmmu")
    assert (found.correct, found.scores["molmo2_open"]) == (1, 0)
    assert found.reference == score("3.43", {"answer": TWO}, "mmmu").reference


def test_mmmu_letters():
    metadata = {"question_type": "multiple-choice", "options": [*OPTIONS, ""], "answer": "B"}
    found = score("(B) a blue car", metadata, "mmmu")
    assert (found.correct, found.parsed, found.scores) == (1, "B", {})
    assert score("E", metadata, "mmmu").parsed is None  # the fifth option is empty
    by_index = {"options": OPTIONS, "answer_idx": 1, "answer": "a blue car"}
    assert score("B", by_index, "mmmu").correct == 1


def test_mmmu_what_was_read():
    metadata = {"question_type": "open", "answer": "5"}
    assert score("It is 4. So x=5", metadata, "mmmu").parsed == ["5"]
    assert score(" . ", metadata, "mmmu").parsed is None


# --- MathVista ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "kind", "precision", "right"),
    [
        *(("14", "14", "integer", None, 1), ("+14", "14", "integer", None, 1)),
        *(("14.0", "14", "integer", None, 1), ("14 cm", "14", "integer", None, 1)),
        *(("14 to 15", "14", "integer", None, 0), ("1e999 m", "14", "integer", None, 0)),
        *(("x is −14.", "-14", "integer", None, 1), ("$1,400", "1400", "integer", None, 1)),
        *(("1.4.2", "1", "integer", None, 0), ("B2", "2", "integer", None, 0)),
        *(("1.49", "1.5", "float", 1, 1), ("1.49", "1.5", "float", 1.0, 1)),
        *(("1.5", "1.50", "float", 2, 0), ("3", "3.0", "float", 1, 1)),
        *(("nan", "0.1", "float", 1, 0), ("0.1 kg", "0.1", "float", 1, 1)),
        *(("[1, 2]", "[1, 2]", "list", None, 1), ("1", "[1, 2]", "list", None, 0)),
    ],
)
def test_math_vista_free_form(text, answer, kind, precision, right):
    metadata = {"question_type": "free_form", "answer": answer, "answer_type": kind}
    found = score(text, metadata | {"precision": precision}, "math_vista")
    assert (found.correct, found.scores) == (right, {})


@pytest.mark.parametrize("text", ["8/11", "B", "(B)", "B.", "B)", "B. 8/11", "(B) 8/11", "B: 8/11"])
def test_math_vista_names_of_a_choice(text):
    metadata = {"question_type": "multi_choice", "choices": CHOICES}
    for gold in ({"answer": "8/11"}, {"answer_idx": 1}):
        found = score(text, metadata | gold, "math_vista")
        assert (found.correct, found.parsed, found.reference) == (1, "8/11", "8/11")


@pytest.mark.parametrize("text", ["", "E", "b", "B. 6/11", "B 8/11", "11", "A or B"])
def test_math_vista_no_choice(text):
    metadata = {"question_type": "multi_choice", "choices": CHOICES, "answer": "8/11"}
    found = score(text, metadata, "math_vista")
    assert (found.correct, found.parsed) == (0, None)


def test_math_vista_choices_that_are_letters_or_words():
    letters = {"answer_idx": 0, "options": ["B", "A"]}
    assert score("A", letters, "math_vista").parsed == "B"
    words = {"answer_idx": 0, "options": ["Yes", "No"]}
    assert score("yes", words, "math_vista").correct == 1


# --- all ---------------------------------------------------------------------------------------

OPEN = ("short_answer", "question_answering", "anls", "relaxed_correctness", "a_okvqa_da")
PEOPLE = ("vqa_score", "text_vqa_score")
NOTHING = ({}, {"answer": None}, {"answers": []}, {"answers": [None]})


@pytest.mark.parametrize(
    ("metric", "metadata"),
    [
        *((metric, nothing) for metric in (*OPEN, *PEOPLE) for nothing in NOTHING),
        ("real_world_qa", {}),
        ("real_world_qa", {"question_type": "multiple_choice"}),
        ("real_world_qa", {"answer_idx": -1}),
        ("mmmu", {"question_type": "open"}),
        ("mmmu", {"answer_idx": 1}),
        ("mmmu", {"question_type": "multiple-choice", "options": OPTIONS}),
        ("math_vista", {"question_type": "free_form"}),
        ("math_vista", {"answer": "1.5", "answer_type": "float"}),
        ("math_vista", {"answer_idx": 4, "choices": CHOICES}),
        ("math_vista", {"answer_idx": 1}),
    ],
)
def test_without_a_reference(metric, metadata):
    with pytest.raises(ValueError, match="no reference"):
        score("B", metadata, metric)


@given(st.text(max_size=40), st.lists(st.text(max_size=10), min_size=1, max_size=4))
def test_any_text_has_a_score(text, answers):
    for metric in (*OPEN, *PEOPLE):
        found = score(text, {"answers": answers}, metric)
        assert found.correct is not None and 0 <= found.correct <= 1
        assert ("molmo2" in found.scores) == (metric in ("anls", *PEOPLE))
        assert 0 <= found.scores.get("molmo2", 0) <= 1
    assert normalize_vqa(normalize_vqa(text).upper()) is not None


@settings(max_examples=50)
@given(st.text(max_size=40) | st.text("0123456789.,-+e=[]()ABc ", max_size=20))
def test_any_text_has_a_score_where_there_are_options_too(text):
    choice = {"answer_idx": 1, "options": OPTIONS}
    free = {"answer": "1.5", "precision": 1}
    for metric, metadata, molmo2 in [
        *(("real_world_qa", choice, True), ("real_world_qa", free, True)),
        *(("mmmu", choice, False), ("mmmu", free, True), ("mmmu", {"answer": text}, True)),
        *(("math_vista", choice, False), ("math_vista", free | {"answer_type": "integer"}, False)),
        ("math_vista", free | {"answer_type": "float"}, False),
    ]:
        found = score(text, metadata, metric)
        assert found.correct in (0, 1)
        assert any("molmo2" in name for name in found.scores) == molmo2


def test_a_name_belongs_to_one_module():
    with pytest.raises(ValueError, match="take another name"):
        scorer("anls")(lambda text, metadata: Score(0))
    assert SCORERS["anls"] is open_answers.anls


def test_an_unknown_metric():
    with pytest.raises(ValueError, match=r"metric 'essay'; did you mean 'em_start'\? Known: a_ok"):
        score_example("A", {}, "essay")
