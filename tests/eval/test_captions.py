"""A question and what was answered, as lines."""

import pytest

from olmo.eval.captions import question_lines, value_text
from tests.eval.fakes import prediction

MOVES = ["right", "down", "up", "left"]
LETTERED = ("options", "A. right / B. down / C. up / D. left")


def test_options_have_their_letters_where_the_answer_is_one():
    one = prediction(0, 0, options=MOVES, reference="D", parsed="C")
    assert question_lines(one) == [("question", "which?"), LETTERED, ("answer", "D. left")]
    assert value_text(one, one.parsed) == "C. up"
    beyond = prediction(0, 0, options=MOVES, reference="F")
    assert question_lines(beyond)[1:] == [LETTERED, ("answer", "F")]


@pytest.mark.parametrize("right", ["left", "B", None])
def test_options_that_are_named_by_their_text_have_none(right):
    one = prediction(0, 0, options=["left", "A", "B"], reference=right)
    lines = dict(question_lines(one))
    assert lines["options"] == "left / A / B" and lines.get("answer") == right
    assert value_text(one, "A") == "A"


def test_values():
    one = prediction(0, 0)
    assert question_lines(one) == [("question", "which?")]
    for value, text in (
        *((4.0, "4"), (-1400.0, "-1400"), (0.1, "0.1"), (2, "2"), (None, "")),
        *(([], ""), ("A", "A"), ({"a": 1}, "{'a': 1}"), (["red", "dark red"], "red / dark red")),
        ([[1.5, 2.0], [3, 4]], "(1.5, 2) / (3, 4)"),
    ):
        assert value_text(one, value) == text
