"""Scatter plots: the Pareto front, ticks, and labels that do not cover each other."""

import itertools

from olmo.eval.scatter import (
    BOTTOM,
    CHARACTER,
    LEFT,
    LONGEST,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    pareto,
    scatter,
)


def test_pareto():
    a, b, c = Point("a", 1, 5), Point("b", 2, 9), Point("c", 3, 9)
    worse, twin = Point("worse", 2, 4), Point("twin", 1, 5)
    assert pareto([c, b, worse, a, twin]) == [a, twin, b]
    assert pareto([worse]) == [worse] and pareto([]) == []


def test_positions():
    plot = scatter("tokens", "accuracy %", [Point("low", 100, 40), Point("high", 200, 80)])
    assert plot["x_ticks"][0] == (LEFT, "100") and plot["x_ticks"][-1] == (RIGHT, "200")
    assert plot["y_ticks"][0] == (BOTTOM, "40") and plot["y_ticks"][-1] == (TOP, "80")
    assert plot["front"] == f"{LEFT:.1f},{BOTTOM:.1f} {RIGHT:.1f},{TOP:.1f}"
    assert [p["front"] for p in plot["points"]] == [True, True]


def test_equal_and_tiny_values():
    for x in (0.0, 3.0, 1e-7):
        plot = scatter("x", "y", [Point("a", x, 50), Point("b", x, 50)])
        assert len(plot["x_ticks"]) > 1 and all(LEFT < p["x"] < RIGHT for p in plot["points"])


def test_labels_are_apart_and_inside():
    points = [Point(f"setting {i}", 100 + i % 2, 50 + i // 3) for i in range(4)]
    plot = scatter("x", "y", [*points, Point("a very long name " * 5, 180, 60)])
    boxes = [(p["left"], p["base"], CHARACTER * len(p["text"])) for p in plot["points"]]
    for a, b in itertools.combinations(boxes, 2):
        aside = a[0] + a[2] <= b[0] + 0.2 or b[0] + b[2] <= a[0] + 0.2
        assert aside or abs(a[1] - b[1]) >= 12.8
    assert all(left >= LEFT and left + width <= WIDTH for left, _, width in boxes)
    assert len(plot["points"][-1]["text"]) == LONGEST
