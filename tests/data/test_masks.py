"""Masks, clips and draws that questions on points and tracks are made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.draws import CLIP_S, drawn
from olmo.data.datasets.masks import file_mask, mask_point, rle_mask, run_lengths
from olmo.data.datasets.tracking import frames_per_second
from tests.data.test_datasets_pointing import COUNTS, MASK, RLE, RUNS, palette


def test_run_lengths_of_the_coco_tools() -> None:
    assert run_lengths(COUNTS) == RUNS == run_lengths(COUNTS.encode())
    assert (rle_mask(RLE) == MASK).all() and (rle_mask(RLE | {"counts": RUNS}) == MASK).all()
    with pytest.raises(ValueError, match="runs of 30 pixels for a mask of 6 x 6"):
        rle_mask(RLE | {"size": [6, 6]})
    with pytest.raises(ValueError, match="break off"):
        run_lengths("o")
    with pytest.raises(ValueError, match="the character ' '"):
        run_lengths("7 3")


def test_points_lie_in_their_masks(tmp_path: Path) -> None:
    assert mask_point(np.zeros((3, 3), dtype=bool)) is None
    ring = np.ones((5, 5), dtype=bool)
    ring[1:4, 1:4] = False
    x, y = mask_point(ring) or (1, 1)
    assert ring[int(y), int(x)], "the centre itself is outside"
    (tmp_path / "m.png").write_bytes(palette(MASK * 3))
    assert (file_mask(tmp_path / "m.png", 3) == MASK).all()
    assert not file_mask(tmp_path / "m.png", 2).any()
    Image.new("RGB", (2, 1), (0, 9, 0)).save(tmp_path / "rgb.png")
    assert file_mask(tmp_path / "rgb.png").tolist() == [[True, True]]


def test_one_frame_per_second() -> None:
    assert frames_per_second(13, 6) == [0, 6, 12]
    assert frames_per_second(12, 6) == [0, 6]
    assert frames_per_second(50, 24) == [0, 24, 48]
    assert frames_per_second(1, 24) == [0] and frames_per_second(0, 6) == []


def test_a_long_video_is_shown_in_clips() -> None:
    times = [1.0, 40.0, 99.5, 100.0]
    message = {"draw": ["clip"], "duration": 120.25, "timestamps": times}
    message["points"] = [[[i, i]] for i in range(4)]
    starts = set()
    for seed in range(200):
        found = drawn(message, np.random.RandomState(seed))
        start, end = (found["metadata"][f"clip_{k}_time"] for k in ("start", "end"))
        assert end - start == CLIP_S and start >= 0 and end <= 120.25 and (2 * start).is_integer()
        shown = [i for i, t in enumerate(times) if start <= t <= end]
        assert shown and found["points"] == [[[i, i]] for i in shown]
        assert found["timestamps"] == [times[i] - start for i in shown]
        starts.add(start)
    assert len(starts) > 30 and min(starts) < 2 and max(starts) == 57.0
    short = drawn(message | {"duration": 63.0}, np.random.RandomState(0))
    assert short["timestamps"] == times and "metadata" not in short
    none = drawn(message | {"timestamps": [], "points": []}, np.random.RandomState(0))
    assert none["points"] == [] and none["metadata"]["clip_end_time"] <= 120.25


def test_one_of_several_objects_is_tracked() -> None:
    message = {
        "draw": ["one_object"],
        "timestamps": [0.0, 1.0, 2.0],
        "points": [{"a": [1, 1]}, {"a": [2, 2], "b": [3, 3]}, {"b": [4, 4]}],
    }
    found = [drawn(message, np.random.RandomState(seed)) for seed in range(20)]
    assert {str(f["points"]) for f in found} == {
        str([{"a": [1, 1]}, {"a": [2, 2]}]),
        str([{"b": [3, 3]}, {"b": [4, 4]}]),
    }
    assert {tuple(f["timestamps"]) for f in found} == {(0.0, 1.0), (1.0, 2.0)}
