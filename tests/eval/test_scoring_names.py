"""Multiple choice by names of options, and TempCompass."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring import letters
from olmo.eval.scoring.letters import option_by_text
from olmo.eval.scoring.own import multiple_choice
from olmo.eval.scoring.score import SCORERS

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
    metadata = {"answer_idx": 1, "options": ["x", "y"], "option_names": "AB"}
    assert SCORERS["real_world_qa"]("Answer: b", metadata).correct == 1
    assert SCORERS["real_world_qa"]("d", metadata).parsed == "D"
    for answer in ("E", "3"):
        with pytest.raises(ValueError):
            SCORERS["real_world_qa"]("A", {"answer": answer, "question_type": "multi"})


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


# --- TempCompass --------------------------------------------------------------------------------

QUESTION = {
    "multi-choice": "What?\nA. dunking\nB. 2\nC. 3",
    "caption_matching": "Which?\nCaption A: a man\nCaption B: a dog.",
    "options": "Which?\nOption 1: a man\nOption 2: a dog",
}


@pytest.mark.parametrize(
    ("kind", "answer", "text", "parsed"),
    [
        ("multi-choice", "A. dunking", "A", "A"),
        ("multi-choice", "A. dunking", "A. dunking", "A"),
        ("multi-choice", "A. dunking", "a. Dunking.", "A"),
        ("multi-choice", "A. dunking", "dunking", "A"),
        ("multi-choice", "A. dunking", "B)", "B"),
        ("multi-choice", "B. 2", "2", "B"),
        ("multi-choice", "B. 2", "3", "C"),
        ("multi-choice", "A. dunking", "D.", None),
        ("multi-choice", "A. dunking", "b", None),
        ("multi-choice", "A. dunking", "It is A", None),
        ("multi-choice", "A. dunking", "A man", None),
        ("multi-choice", "A. dunking", "B\nA\nA", None),
        ("multi-choice", "A. dunking", "Answer: A", None),
        ("multi-choice", "A. dunking", "", None),
        ("multi-choice", "A", ".", None),
        ("caption_matching", "Caption B: a dog.", "Caption B", "B"),
        ("caption_matching", "Caption B: a dog.", "caption b.", "B"),
        ("caption_matching", "Caption B: a dog.", "Caption B: a dog", "B"),
        ("caption_matching", "Caption B: a dog.", "A dog", "B"),
        ("caption_matching", "Caption B: a dog.", "B", "B"),
        ("caption_matching", "Caption B: a dog.", "a man.", "A"),
        ("caption_matching", "Caption B: a dog.", "C", None),
        ("options", "Option 1: a man", "Option 2: x", "2"),
        ("options", "Option 1: a man", "1", "1"),
    ],
)
def test_temp_compass_choices(kind, answer, text, parsed):
    metadata = {"answer": answer, "task": kind, "question": QUESTION[kind]}
    score = letters.temp_compass(text, metadata)
    gold = letters.named_option(answer, [answer])
    assert (score.parsed, score.reference, score.scores) == (parsed, gold, {})
    assert score.correct == (parsed == gold)


@pytest.mark.parametrize(
    ("text", "answer", "parsed"),
    [
        ("Yes, it does", "yes", "yes"),
        ("YES", "Yes", "yes"),
        ("yesterday", "no", "yes"),
        ("no", "yes", "no"),
        ("nothing", "no", "no"),
        ("It does", "yes", None),
        ("", "no", None),
    ],
)
def test_temp_compass_yes_or_no(text, answer, parsed):
    metadata = {"answer": answer, "task": "yes_no", "temporal_aspect": "speed"}
    score = letters.temp_compass(text, metadata)
    assert (score.parsed, score.labels) == (parsed, ("yes_no_speed",))
    assert score.correct == (parsed == answer.lower())


@pytest.mark.parametrize("metadata", [{}, {"answer": "dunking"}, {"task": "yes_no"}])
def test_temp_compass_without_reference(metadata):
    with pytest.raises(ValueError, match="no reference"):
        letters.temp_compass("A", metadata)
