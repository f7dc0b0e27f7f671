"""Points and tracks: reading them from text, and matching them with objects."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from olmo.eval.matching import assign, hota
from olmo.eval.point_metrics import (
    image_points,
    is_inside,
    precision_recall_f1,
    tracks,
    video_points,
)
from olmo.eval.points import TimedPoint, read_points, read_timed_points, read_tracks

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/eval/points.json").read_text())
TRACKS = '<tracks coords="0.0 1 100 100 2 500 500;1.0 1 200 200;2.0 2 700 700">dog</tracks>'


@pytest.mark.parametrize("case", RECORDED["extract"], ids=lambda c: c["text"][:30])
def test_recorded_points(case):
    found = read_points(case["text"], 640, 480)
    expected = case["extract_points_w640_h480"]
    assert np.allclose(found, expected) if expected else not found
    timed = [(p.time, p.x, p.y) for p in read_timed_points(case["text"], 640, 480)]
    expected = case["extract_multi_image_points_w640_h480"]
    assert np.allclose(timed, expected) if expected else not timed


def test_recorded_tracks():
    found = read_tracks(TRACKS, 640, 480, fps=10)
    expected = {
        frame["frame"]: {i: tuple(p["point"]) for i, p in frame["points"].items()}
        for frame in RECORDED["extract_tracks_10fps"]
    }
    assert found == expected


@pytest.mark.parametrize("separator", ["\t", ":", ",", ";"])
def test_separators(separator):
    text = f'<points coords="0.5 1 100 200{separator}1.0 2 300 400">x</points>'
    assert read_timed_points(text, 1000, 1000) == [
        TimedPoint(0.5, "1", 100, 200),
        TimedPoint(1.0, "2", 300, 400),
    ]


def test_older_points_with_times():
    found = read_timed_points("<points 0.5 1 10.0 20.5; 1.5 2 30 101 />", 200, 100)
    assert found == [TimedPoint(0.5, "1", 20, 20.5)]


def test_an_object_counts_once_per_frame():
    text = '<tracks coords="0.0 1 100 100 1 900 900">x</tracks>'
    assert read_tracks(text, 10, 10, 1) == {0: {"1": (1, 1)}}


@pytest.mark.parametrize("text", ["", "<points>", "coords", '<points coords="1.2.3 x">'])
def test_nothing_to_read(text):
    assert read_points(text, 10, 10) == [] and read_timed_points(text, 10, 10) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 2), (4, 4), (5, 3)])
def test_assignment_is_the_best_of_all(shape):
    rng = np.random.default_rng(sum(shape))
    for _ in range(20):
        cost = rng.integers(-5, 6, size=shape).astype(float)
        n, m = sorted(shape)
        wide = cost if shape[0] == n else cost.T
        best = min(
            sum(wide[i, j] for i, j in enumerate(columns))
            for columns in itertools.permutations(range(m), n)
        )
        pairs = assign(cost)
        assert len(pairs) == n and sum(cost[i, j] for i, j in pairs) == best
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == n
    assert assign(np.zeros((0, 3))) == []


def test_f1_without_objects():
    assert precision_recall_f1(0, 0, 0) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert precision_recall_f1(0, 2, 0)["f1"] == 0.0
    assert precision_recall_f1(0, 0, 2) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def box(x, y, size=10, width=100, height=50):
    mask = np.zeros((height, width), dtype=bool)
    mask[y : y + size, x : x + size] = True
    return mask


def test_inside_is_rounded():
    assert is_inside(box(10, 10), (9.6, 10.4)) and not is_inside(box(10, 10), (9.4, 10.4))
    assert not is_inside(box(0, 0), (-1, 0)) and not is_inside(box(90, 0), (100, 0))


def test_image_points():
    masks = [box(10, 10), box(60, 30)]
    gold = [(15, 15), (65, 35)]
    assert image_points([(62, 31), (12, 12)], gold, masks)["f1"] == 1
    scores = image_points([(12, 12), (50, 5), (51, 6)], gold, masks)
    assert scores == {"precision": 1 / 3, "recall": 1 / 2, "f1": pytest.approx(0.4)}


def test_video_points():
    masks = [{0.5: box(10, 10), 1.0: box(20, 10)}, {2.0: box(60, 30)}]
    gold = [(0.5, 15, 15), (2.0, 65, 35)]

    def f1(*points):
        predicted = [TimedPoint(t, "1", x, y) for t, x, y in points]
        return video_points(predicted, gold, masks, 4.0, (100, 50))

    assert f1((0.5, 15, 15), (2.0, 65, 35))["f1"] == 1
    # another annotated time of the object counts, a time between does not
    assert f1((1.0, 25, 15), (2.0, 65, 35))["f1"] == 1
    assert f1((0.6, 15, 15), (2.0, 65, 35))["precision"] == 0.5
    assert f1()["f1"] == 0
    assert f1((0.5, 15, 15)) == {"precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3)}


GOLD = {f: {"a": (15, 15), "b": (65, 35)} for f in range(2)}
MASKS = {f: {"a": box(10, 10), "b": box(60, 30)} for f in range(2)}


@pytest.mark.parametrize(
    ("predicted", "f1", "hota_value", "assa"),
    [
        (GOLD, 1, 1, 1),
        ({0: GOLD[0], 1: {"a": (65, 35), "b": (15, 15)}}, 1, math.sqrt(1 / 3), 1 / 3),
        ({f: {"a": (15, 15)} for f in range(2)}, 2 / 3, math.sqrt(0.5), 1),
        ({}, 0, 0, 0),
        ({**GOLD, 2: {"a": (15, 15)}}, 2 / 3, None, None),  # a frame without gold scores 0
    ],
)
def test_tracks(predicted, f1, hota_value, assa):
    scores = tracks(predicted, GOLD, MASKS)
    assert scores["f1"] == pytest.approx(f1)
    if hota_value is not None:
        assert scores["HOTA"] == pytest.approx(hota_value)
        assert scores["AssA"] == pytest.approx(assa)


def test_tracks_of_nothing():
    assert set(tracks({}, {}, {}).values()) == {1.0}
    assert hota([])["HOTA"] == 1
