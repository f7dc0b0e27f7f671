"""Averages and intervals."""

import pytest

from olmo.eval.metrics import aggregate, bootstrap_interval, count_text, scored_count
from tests.eval.fakes import prediction


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
        prediction(0, 1, labels=["order"]),
        prediction(1, 0, labels=["count"], unparsed=1),
        prediction(2, 1, labels=["count"]),
        prediction(3, 1),
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
        prediction(0, 1, labels=["task/a", "kind/x"], scores={"close": 1.0}),
        prediction(1, 0, labels=["task/b", "kind/x"], scores={"close": 0.5}),
        prediction(2, 0.5, labels=["task/b"], scores={"close": 0.0}),
        prediction(3, None, labels=["task/c"], unparsed=1),
    ]
    out = aggregate(rows, macro="task/")
    assert (out["accuracy"], out["n"], out["unparsed"]) == (0.5, 4, 1)
    assert (out["scored"], out["categories"]["task/c"]["scored"]) == (3, 0)
    assert "scored" not in out["categories"]["task/b"]
    assert out["macro_average"] == (1 + 0.25) / 2  # a and b; nothing of c is scored
    assert out["categories"]["kind/x"]["accuracy"] == 0.5
    assert out["categories"]["task/c"]["accuracy"] is None
    assert out["scores"] == {"close": 0.5}


def test_of_how_many_answers_an_accuracy_is():
    assert [scored_count(one) for one in ({"n": 3}, {"n": 3, "scored": 2})] == [3, 2]
    assert (count_text(3, 3), count_text(0, 3)) == ("3", "0 of 3")


def test_the_macro_average_by_molmo2s_rule():
    rows = [
        prediction(0, labels=[label], scores={"molmo2": value})
        for label, value in (("task/a", 1), ("task/a", 0), ("task/b", 0.25), ("kind/x", 1))
    ]
    scores = aggregate(rows, macro="task/")["scores"]
    assert scores == {"molmo2": 2.25 / 4, "molmo2_macro_average": (0.5 + 0.25) / 2}


def test_aggregate_of_nothing_has_no_nan():
    assert aggregate([]) == {
        "accuracy": None,
        "interval": None,
        "n": 0,
        "unparsed": 0,
        "macro_average": None,
        "categories": {},
    }
