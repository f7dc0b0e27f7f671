import json
import math
from pathlib import Path

import pytest

from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.points import points_text, tracks_text

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
CASES = json.loads((FIXTURES / "points.json").read_text())["format"]


def image_points(points, scale, label, alt=None, mode="point"):
    return points_text([("1", points, scale)], label, mode, alt)


def video_points(times, points, scale, label, mode="point"):
    groups = [(f"{t:.1f}", p, scale) for t, p in zip(times, points, strict=True)]
    return points_text(groups, label, mode)


def multi_image_points(numbers, points, scales, label, mode="point"):
    return points_text(list(zip(map(str, numbers), points, scales, strict=True)), label, mode)


def tracks(frames, scale, label, start_end_only=False):
    """In the reference's form, where frames tell what is hidden in them."""
    seen = [
        {k: p["point"] for k, p in f["points"].items() if not p.get("occluded")} for f in frames
    ]
    return tracks_text([f["time"] for f in frames], seen, scale, label, start_end_only)


WRITERS = {
    "image_points": image_points,
    "video_points": video_points,
    "multi_image_points": multi_image_points,
    "tracks": tracks,
}
MODES = {"point_then_count": "point_count", "count_then_point": "count_point"}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_reference_texts(case):
    kind, options = case["name"].split()[0], dict(case["kwargs"])
    if kind != "tracks":
        options["mode"] = options.get("mode", "point_count")  # the reference's default
        options["mode"] = MODES.get(options["mode"], options["mode"])
    want = case["out"]
    if "y out of range" in case["name"]:  # the reference moves only x into the picture
        want = want.replace("1200", "1000")
    if "all occluded" in case["name"]:  # the reference leaves this text empty
        want = "No tracks available."
    assert WRITERS[kind](*case["args"], **options) == want


def test_tracks_of_objects_that_come_and_go():
    def frame(time, **points):
        return {"time": time, "points": {k: {"point": p} for k, p in points.items()}}

    frames = [frame(0, b=[50, 50]), frame(0.5), frame(1, a=[1, 9], b=[51, 50], c=[1, 8])]
    frames.append(frame(2.25, b=[52, 50], a=[2, 9]))
    assert tracks(frames, 100, "dog") == (
        '<tracks coords="0.0 1 500 500;1.0 1 510 500 2 010 080 3 010 090;2.2 1 520 500 3 020 090">'
        "dog</tracks>"
    )
    assert tracks(frames, 100, "dog", start_end_only=True) == (
        '<tracks coords="0.0 1 500 500;1.0 2 010 080 3 010 090;2.2 1 520 500 3 020 090">'
        "dog</tracks>"
    )


def test_ends_at_which_an_object_is_hidden_are_not_written():
    points = [
        {"a": None, "b": [1, 1], "c": None},
        {"a": [2, 2], "b": [3, 3], "c": [9, 9]},
        {"a": [4, 4], "b": [-5, 120]},
        {"a": [6, 6], "b": None, "c": None},
    ]
    ends = tracks_text([0, 1, 2, 3], points, 100, "dog", ends_only=True)
    assert ends == '<tracks coords="0.0 1 010 010;3.0 2 060 060">dog</tracks>'
    whole = tracks_text([0, 1, 2, 3], points, 100, "dog")
    assert whole == (
        '<tracks coords="0.0 1 010 010;1.0 1 030 030 2 020 020 3 090 090;'
        '2.0 1 000 1000 2 040 040;3.0 2 060 060">dog</tracks>'
    )
    hidden = [{"a": None}, {"a": [1, 1]}, {"a": None}]
    assert tracks_text([0, 1, 2], hidden, 100, "dog", True) == "No tracks available."
    message = {"points": points, "timestamps": [0, 1, 2, 3], "label": "dog"}
    for style in ("video_point_ground_start_end", "video_point_track_start_end"):
        assert turns(message | {"style": style})[1] == " " + ends


