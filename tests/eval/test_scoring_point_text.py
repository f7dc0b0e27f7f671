"""Reading points and tracks from text."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring.points import TimedPoint, read_points, read_timed_points, read_tracks

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/eval/points.json").read_text())
TRACKS = '<tracks coords="0.0 1 100 100 2 500 500;1.0 1 200 200;2.0 2 700 700">dog</tracks>'
A, AB = [(100, 50)], [(100, 50), (120, 60)]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ('<points coords="1 1 500 500 2 600 600">a</points>', AB),
        ('<points alt="b" coords="1 1 500 500"/>', A),
        ('<points coords="1 1 500 500;2 2 600 600">a</points>', AB),
        ('<points coords="1 1 500 500; 2 2 600 600">a</points>', A),
        ('<points coords="1 1 0500 500">a</points>', A),
        ('<points coords="1 1 500 1001 2 500 500">a</points>', A),
        ('<points coords="1 1 50 50">a</points>', []),
        ('<points coords="1  1 500 500">a</points>', A),
        ('<points coords="1 1 500 500', A),
        ('<points coords="1 1 500 500">a</points> <points coords="1 1 600 600">b</points>', AB),
        ('<points coords="1 1 500 500">a</points> Click(60.0, 60.0)', A),
        ("Click(50.0, 50.0)", A),
        ("Click(50, 50)", []),
        ("1 500 500 2 600 600", AB),
        ("the number 12 345 678 here", [(69, 67.8)]),
        ("<points cat\t-\t1 50.0 50.0/>", A),
        ("(50.0, 50.0)", A),
        ("(50.0 50.0)", A),
        ("(50, 50)", []),
        ('<point x="50.0" y="50" alt="a">a</point>', A),
        ('x1="50.0" y1="50" x2="60"\n y2="60.0"', AB),
        ('(50.0,50.0) and x="60.0" y="60.0"', AB),
        ("p=500,500", A),
        ("3 = 500 , 500", A),
        ("Click(100.1, 50.0)", []),
        ("There are none.", []),
        ("", []),
    ],
)
def test_points(text, points):
    assert read_points(text, 200, 100) == [pytest.approx(p) for p in points]


@pytest.mark.parametrize("separator", ["\t", ":", ",", ";"])
def test_separators(separator):
    text = f'<points coords="0.5 1 100 200{separator}1.0 2 300 400">x</points>'
    expected = [TimedPoint(0.5, "1", 100, 200), TimedPoint(1.0, "2", 300, 400)]
    assert read_timed_points(text, 1000, 1000) == expected


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("<points 0.5 1 10.0 20.5 2 30 101/>", [(0.5, "1", 20, 20.5)]),
        ("<points 0.5 1 10 20 /> <points 1 2 30 40/>", [(0.5, "1", 20, 20), (1, "2", 60, 40)]),
        ("<points 0.5 1 10 20/> <points 1 2 30/>", []),
        ("<points 0.5 1 10 20; 1.0 2 30 40/>", []),
        ("1 500 500", []),
        ('<points coords="1.5.2 1 500 500;2 2 500 500">x</points>', [(2, "2", 100, 50)]),
        ('<points coords="1.2.3 x">', []),
        ('<points\ncoords="1 1 500 500">', []),
    ],
)
def test_points_with_times(text, points):
    assert read_timed_points(text, 200, 100) == [TimedPoint(*p) for p in points]


@pytest.mark.parametrize(
    ("text", "tracks"),
    [
        (
            '<tracks coords="0.0 1 100 100 2 500 500;1.0 1 200 200">x</tracks>',
            {0: {"1": (20, 10), "2": (100, 50)}, 10: {"1": (40, 20)}},
        ),
        ('<tracks coords="0 1 100 100 1 900 900;0.0 1 300 300">x</tracks>', {0: {"1": (20, 10)}}),
        # of two times in one frame the later stands, with all its objects
        (
            '<tracks coords="1.00 1 100 100 2 500 500;1.04 1 200 200">x</tracks>',
            {10: {"1": (40, 20)}},
        ),
        (
            '<tracks coords="0.25 1 100 100;0.35 1 200 200">x</tracks>',
            {2: {"1": (20, 10)}, 4: {"1": (40, 20)}},
        ),
        (
            "time 0.50\n{1: [10.0, 20.0], 2: [30, 100.1]}\ntime 1.00\n{2: [50.0, 50.0]}",
            {5: {"1": (20, 20)}, 10: {"2": (100, 50)}},
        ),
        ("time 0.50\nnothing\n", {}),
        ("none", {}),
    ],
)
def test_tracks(text, tracks):
    assert read_tracks(text, 200, 100, fps=10) == tracks


@given(st.text() | st.text(alphabet='<pointracks coords="15.0;:>/\n{}[],') | st.text("19. "))
def test_any_text_is_read(text):
    for said in (text, f'<points coords="{text}"/>', f"<points {text}/>", f"time 1\n{{{text}}}"):
        for x, y in read_points(said, 200, 100):
            assert 0 <= x <= 200 and 0 <= y <= 100
        for p in read_timed_points(said, 200, 100):
            assert 0 <= p.x <= 200 and 0 <= p.y <= 100
        read_tracks(said, 200, 100, fps=30)


def test_a_time_beyond_numbers():
    text = f'<tracks coords="{"9" * 400} 1 500 500">x</tracks>'
    assert read_tracks(text, 200, 100, fps=30) == {}


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
