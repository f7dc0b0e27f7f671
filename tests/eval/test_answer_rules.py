"""Reading answers by the benchmarks' own rules."""

import json
from pathlib import Path

import pytest

from olmo.eval import answer_rules as rules

RECORDED = json.loads(
    (Path(__file__).parents[1] / "fixtures/eval/mc_answer_parsing.json").read_text()
)
LETTERS = "ABCDE"


def index(letter):
    return -1 if letter is None else LETTERS.index(letter)


@pytest.mark.parametrize("case", RECORDED["select_mc_option"], ids=lambda c: c["pred"])
def test_recorded_select_mc_option(case):
    found = rules.select_mc_option(case["pred"], case["option_names"], guess=True)
    assert found == case["out"]


@pytest.mark.parametrize("case", RECORDED["perception_test"], ids=lambda c: c["pred"])
def test_recorded_perception_test(case):
    assert index(rules.lone_capital(case["pred"])) == case["out"]


@pytest.mark.parametrize("case", RECORDED["ego_schema"], ids=lambda c: c["pred"])
def test_recorded_ego_schema(case):
    assert index(rules.earliest_candidate(case["pred"], case["options"])) == case["out"]


@pytest.mark.parametrize("case", RECORDED["nextqa"], ids=lambda c: c["pred"])
def test_recorded_nextqa(case):
    found = rules.latest_candidate(case["pred"], ["v", "w", "x", "y", "z"])
    assert (found == case["target"]) is case["out"]


ANSWERS = [
    # text, first_letter, lone_capital, any_capital, earliest_candidate, latest_candidate
    ("B", "B", "B", "B", "B", "B"),
    ("B.", "B", "B", "B", "B", "B"),
    ("b", "B", None, None, None, None),
    ("b) foo", "B", None, None, None, None),
    ("(B)", None, "B", "B", "B", "B"),
    ("(b)", None, None, None, None, None),
    ("The answer is (B)", None, "B", "B", "B", "B"),
    ("The answer is B", None, "B", "B", "B", "B"),
    ("The best answer is: C", None, "C", "C", "C", "C"),
    ("Answer: D", "D", "D", "D", "D", "D"),
    ("B\nB\nA", "B", "B", "B", "B", "B"),
    ("A or C", "A", "A", "A", "A", "C"),
    ("A, B, C", "A", "A", "A", "C", "C"),
    ("bananas", "B", None, None, None, None),
    ("Because it moves", "B", None, "B", None, None),
    ("", None, None, None, None, None),
    ("   ", None, None, None, None, None),
    ("Answer:", None, None, None, None, None),
    ("I cannot see the video.", None, None, None, None, None),
    ("Sorry, no idea", None, None, None, None, None),
    ("it is the red ball that moves to the left", None, None, None, "B", "B"),
    ("first the red ball and then the blue cup", "F", None, None, "B", "D"),
]
OPTIONS = ["the green box", "the red ball", "nothing", "the blue cup"]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row[0])
def test_letters(row):
    text, *expected = row
    assert [
        rules.first_letter(text),
        rules.lone_capital(text),
        rules.any_capital(text),
        rules.earliest_candidate(text, OPTIONS),
        rules.latest_candidate(text, OPTIONS),
    ] == expected


def test_letters_stop_at_the_last_option():
    assert rules.first_letter("E", 4) is None and rules.first_letter("E", 5) == "E"
    assert rules.any_capital("E", 4) is None and rules.any_capital("E", 5) == "E"
    assert rules.lone_capital("E") is None


@pytest.mark.parametrize("prefix", rules.STOCK_PREFIXES)
def test_stock_prefixes_hold_no_letter(prefix):
    assert rules.any_capital(f"{prefix} none of them") is None
    assert rules.any_capital(f"{prefix} D") == "D"


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("B", "ABCD", 1),
        ("b. a book", "ABCD", 1),
        ("The answer is B", "ABCD", None),
        ("zzz", "ABCD", None),
        ("", "ABCD", None),
        ("left", ["turn left", "turn right"], 0),
        ("turn lef", ["turn left", "turn right"], 0),
        ("turn", ["turn left", "turn right"], None),  # nearer to the shorter name, but not near
        ("B)", "ABCD", 1),
        ("(b)", "ABCD", 1),
        ("**C**", "ABCD", 2),
        ("b, c", "ABCD", 1),
        ("A or B", "ABCD", 0),
        ("I don't know", "ABCD", None),  # has a d
        ("none of these", "ABCDE", None),  # has an e
        ("Sorry, I cannot help with that.", "AB", None),
        ("turn rigt", ["turn left", "turn right"], 1),
    ],
)
def test_select_mc_option(text, names, expected):
    assert rules.select_mc_option(text, names) == expected


@pytest.mark.parametrize(
    ("text", "answer", "task", "read", "right"),
    [
        ("A", "A. dunking", "multi-choice", "A", True),
        ("A. dunking", "A. dunking", "multi-choice", "A. dunking", True),
        ("a. Dunking.", "A. dunking", "multi-choice", "a. Dunking.", True),
        ("dunking", "A. dunking", "multi-choice", "dunking", True),
        ("B)", "A. dunking", "multi-choice", "B", False),
        ("b", "A. dunking", "multi-choice", None, False),
        ("It is A", "A. dunking", "multi-choice", None, False),
        ("", "A. dunking", "multi-choice", None, False),
        ("Caption A", "Caption A: a man", "caption_matching", "A", True),
        ("Option 2: x", "Option 1: y", "caption_matching", "2", False),
        ("1", "Option 1: y", "caption_matching", "1", True),
        ("Yes, it does", "yes", "yes_no", "yes", True),
        ("no", "yes", "yes_no", "no", False),
        ("nothing", "no", "yes_no", None, False),
    ],
)
def test_temp_compass(text, answer, task, read, right):
    assert rules.temp_compass(text, answer, task) == (read, right)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("12.", 12),
        ("Counting the <points>x</points> shows a total of 7.", 7),
        ("The total number of cars is: 4", 4),
        ("the total number is 5", 5),
        ("There are none.", 0),
        ("There are 3 cars", None),
        ("many", None),
        ("", None),
    ],
)
def test_read_count(text, expected):
    assert rules.read_count(text) == expected


def test_the_original_guesses_where_ours_reads_nothing():
    for text, guessed in (("I don't know", 3), ("none of these", 4), ("zzz", 0), ("", 0)):
        assert rules.select_mc_option(text, "ABCDE", guess=True) == guessed
        assert rules.select_mc_option(text, "ABCDE") is None


def test_edit_distance():
    assert rules.edit_distance("kitten", "sitting") == 3
    assert rules.edit_distance("", "abc") == rules.edit_distance("abc", "") == 3
    assert rules.edit_distance("same", "same") == 0