@pytest.mark.parametrize("style", ["pointing", "video_point", "video_point_track_per_frame"])
def test_a_label_that_is_no_text_is_not_taught(style):
    with pytest.raises(ValueError, match="expected text as the label of points, got None"):
        turns({"style": style, "label": None, "timestamps": [], "points": [], "point_scale": 100})


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_not_taught(time):
    for message in (
        {"style": "video_point", "label": "x", "timestamps": [time], "points": [[[1, 2]]]},
        {"style": "video_frame_caption_timestamp_in_seconds", "timestamp": time, "answer": "x"},
    ):
        with pytest.raises(ValueError, match=f"{time} is not a time"):
            turns(message)
    message |= {"timestamp": "62.5"}
    assert "at 62.5 seconds" in turns(message)[0]


def test_numbers_are_written_once_sorted_and_inside():
    points = [[0.5005, -1], [0.5, 2.0], [0.0004, 0.5]]
    want = '<points coords="1 1 000 500 2 500 000 3 500 1000">x</points>'
    assert image_points(points, 1, "x") == want
    assert (
        video_points([0, 1], [[], [[1, 2]]], 100, "x")
        == '<points coords="1.0 1 010 020">x</points>'
    )
    assert video_points([0.0], [[]], 100, "x", "count") == "There are none."


def test_bad_points():
    with pytest.raises(ValueError, match=r"'counting'.*point_count"):
        image_points([[1, 2]], 100, "x", mode="counting")
    for style, points in (("video_point", [[[1, 2]]]), ("video_point_track_per_frame", [{}])):
        message = {"style": style, "points": points, "timestamps": [0.0, 1.0]}
        with pytest.raises(ValueError, match=r"shorter|longer"):
            turns(message)


def turns(message, sizes=()):
    return DataFormatterConfig(message_format="none").build()(message, sizes=sizes).turns


@pytest.mark.parametrize(
    ("message", "sizes", "expected"),
    [
        (
            {"style": "pointing", "label": "Cats", "points": [[320, 120]]},
            [(640, 480)],
            ["Point to Cats.", ' <points coords="1 1 500 250">cats</points>'],
        ),
        (
            {"style": "cosyn_point", "question": "Where?", "label": "a", "points": [[5, 6]]}
            | {"width": 10, "height": 60},
            [],
            ["Where?", ' <points coords="1 1 500 100">a</points>'],
        ),
        (
            {"style": "point_count", "label": "a", "points": [], "point_scale": 100},
            [(640, 480)],
            ["Count a and point to each.", " There are none."],
        ),
        (
            {"style": "video_count", "label": "A dog", "points": [[[1, 2]], [[3, 4]]]}
            | {"timestamps": [0.5, 1.0]},
            [(640, 480)],
            ["How many A dog are there?", " 2"],
        ),
        (
            {"style": "multi_image_pointing", "label": "A", "points": [[[5, 5]], [[5, 5]]]},
            [(10, 10), (20, 5)],
            ["Point to A.", ' <points coords="1 1 500 500;2 2 250 1000">a</points>'],
        ),
        (
            {"style": "multi_image_counting", "label": "A", "points": [[[5, 5]], [[5, 5]]]},
            [(10, 10), (20, 5)],
            ["How many A are there?", " 2"],
        ),
        (
            {"style": "multi_image_point_then_count", "label": "A", "points": [[], [[5, 5]]]},
            [(10, 10), (20, 5)],
            [
                "Count A and point to each.",
                ' Counting the <points coords="2 1 250 1000">a</points> shows a total of 1.',
            ],
        ),
        (
            {"style": "eval_multi_image_count_then_point", "label": "A"}
            | {"points": [[[5, 5]], [{"x": 5, "y": 9}]]},
            [(10, 10), (20, 5)],
            [
                "How many A are there? Point to each as well.",
                ' There are 2 <points coords="1 1 500 500;2 2 250 1000">a</points>.',
            ],
        ),
        (
            {"style": "cosyn_chart_exp", "question": "Why?", "answer": "B", "explanation": "So."},
            [],
            [
                "cosyn_chart_exp: Why? Provide reasoning steps and then give the short answer.",
                " So. Answer: B",
            ],
        ),
    ],
    ids=lambda x: x["style"] if isinstance(x, dict) else "",
)
def test_examples(message, sizes, expected):
    assert turns(message, sizes) == expected


def test_points_need_a_scale():
    with pytest.raises(ValueError, match="size of their image is not known"):
        turns({"style": "pointing", "label": "a", "points": [[1, 2]]})
