"""Masks, clips and draws that questions on points and tracks are made with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from olmo.data.datasets.draws import CLIP_S, drawn
from olmo.data.datasets.masks import file_mask, mask_point, rle_mask, run_lengths
from olmo.data.datasets.tracking import SINGLE, TRACK, once_a_second, taught
from olmo.outside import OutsideError

MASK = np.zeros((6, 5), dtype=bool)
MASK[1:4, 1:3] = True
MASK[5, 4] = True
COUNTS = "7330:N"
"""What pycocotools 2.0 writes for ``MASK``."""
RUNS = [7, 3, 3, 3, 13, 1]
RLE = {"size": [6, 5], "counts": COUNTS}


def palette(numbers: np.ndarray) -> bytes:
    """A palette picture, as the annotations of the VOS sets are."""
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_run_lengths_of_the_coco_tools() -> None:
    assert run_lengths(COUNTS) == RUNS == run_lengths(COUNTS.encode())
    assert (rle_mask(RLE) == MASK).all() and (rle_mask(RLE | {"counts": RUNS}) == MASK).all()
    with pytest.raises(ValueError, match="runs of 30 pixels for a mask of 6 x 6"):
        rle_mask(RLE | {"size": [6, 6]})
    with pytest.raises(ValueError, match="break off"):
        run_lengths("o")
    with pytest.raises(ValueError, match="the character ' '"):
        run_lengths("7 3")
    with pytest.raises(ValueError, match="a number without end"):
        run_lengths("o" * 1_000_000)


def test_a_few_numbers_do_not_fill_the_memory() -> None:
    with pytest.raises(OutsideError, match=r"limits\.max_pixels"):
        rle_mask({"size": [10**6, 10**6], "counts": [10**12]})


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
    def numbers(n: int, fps: float) -> list[int]:
        return once_a_second(i / fps for i in range(n))

    assert numbers(13, 6) == [0, 6, 12] and numbers(12, 6) == [0, 6]
    assert numbers(50, 24) == [0, 24, 48] and numbers(61, 29.97) == [0, 30, 60]
    assert numbers(1, 24) == [0] and numbers(0, 6) == []
    assert once_a_second([0.5, 1.4, 1.9, 4.0]) == [0, 1, 3]


def test_a_long_video_is_shown_in_clips() -> None:
    """From whole seconds on; an object that is not seen before 40 s is in all of them."""
    times = [1.0, 40.0, 99.5, 100.0]
    message = {"draw": ["clip"], "duration": 120.25, "timestamps": times}
    message["points"] = [{"1": None}, *({"1": [i, i]} for i in range(3))]
    starts = set()
    for seed in range(200):
        found = drawn(message, np.random.RandomState(seed))
        start, end = (found["metadata"][f"clip_{k}_time"] for k in ("start", "end"))
        assert end - start == CLIP_S and start >= 0 and end <= 120.25 and start.is_integer()
        shown = [i for i, t in enumerate(times) if start <= t <= end]
        assert set(shown) & {1, 2, 3} and found["points"] == [message["points"][i] for i in shown]
        assert found["timestamps"] == [times[i] - start for i in shown]
        starts.add(start)
    assert len(starts) > 30 and min(starts) < 2 and max(starts) == 57.0
    hidden = message | {"points": [{"1": None}] * 4, "metadata": {"frame_rate": 30}}
    metadata = drawn(hidden, np.random.RandomState(0))["metadata"]
    assert metadata["frame_rate"] == 30 and metadata["clip_end_time"] <= 120.25


def test_clips_and_objects_are_drawn_where_there_is_a_choice() -> None:
    row, times = {"label": "a", "duration": 63.0}, [0.0, 1.0]
    hidden = [{"a": [1, 1], "b": None}, {"b": None}]
    for style in (TRACK, SINGLE):
        assert "draw" not in taught(row, times, hidden, 100, style)
    assert taught(row, times, hidden, 100, TRACK)["points"] == hidden
    single = taught(row, times, hidden, 100, SINGLE)
    assert (single["points"], single["timestamps"]) == ([{"a": [1, 1]}], [0.0])
    assert taught(row, times, [{"b": None}] * 2, 100, SINGLE)["style"] == TRACK
    two = [{"a": [1, 1], "b": [2, 2]}] * 2
    long = taught(row | {"duration": 63.5}, times, two, 100, SINGLE)
    assert long["draw"] == ["one_object", "clip"] and long["duration"] == 63.5
    assert taught(row, times, two, 100, TRACK).get("draw") is None


def test_four_numbers_around_a_count() -> None:
    """The first of them from three below the count on, but not below 1."""
    for right, firsts in (
        (1, {1}),
        (2, {1, 2}),
        (3, {1, 2, 3}),
        (4, {1, 2, 3, 4}),
        (9, {6, 7, 8, 9}),
    ):
        message = {"draw": ["numbers"], "question": "How often?", "answer": str(right)}
        found = [drawn(message, np.random.RandomState(seed)) for seed in range(60)]
        assert {int(f["options"][0]) for f in found} == firsts
        for f in found:
            first = int(f["options"][0])
            assert f["options"] == [str(n) for n in range(first, first + 4)]
            assert f["options"][f["answer_idx"]] == str(right) and "answer" not in f


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
