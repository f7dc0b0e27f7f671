"""Scatter plots: the Pareto front, ticks, and numbers of points that lie close together."""

from olmo.eval.scatter import (
    BOTTOM,
    CHARACTER,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    pareto,
    scatter,
)


def test_pareto():
    a, b, c = Point(1, "a", 1, 5), Point(2, "b", 2, 9), Point(3, "c", 3, 9)
    worse, twin = Point(4, "worse", 2, 4), Point(5, "twin", 1, 5)
    assert pareto([c, b, worse, a, twin]) == [a, twin, b]
    assert pareto([worse]) == [worse] and pareto([]) == []


def test_positions():
    points = [Point(1, "low", 100, 40), Point(2, "high", 200, 80)]
    plot = scatter("tokens", "accuracy %", points)
    assert plot["x_ticks"][0] == (LEFT, "100") and plot["x_ticks"][-1] == (RIGHT, "200")
    assert plot["y_ticks"][0] == (BOTTOM, "40") and plot["y_ticks"][-1] == (TOP, "80")
    assert plot["front"] == f"{LEFT:.1f},{BOTTOM:.1f} {RIGHT:.1f},{TOP:.1f}"
    assert [p["front"] for p in plot["points"]] == [True, True]


def test_equal_and_tiny_values():
    for x in (0.0, 3.0, 1e-7):
        plot = scatter("x", "y", [Point(1, "a", x, 50), Point(2, "b", x, 50)])
        assert len(plot["x_ticks"]) > 1 and all(LEFT < p["x"] < RIGHT for p in plot["points"])


def test_points_that_are_close_share_the_place_of_their_numbers():
    places = [(0, 0), (100, 100), (1, 1), (50, 50), (99, 100)]
    points = [Point(i, f"run {i}", x, y) for i, (x, y) in enumerate(places, 1)]
    numbers = scatter("x", "y", points)["numbers"]
    assert sorted(text for *_, text in numbers) == ["1, 3", "2, 5", "4"]
    for x, y, text in numbers:  # inside
        half = CHARACTER * len(text) / 2
        assert x - half > LEFT and x + half <= WIDTH and TOP - 5 < y < BOTTOM + 5
    chain = [Point(i, "", i, 50 + i / 100) for i in (1, 3, 2, 4)] + [Point(5, "", 100, 90)]
    assert [text for *_, text in scatter("x", "y", chain)["numbers"]] == ["1, 2, 3, 4", "5"]


def test_values_that_differ_by_rounding_alone():
    plot = scatter("x", "y", [Point(1, "a", 1, 46.0), Point(2, "b", 2, 46.00000000000001)])
    assert len(plot["points"]) == 2 and len(plot["y_ticks"]) < 12
