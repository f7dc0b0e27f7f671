"""Lenient answer parsing, averages and intervals."""

import pytest

from olmo.eval.metrics import (
    aggregate,
    bootstrap_interval,
    exact_match,
    normalize_answer,
    parse_choice,
)

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


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("The  Cat.", ["cat"], True),
        ("a cat", ["the cat"], True),
        ("cat", ["dog", "Cat!"], True),
        ("cats", ["cat"], False),
        ("", ["cat"], False),
        ("left-hand", ["left hand"], True),
    ],
)
def test_exact_match(prediction, answers, expected):
    assert exact_match(prediction, answers) is expected


def test_normalize_answer():
    assert normalize_answer(" An  Apple, (the) RED one! ") == "apple red one"
    assert normalize_answer("A") == "a"
    assert normalize_answer("the red A.") == "red a"


def test_bootstrap_interval():
    scores = [1.0] * 60 + [0.0] * 40
    low, high = bootstrap_interval(scores)
    # normal approximation: 0.6 +- 1.96 * sqrt(0.24 / 100) = 0.504 .. 0.696
    assert low == pytest.approx(0.504, abs=0.02) and high == pytest.approx(0.696, abs=0.02)
    assert bootstrap_interval(scores) == (low, high)
    assert bootstrap_interval(scores, level=0.5)[0] > low
    assert bootstrap_interval([1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no scores"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(scores, level=95)


def test_aggregate():
    rows = [
        {"correct": 1, "unparsed": 0, "category": "order"},
        {"correct": 0, "unparsed": 1, "category": "count"},
        {"correct": 1, "unparsed": 0, "category": "count"},
        {"correct": 1, "unparsed": 0, "category": None},
    ]
    out = aggregate(rows)
    assert (out["accuracy"], out["n"], out["unparsed"]) == (0.75, 4, 1)
    assert out["interval"][0] <= 0.75 <= out["interval"][1]
    assert list(out["categories"]) == ["count", "order"]
    assert out["categories"]["count"]["accuracy"] == 0.5
    assert out["macro_average"] == 0.75 and "scores" not in out
    assert out["categories"]["order"] == {
        "accuracy": 1.0,
        "interval": [1.0, 1.0],
        "n": 1,
        "unparsed": 0,
    }


def test_aggregate_by_several_labels():
    rows = [
        {"correct": 1, "unparsed": 0, "labels": ["task/a", "kind/x"], "scores": {"close": 1.0}},
        {"correct": 0, "unparsed": 0, "labels": ["task/b", "kind/x"], "scores": {"close": 0.5}},
        {"correct": 0.5, "unparsed": 0, "labels": ["task/b"], "scores": {"close": 0.0}},
        {"correct": None, "unparsed": 1, "labels": ["task/c"]},
    ]
    out = aggregate(rows, macro="task/")
    assert (out["accuracy"], out["n"], out["unparsed"]) == (0.5, 4, 1)
    assert out["macro_average"] == (1 + 0.25) / 2  # a and b; nothing of c is scored
    assert out["categories"]["kind/x"]["accuracy"] == 0.5
    assert out["categories"]["task/c"]["accuracy"] is None
    assert out["scores"] == {"close": 0.5}


def test_aggregate_of_nothing_has_no_nan():
    assert aggregate([]) == {
        "accuracy": None,
        "interval": None,
        "n": 0,
        "unparsed": 0,
        "macro_average": None,
        "categories": {},
    }
