"""Points as text, counting and pointing against the reference's recorded values, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring.points import (
    TimedPoint,
    image_count,
    image_points,
    is_inside,
    point_bench,
    read_number,
    read_points,
    read_timed_points,
    read_tracks,
    video_count,
    video_points,
)
from olmo.eval.scoring.score import SCORERS

RECORDED = Path(__file__).parent / "recorded"
COUNTS = json.loads((RECORDED / "counting.json").read_text())
TEXTS = json.loads((Path(__file__).parents[1] / "fixtures/eval/points.json").read_text())
POINTS = json.loads((RECORDED / "points.json").read_text())["cases"]


def recorded(kind):
    return [pytest.param(c, id=f"{i}") for i, c in enumerate(POINTS) if c["kind"] == kind]


def mask(box, size=(200, 100)):
    x0, y0, x1, y1 = box
    found = np.zeros((size[1], size[0]), dtype=bool)
    found[y0:y1, x0:x1] = True
    return found


def near(scores, expected):
    return {k: scores[k] for k in expected} == pytest.approx(expected, abs=2e-6)


# --- text --------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("case", TEXTS["extract"], ids=lambda c: c["text"][:30])
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
        for frame in TEXTS["extract_tracks_10fps"]
    }
    assert found == expected


# --- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count", "cases"), COUNTS, ids=lambda v: str(v)[:12])
def test_recorded_counts(kind, count, cases):
    for text, molmo2, ours in cases:
        score = SCORERS[kind](text, {"count": count})
        assert molmo2 == [score.scores[k] for k in ("molmo2", "molmo2_close", "molmo2_valid")], text
        if ours is not None:
            found = [score.correct, score.scores["close"], score.scores["valid"]]
            assert found == ours, text
        assert score.scores["valid"] == (score.parsed is not None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("3.", 3), (" 3. ", 3), ("-1", -1), ("1_0", 10), ("３", 3), ("+3", 3)),
        *(("three", None), ("3.0", None), ("3 cats", None), ("", None), ("none", None)),
        *(("a total of 3 and a total of 4", 3), ("a total of  3", 3), ("total of 3", None)),
        *(("The total number of red cats is: 3", 3), ("the total number is 3", None)),
        *(("9" * 5000, None), ("a total of " + "9" * 5000, None)),
    ],
)
def test_numbers(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("text", "gold", "parsed", "correct", "molmo2"),
    [
        ('<points coords="1 1 500 500 2 510 510">cat</points> 3', 2, 2, 1, 1),
        ("3", 3, 3, 1, 0),  # the number stands in the text: the reference reads zero
        ("There are none.", 0, 0, 1, 1),
        ("12", 0, 12, 0, 1),
        ("", 0, None, 0, 1),
        ("There are no cats", 0, None, 0, 1),
    ],
)
def test_image_counts(text, gold, parsed, correct, molmo2):
    score = image_count(text, {"count": gold})
    assert (score.parsed, score.correct, score.scores["molmo2"]) == (parsed, correct, molmo2)
    assert score.labels == (f"count/{gold}",) and score.reference == gold


@pytest.mark.parametrize(
    ("gold", "label"), [(0, "0-5"), (4, "0-5"), (5, "5-10"), (24, "20-25"), (25, "25 and more")]
)
def test_video_counts_are_binned(gold, label):
    assert video_count("3", {"count": gold}).labels == (f"count/{label}",)


@pytest.mark.parametrize(("text", "close"), [("26", 1), ("29", 1), ("24", 0), ("30", 0)])
def test_close_is_wider_for_many(text, close):
    assert video_count(text, {"count": 27}).scores["close"] == close


# --- pointing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", recorded("image_points"))
def test_recorded_image_points(case):
    metadata = {"points": case["gold"], "masks": [mask(box) for box in case["masks"]]}
    score = image_points(case["prediction"], metadata | {"image_size": (200, 100)})
    assert near(score.scores, case["molmo2"])
    assert score.correct == score.scores["f1"] and "molmo2" not in score.scores


@pytest.mark.parametrize("case", recorded("video_points"))
def test_recorded_video_points(case):
    masks = [{float(t): mask(box) for t, box in one.items()} for one in case["masks"]]
    metadata = {"gt_abs_triplets": case["gold"], "gt_abs_masks": masks}
    metadata |= {"duration": case["duration"], "image_size": (200, 100)}
    assert near(video_points(case["prediction"], metadata).scores, case["molmo2"])


def test_without_fault_is_one():
    metadata = {"points": [(100, 50)], "masks": [mask((95, 45, 105, 55))]}
    assert image_points("1 500 500", metadata).correct == 1
    timed = {"gt_abs_triplets": [(0.5, 100, 50)], "duration": 2.0}
    timed |= {"gt_abs_masks": [{0.5: mask((95, 45, 105, 55)), 1.0: mask((0, 0, 5, 5))}]}

    def at(time, place):
        return video_points(f'<points coords="{time} 1 {place}">a</points>', timed).correct

    assert at(0.5, "500 500") == 1
    assert at(1.0, "010 010") == 1  # another time at which the object has a mask
    assert at(0.6, "500 500") == 0  # a time between


def test_nothing_is_an_answer_where_nothing_is():
    empty = {"points": [], "masks": [], "image_size": (200, 100)}
    right, wrong = image_points("There are none.", empty), image_points("1 500 500", empty)
    assert (right.correct, right.parsed, wrong.correct) == (1, [], 0)
    some = {"points": [(100, 50)], "masks": [mask((95, 45, 105, 55))]}
    assert image_points("There are none.", some).parsed is None


def test_inside_is_rounded():
    box = mask((10, 10, 20, 20))
    assert is_inside(box, (9.6, 10.4)) and not is_inside(box, (9.4, 10.4))
    assert is_inside(box, (10.5, 19.4)) and not is_inside(box, (10, 19.5))
    assert not is_inside(mask((0, 0, 9, 9)), (-1, 0))
    assert not is_inside(mask((190, 0, 200, 9)), (200, 0))


# --- PointBench --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", recorded("point_bench"))
def test_recorded_point_bench(case):
    metadata = {k: case[k] for k in ("category", "count") if k in case}
    metadata["mask"] = mask(case["mask"], case.get("mask_size", (200, 100)))
    score = point_bench(case["prediction"], metadata | {"image_size": (200, 100)})
    assert score.scores["molmo2"] == case["molmo2"]["correct"]
    assert score.correct == case.get("default", case["molmo2"])["correct"]


SMALL, LARGE, HALF = (95, 45, 105, 55), (95, 45, 125, 65), (40, 20, 100, 50)


@pytest.mark.parametrize(
    ("box", "size", "category", "count", "points", "molmo2", "ours"),
    [
        (SMALL, (200, 100), "spatial", None, "1 500 500", 1, 1),
        (SMALL, (200, 100), "spatial", None, "1 500 500 2 900 900", 0, 1),
        (SMALL, (200, 100), "spatial", None, "1 900 900 2 500 500", 0, 0),
        (LARGE, (200, 100), "counting", 2, "1 500 500 2 600 600", 1, 1),
        (LARGE, (200, 100), "counting", 3, "1 500 500 2 600 600", 1, 0),
        (LARGE, (200, 100), "counting", None, "1 500 500 2 600 600", 1, 1),
        (LARGE, (200, 100), "counting", 2, "1 500 500 2 900 900", 0, 0),
        ((68, 70, 69, 71), (200, 100), "spatial", None, "1 343 704", 1, 1),
        ((69, 70, 70, 71), (200, 100), "spatial", None, "1 343 704", 0, 0),
        ((69, 71, 70, 72), (200, 100), "spatial", None, "1 348 714", 1, 1),
        (HALF, (100, 50), "spatial", None, "1 250 250", 1, 1),
        (HALF, (100, 50), "spatial", None, "1 600 600", 0, 0),
        (SMALL, (200, 100), "counting", 1, "none", 0, 0),
    ],
)
def test_point_bench(box, size, category, count, points, molmo2, ours):
    metadata = {"mask": mask(box, size), "category": category, "count": count}
    score = point_bench(points, metadata | {"image_size": (200, 100)})
    assert (score.scores["molmo2"], score.correct) == (molmo2, ours)


# --- any -----------------------------------------------------------------------------------------

METADATA = {
    "video_count": {"count": 3},
    "image_count": {"count": 3},
    "image_points": {"points": [(100, 50)], "masks": [mask(SMALL)]},
    "video_points": {
        "gt_abs_triplets": [(0.5, 100, 50)],
        "gt_abs_masks": [{0.5: mask(SMALL)}],
        "duration": 2.0,
    },
    "point_bench": {"mask": mask(SMALL), "category": "spatial"},
}


@pytest.mark.parametrize("kind", METADATA)
@given(text=st.text() | st.text(alphabet='<points coords="1.5 0>(,)'))
def test_any_text_is_scored(kind, text):
    score = SCORERS[kind](text, METADATA[kind])
    assert score.correct is not None and 0 <= score.correct <= 1
    json.dumps([score.parsed, score.reference, dict(score.scores)])


@pytest.mark.parametrize("kind", METADATA)
def test_a_reference_is_needed(kind):
    for name in METADATA[kind]:
        with pytest.raises(ValueError, match=name):
            SCORERS[kind]("3", METADATA[kind] | {name: None})
