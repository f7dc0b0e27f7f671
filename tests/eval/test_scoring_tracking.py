"""Tracks against the reference's recorded values, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.eval.scoring.tracking import hota, track_scores, tracking

CASES = json.loads((Path(__file__).parent / "recorded/points.json").read_text())["cases"]
NAMES = ("precision", "recall", "f1", "HOTA", "DetA", "AssA")


def metadata_of(tracks, fps):
    """``tracks``: object to frame to box. Objects are in the order of ``tracks``."""
    points, masks = {}, {}
    for name, boxes in tracks.items():
        for frame, (x0, y0, x1, y1) in boxes.items():
            mask = np.zeros((100, 200), dtype=bool)
            mask[y0:y1, x0:x1] = True
            masks.setdefault(int(frame), {})[name] = mask
            points.setdefault(int(frame), {})[name] = ((x0 + x1) / 2, (y0 + y1) / 2)
    about = {"objects": list(tracks), "video_fps": fps, "image_size": (200, 100)}
    return {"points": points, "masks": masks, **about}


def molmo2(score):
    return {k: score.scores["molmo2" if k == "f1" else f"molmo2_{k}"] for k in NAMES}


def ours(score):
    assert score.correct == score.scores["f1"]
    return {k: score.scores[k] for k in NAMES}


@pytest.mark.parametrize("i", [i for i, c in enumerate(CASES) if c["kind"] == "tracking"])
def test_recorded_tracks(i):
    case = CASES[i]
    score = tracking(case["prediction"], metadata_of(case["tracks"], case["fps"]))
    assert molmo2(score) == pytest.approx(case["molmo2"], abs=2e-6)
    assert ours(score) == pytest.approx(case.get("default", case["molmo2"]), abs=2e-6)


BOX_A, BOX_B = (10, 10, 30, 30), (110, 60, 130, 80)
BOTH = {"A": {0: BOX_A, 1: BOX_A}, "B": {0: BOX_B, 1: BOX_B}}
NO_A = {"A": {0: BOX_A}, "B": {0: BOX_B, 1: BOX_B}}
NO_B = {"A": {0: BOX_A, 1: BOX_A}, "B": {0: BOX_B}}
ONES, ZEROS = (1,) * 6, (0,) * 6


def said(text):
    places = text.replace("a", "100 200").replace("b", "600 700")
    return f'<tracks coords="{places}">x</tracks>'


@pytest.mark.parametrize(
    ("tracks", "text", "as_molmo2", "expected"),
    [
        (BOTH, "0.0 1 a 2 b;1.0 1 a 2 b", ONES, None),
        (BOTH, "0.0 1 a 2 b;1.0 2 a 1 b", (1, 1, 1, 0.577, 1, 0.333), None),
        (BOTH, "0.0 1 a 2 b;1.0 1 a", (1, 0.75, 0.833, 0.791, 0.75, 0.833), None),
        (NO_A, "0.0 1 a 2 b;1.0 2 b", (0.5, 0.5, 0.5, 0.577, 0.5, 0.667), ONES),
        (
            *(NO_A, "0.0 1 a 2 b;1.0 1 a 2 b", (0.5, 0.5, 0.5, 0.408, 0.4, 0.417)),
            (0.75, 1, 0.833, 0.791, 0.75, 0.833),
        ),
        (NO_A, "0.0 1 a 2 b;1.0 2 a", (0.5, 0.5, 0.5, 0.577, 0.5, 0.667), None),
        (NO_B, "0.0 1 a 2 b;1.0 1 a", (1, 0.75, 0.833, 1, 1, 1), ONES),
        (
            *(NO_B, "0.0 1 a 2 b;1.0 1 a 2 b", (0.75, 0.75, 0.75, 0.791, 0.75, 0.833)),
            (0.75, 1, 0.833, 0.791, 0.75, 0.833),
        ),
        (
            *(BOTH, "0.0 1 a 2 b;1.0 1 a 2 b;2.0 1 a"),
            *((0.667, 0.667, 0.667, 0.816, 0.8, 0.833), None),
        ),
        (BOTH, "none", ZEROS, None),
        ({}, "none", ONES, None),
        ({}, "0.0 1 a", ZEROS, None),
    ],
)
def test_absent_objects(tracks, text, as_molmo2, expected):
    score = tracking(said(text), metadata_of(tracks, 1))
    assert tuple(molmo2(score).values()) == pytest.approx(as_molmo2, abs=5e-4)
    assert tuple(ours(score).values()) == pytest.approx(expected or as_molmo2, abs=5e-4)


def test_masks_of_absent_objects_may_be_there():
    metadata = metadata_of(NO_A, 1)
    metadata["masks"][1]["A"] = np.zeros((100, 200), dtype=bool)
    text = said("0.0 1 a 2 b;1.0 2 b")
    assert tracking(text, metadata) == tracking(text, metadata_of(NO_A, 1))


def test_without_a_list_objects_go_by_number():
    tracks = {"10": {0: BOX_A, 1: BOX_A}, "9": {0: BOX_B}}
    listed = metadata_of(tracks, 1)
    unlisted = {k: v for k, v in listed.items() if k != "objects"}
    text = said("0.0 1 a 2 b;1.0 1 a")
    assert molmo2(tracking(text, listed))["f1"] == pytest.approx(5 / 6)
    assert molmo2(tracking(text, unlisted))["f1"] == pytest.approx(0.5)  # the 9 is first, and away
    assert ours(tracking(text, listed)) == ours(tracking(text, unlisted))


def test_objects_that_are_never_seen_count_for_the_reference():
    metadata = metadata_of({"A": {0: BOX_A}, "B": {}}, 1)
    score = tracking(said("0.0 1 a"), metadata)
    assert (score.scores["recall"], score.scores["molmo2_recall"]) == (1, 0.5)


def test_nothing_at_all():
    assert set(track_scores([]).values()) == {1.0} and set(hota([]).values()) == {1.0}
    right = tracking("There are none.", metadata_of({}, 1))
    assert (right.parsed, right.reference, right.scores["valid"]) == ({}, {}, 0)
    assert tracking("There are none.", metadata_of(BOTH, 1)).parsed is None


@given(st.text() | st.text(alphabet='<tracks coords="15.0;:>'))
def test_any_text_is_scored(text):
    score = tracking(f'{text} <tracks coords="{text}"/>', metadata_of(NO_A, 1))
    assert all(0 <= v <= 1 for v in score.scores.values())
    json.dumps([score.parsed, score.reference])


@pytest.mark.parametrize("name", ["points", "masks", "video_fps"])
def test_a_reference_is_needed(name):
    with pytest.raises(ValueError, match=name):
        tracking("none", metadata_of(BOTH, 1) | {name: None})
