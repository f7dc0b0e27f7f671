"""Pairs of answers to the same questions, and the tests of what differs."""

from dataclasses import replace

import pytest

from olmo.eval.pairs import p_value, paired_difference, paired_gaps
from tests.eval.fakes import prediction


def test_p_value():
    assert p_value([0, 0, 0]) == 1.0
    assert p_value([1] * 6) == pytest.approx(2 / 64)
    assert p_value([1, 1, 1, -1]) == pytest.approx(2 * 5 / 16)
    assert p_value([1, -1]) == 1.0
    # four gaps of one sign: two of the sixteen sign patterns are as large
    assert p_value([0.5, 0.25, 0.5, 0.75]) == pytest.approx(2 / 16)
    assert p_value([0.5] * 30) < 0.001


def test_difference_and_its_interval():
    def scored(correct):
        return [prediction(i, c) for i, c in enumerate(correct)]

    gap = paired_difference(scored([1, 1, 1, 0]), scored([1, 1, 0, 0]))
    assert gap.points == 25 and gap.n == 4 and gap.low <= 25 <= gap.high
    hard = [0, 1] * 50  # the same right answers: no doubt is left, however hard the questions
    same = paired_difference(scored(hard), scored(hard))
    assert (same.points, same.low, same.high) == (0, 0, 0)
    assert str(same) == "+0.0 points (95% interval +0.0 to +0.0, paired over 100 questions)"


def test_pairs_need_the_same_examples():
    rows = [prediction(0, 1), prediction(1, 0)]
    assert paired_gaps(rows, rows[::-1]) == [0, 0]
    assert paired_difference(rows, rows).points == 0
    with pytest.raises(ValueError, match="cannot pair"):
        paired_gaps(rows, [replace(rows[0], example_id="b"), rows[1]])
    with pytest.raises(ValueError, match="1 of 2 examples changed in between"):
        paired_gaps(rows, [replace(rows[0], fingerprint="other"), rows[1]])
