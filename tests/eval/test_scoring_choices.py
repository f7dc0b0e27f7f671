"""Multiple choice by names of options, and our own lenient reading."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring import letters
from olmo.eval.scoring.letters import option_by_text
from olmo.eval.scoring.own import multiple_choice, parse_choice

PARSED = json.loads(
    (Path(__file__).parents[1] / "fixtures/eval/mc_answer_parsing.json").read_text()
)
FRUIT = ["apple", "mango", "pear", "plum"]


@pytest.mark.parametrize("case", PARSED["select_mc_option"], ids=lambda c: c["pred"])
def test_recorded_names(case):
    score = letters.by_name(case["pred"], case["option_names"], case["out"])
    assert score.scores == {"molmo2": 1}


@pytest.mark.parametrize(
    ("text", "names", "ours", "reference"),
    [
        ("B", "ABCD", "B", "B"),
        ("d. whatever", "ABCD", "D", "D"),
        ("Dog", "ABCD", "D", "D"),
        ("b, c", "ABCD", "B", "B"),
        ("(b)", "ABCD", "B", "B"),
        ("**C**", "ABCD", "C", "C"),
        ("The answer is D", "ABCD", None, "A"),
        ("(A) or (B)", "ABCD", None, "A"),
        ("I don't know", "ABCD", None, "D"),
        ("Option D", "ABCD", None, "D"),
        ("xb", "ABCD", None, "B"),
        ("x", "ABCD", None, "A"),
        ("none of these", "ABCDE", None, "E"),
        ("Ⓑ", "ABCD", None, "A"),
        ("", "ABCD", None, "A"),
        ("Mango.", FRUIT, "mango", "mango"),
        ("MAN", FRUIT, "mango", "mango"),
        ("ang", FRUIT, "mango", "mango"),
        ("mangos are sweet", FRUIT, "mango", "mango"),
        ("man go", FRUIT, "mango", "mango"),
        ("banana", FRUIT, None, "mango"),
        ("p", FRUIT, None, "pear"),
        ("turn rigt", ["turn left", "turn right"], "turn right", "turn right"),
        ("turn", ["turn left", "turn right"], None, "turn left"),
        ("red", ["Red", "red", "red hat"], "Red", "Red"),
    ],
)
def test_names(text, names, ours, reference):
    score = letters.by_name(text, names, 0)
    assert (score.parsed, score.correct) == (ours, ours == names[0])
    guesses = [letters.by_name(text, names, i).scores["molmo2"] for i in range(len(names))]
    assert guesses.index(1) == list(names).index(reference) and sum(guesses) == 1


@given(st.text(max_size=12), st.lists(st.text(max_size=4), min_size=1, max_size=5))
def test_names_never_fail(text, names):
    score = letters.by_name(text, names, 0)
    assert score.parsed is None or score.parsed in names
    assert set(score.scores) == {"molmo2"}


def test_names_are_those_shown_else_letters():
    metadata = {"options": ["1", 2], "answer_idx": 1}
    assert option_by_text("b", metadata).parsed == "B"
    assert letters.tomato("b", metadata).parsed == "B"
    assert option_by_text("two", {**metadata, "option_names": ["one", "two"]}).parsed == "two"


@pytest.mark.parametrize("score", [option_by_text, letters.tomato, multiple_choice])
@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"answer_idx": 0},
        {"options": ["x", "y"]},
        {"options": ["x", "y"], "answer_idx": 2},
        {"option_names": "AB", "answer_idx": -1},
    ],
)
def test_no_reference(score, metadata):
    with pytest.raises(ValueError, match=r"no reference|answer_idx"):
        score("A", metadata)


def test_real_world_qa_always_has_four_letters():
    metadata = {"answer": "B", "options": ["x", "y"], "option_names": "AB"}
    assert letters.four_letters("Answer: b", metadata).correct == 1
    assert letters.four_letters("d", metadata).parsed == "D"
    for answer in ("E", "3"):
        with pytest.raises(ValueError):
            letters.four_letters("A", {"answer": answer})


@pytest.mark.parametrize(
    ("about", "labels"),
    [
        ({}, ()),
        ({"abc_label": False}, ("mc_ai2d_opaque", "mc_ai2d_transparent")),
        ({"abc_label": True, "has_transparent_box": False}, ("mc_ai2d_opaque",)),
        ({"abc_label": True, "has_transparent_box": True}, ("mc_ai2d_transparent",)),
    ],
)
def test_the_two_numbers_of_ai2d(about, labels):
    score = option_by_text("A", {"option_names": "ABC", "answer_idx": 0, **about})
    assert (score.correct, score.labels) == (1, labels)


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


# --- our own lenient reading --------------------------------------------------------------------

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
