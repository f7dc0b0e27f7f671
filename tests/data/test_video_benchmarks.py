"""Benchmarks of videos: clips that are made of whole folders, times of subtitles, broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("av")

import av
from PIL import Image

from olmo.data.datasets.frame_clips import is_frame_clip, write_frame_clip
from olmo.data.datasets.long_benchmarks import seconds
from olmo.data.registry import get_dataset
from tests.data.worlds import write_case


def test_a_whole_folder_becomes_a_clip(tmp_path: Path) -> None:
    """All its pictures in natural order, 3 per second, padded to multiples of 16."""
    clip = tmp_path / "video.mp4"
    assert is_frame_clip(str(clip)) and not is_frame_clip("a/video1.mp4")
    assert not write_frame_clip(clip), "there are no frames yet"
    for n, name in enumerate(("2.jpg", "10.jpg", "1.jpg", "notes.txt")):
        Image.new("RGB", (30, 20), (60 * n, 0, 0)).save(tmp_path / name, "JPEG")
    assert write_frame_clip(clip) and not write_frame_clip(clip)
    with av.open(str(clip)) as container:
        assert container.streams.video[0].average_rate == 3
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [f.shape for f in frames] == [(32, 32, 3)] * 3
    assert [round(float(f[5, 5, 0]) / 60) for f in frames] == [2, 0, 1]


def test_times_of_subtitles() -> None:
    times = {5: 5, 2.5: 2.5, "7": 7, "01:02:03.5": 3723.5, "00:03,25": 3.25}
    assert [seconds(t) for t in times] == list(times.values())
    assert [seconds(wrong) for wrong in (None, "", "a:b", "end", [1])] == [None] * 5


def test_a_broken_file_of_subtitles_is_one_question_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = tmp_path / "video_datasets"
    expected = write_case("long_video_bench_w_subtitle", home)["validation"]
    (home / "LongVideoBench/subtitles/v2_en.json").write_text("[{", encoding="utf-8")
    data = get_dataset("long_video_bench_w_subtitle", "validation")
    assert len(data) == len(expected) - 1
    assert "1 not valid JSON" in caplog.text and "v2_en.json" in caplog.text
