"""Sets of labels and spans without the lists that may stand beside their annotations, and with
annotations of other types than published. Their examples: ``tests/cases``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.datasets.draws import drawn
from olmo.data.registry import MissingDataError, get_dataset
from tests.data.worlds import examples, write_case

MOMENTS = "moments_in_time/Moments_in_Time_Raw"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    return tmp_path / "video_datasets"


def videos(name: str, home: Path, split: str = "train") -> list[str]:
    return [e["video"] for e in examples(name, split, home.parent)]


@pytest.mark.parametrize(
    ("name", "listed", "absent", "new"),
    [
        (
            *("kinetics_qa", "kinetics/kinetics_existing_videos.json"),
            "kinetics/kinetics700/train/acting in play/unlisted.mp4",
            {"kinetics/kinetics700/train/acting in play/unlisted.mp4"},
        ),
        (
            *("charades_sta_all_qa", "Charades/existing_videos.json"),
            "Charades/Charades_v1/GONE.mp4",
            {"Charades/Charades_v1/GONE.mp4"},
        ),
        (
            *("coin_all_qa", "coin/file_extensions.json", "coin/videos/v3.mp4"),
            {"coin/videos/v3.mp4", "coin/videos/v1.mp4"},
        ),
        (
            *("youcook2_all_qa", "youcook2/video_extensions.json", "youcook2/videos/v3.mp4"),
            {"youcook2/videos/v3.mp4", "youcook2/videos/v1.mp4"},
        ),
        (
            *("activitynet_all_qa", "ActivityNet/missing_videos.json"),
            "ActivityNet/all-videos/gone.mp4",
            {"ActivityNet/all-videos/gone.mp4"},
        ),
    ],
)
def test_without_a_list_the_folders_tell(
    name: str, listed: str, absent: str, new: set[str], home: Path
) -> None:
    """Videos that a list leaves out are used when they are there, and not when they are not."""
    write_case(name, home)
    before = set(videos(name, home))
    (home / listed).unlink()
    assert new <= set(videos(name, home))
    (home / absent).unlink()
    assert absent not in videos(name, home)
    assert len(set(videos(name, home))) == len(before)


def test_original_lists_do_where_none_says_what_is_missing(home: Path) -> None:
    write_case("epic_kitchens_qa", home)
    clips = home / "epic-kitchens-clips/P09/videos"
    clips.mkdir(parents=True)
    (clips / "P09_01_0.000_1.000.mp4").touch()
    annotations = home / "epic-kitchens/epic-kitchens-100-annotations"
    (annotations / "EPIC_100_train_with_missing.csv").unlink()
    found = videos("epic_kitchens_qa", home)
    assert found == ["epic-kitchens-clips/P09/videos/P09_01_0.000_1.000.mp4"]
    (annotations / "EPIC_100_train.csv").unlink()
    with pytest.raises(MissingDataError, match=r"EPIC_100_train\.csv"):
        get_dataset("epic_kitchens_qa", "train")


def test_ego4d_reads_lines_or_the_table(home: Path) -> None:
    write_case("ego4d_all", home)
    table = home / "Ego4d/ego4d_cached_train_metadata.parquet"
    before = examples("ego4d_all", "train", home.parent)
    row = {"clip": "bad.mp4", "message_list": before[1]["message_list"]}
    table.with_suffix(".jsonl").write_text(json.dumps(row) + "\n")
    found = examples("ego4d_all", "train", home.parent)
    assert found == [{"video": "ego4d-clips/bad.mp4", "message_list": row["message_list"]}]
    table.with_suffix(".jsonl").unlink()
    table.unlink()
    with pytest.raises(MissingDataError, match=r"ego4d_cached_train_metadata\.jsonl"):
        get_dataset("ego4d_all", "train")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (None, "'NoneType' object is not subscriptable"),
        ({"label": "x"}, "no field 'segment'"),
        ({"segment": [3, 1], "label": "x"}, "the segment has no length"),
        ({"segment": [1, float("nan")], "label": "x"}, "the segment has no length"),
        ({"segment": ["a", 1], "label": "x"}, "could not convert string to float"),
        ({"segment": [1, 2], "label": None}, "the label is no text"),
    ],
)
def test_one_odd_part_costs_no_other(home: Path, part: Any, reason: str) -> None:
    expected = write_case("activitynet_all_qa", home)["train"]
    path = home / "ActivityNet/activity_net.v1-3.min.json"
    content = json.loads(path.read_text())
    content["database"]["x1"]["annotations"].insert(0, part)
    content["database"] |= {"odd": part, "odder": {"annotations": 3}}
    path.write_text(json.dumps(content))
    assert len(videos("activitynet_all_qa", home)) == len(expected)
    disk, _ = dataset_rows()["activitynet_all_qa"].records("train")
    assert reason in disk.losses.text()


def test_a_place_is_that_of_the_line(home: Path) -> None:
    write_case("kinetics_qa", home)
    disk, _ = dataset_rows()["kinetics_qa"].records("train")
    assert "1 its video is listed as corrupt (first" in disk.losses.text()
    assert "k700_train_list_videos.txt: line 3" in disk.losses.text()


def test_numbers_to_choose_from(home: Path) -> None:
    """Four in a row from 1 on, the answer anywhere among them."""
    for right, starts in ((1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (9, {6, 7, 8, 9})):
        message = {"answer": str(right), "draw": ["numbers"]}
        found = [drawn(message, np.random.RandomState(seed)) for seed in range(60)]
        for m in found:
            start = int(m["options"][0])
            assert m["options"] == [str(start + i) for i in range(4)]
            assert m["options"][m["answer_idx"]] == str(right)
        assert {int(m["options"][0]) for m in found} == starts
    write_case("countix_mc", home)
    path = home / "kinetics/kinetics700/countix_train_mapped.csv"
    path.write_text(path.read_text() + "d,jumping,0,train/jumping/x.mp4\n")
    before = videos("countix_mc", home)
    assert len(before) == 3
    shutil.move(path, path.parent.parent.parent / "countix_train_mapped.csv")
    with pytest.raises(MissingDataError, match=r"Countix/countix_train_mapped\.csv"):
        get_dataset("countix_mc", "train")
