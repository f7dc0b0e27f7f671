"""Our own rules: the lenient reading of options, short answers. Numbers: ``test_own_data.py``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring.own import multiple_choice, parse_choice
from olmo.eval.scoring.score import SCORERS, Score
from tests.eval.recorded_answers import score


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


# --- options -----------------------------------------------------------------------------------


def test_multiple_choice():
    metadata = {"answer_idx": 1, "options": ["cat", "dog"]}
    for text in ("(B)", "dog", "It is a dog"):
        score = multiple_choice(text, metadata)
        assert (score.correct, score.parsed, score.reference) == (1, "B", "B")
    assert multiple_choice("A", metadata).parsed == "A"
    assert multiple_choice("", metadata).parsed is None
    assert multiple_choice("1", {"answer_idx": 0, "option_names": ["1", "2"]}).parsed == "1"
    unlabelled = {"answer_idx": 1, "option_names": ["a red ball", "a dog"]}
    assert multiple_choice("It is a dog", unlabelled).parsed == "a dog"
    assert multiple_choice("plan b", {"answer_idx": 1, "option_names": "ABCD"}).parsed is None


LETTERS = "ABCD"
COLOURS = ["red", "dark red", "a blue ball", "none"]

CHOICES = [
    # alone, bracketed, punctuated, in any case
    ("B", 1),
    ("b", 1),
    (" B \n", 1),
    ("B.", 1),
    ("b.", 1),
    ("B)", 1),
    ("(B)", 1),
    ("(b)", 1),
    ("[B]", 1),
    ("B:", 1),
    ("**B**", 1),
    ('"B"', 1),
    ("B. a book", 1),
    ("(B) a book", 1),
    ("b) foo", 1),
    ("A. a book", 0),
    ("A, because it moves", 0),
    ("B a book", 1),
    ("B\nbecause it moves", 1),
    # in a sentence
    ("The answer is B", 1),
    ("The answer is b.", 1),
    ("The answer is (B)", 1),
    ("The answer is: B", 1),
    ("The best answer is option c", 2),
    ("The correct answer is C because it turns left.", 2),
    ("The answer is **C**.", 2),
    ("Answer: D", 3),
    ("A looks right at first. Answer: (d)", 3),
    ("Answer: A. On reflection, Answer: B", 1),
    ("I think it is option b.", 1),
    ("Option C is right", 2),
    ("It must be (c), I think", 2),
    ("It is not A but C", 2),
    ("The answer is not A. It is B.", 1),
    # several letters: the first that is clearly an option
    ("A B", 0),
    ("B or C", 1),
    ("A or B", 0),
    ("Either A and C, or B", 0),
    ("B. Option A is wrong", 1),
    ("A ball hits (C)", 2),
    # nothing to read
    ("", None),
    ("   ", None),
    ("Answer:", None),
    ("zzz", None),
    ("bananas", None),
    ("A dog is running", None),
    ("a dog", None),
    ("E", None),
    ("(E)", None),
    ("N/A", None),
    ("I cannot answer this question.", None),
    ("I'm sorry, as an AI I cannot see the video.", None),
    ("plan b-roll", None),
    ("the car(s)", None),
]


@pytest.mark.parametrize(("text", "expected"), CHOICES)
def test_parse_choice(text, expected):
    assert parse_choice(text, LETTERS) == expected


TEXTS = [
    ("red", 0),
    ("Dark red.", 1),
    ("It is dark red", 1),
    ("The blue ball", 2),
    ("a blue ball", 2),
    ("I see a blue ball here", 2),
    ("red or a blue ball", None),
    ("redder", None),
    ("C. red", 2),
    ("green", None),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_parse_choice_reads_the_text_of_an_option(text, expected):
    assert parse_choice(text, LETTERS, COLOURS) == expected


OTHER_NAMES = [
    ("2", ["1", "2", "10"], 1),
    ("10) ten", ["1", "2", "10"], 2),
    ("(2) two", ["1", "2", "10"], 1),
    ("1.5 seconds", ["1", "2", "10"], None),
    ("there are 2 cars", ["1", "2", "10"], None),
    ("ii. the second", ["i", "ii", "iii"], 1),
    ("The answer is III.", ["i", "ii", "iii"], 2),
    ("B", ["a", "b"], 1),
    ("I went with (B)", "ABCDEFGHI", 1),
    ("I", "ABCDEFGHI", 8),
    ("I am not sure", "ABCDEFGHI", None),
]


@pytest.mark.parametrize(("text", "names", "expected"), OTHER_NAMES)
def test_parse_choice_with_other_names(text, names, expected):
    assert parse_choice(text, names) == expected


GLYPHS = [
    ("the red A", 1),
    ("It is red A.", 1),
    ("The answer is the cyan C", 2),
    ("I choose B, not the red K", 1),
    ("D. the red A", 3),
    ("A", 0),
]


@pytest.mark.parametrize(("text", "expected"), GLYPHS)
def test_a_letter_inside_an_option_is_not_its_name(text, expected):
    options = ["the red K", "the red A", "the cyan C", "the cyan 2"]
    assert parse_choice(text, LETTERS, options) == expected


def test_equal_option_texts_are_not_a_clear_answer():
    assert parse_choice("red", "ABC", ["red", "Red.", "blue"]) is None


def test_options_may_carry_their_names():
    assert parse_choice("the blue one", "AB", ["A. the red one", "B. the blue one"]) == 1


@given(st.text(max_size=20))
def test_any_text_is_an_option_or_none(text):
    assert parse_choice(text, "ABCD", COLOURS) in (None, 0, 1, 2, 3)
