"""Files of tracks that are absent or wrong, and rare layouts of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.tracking import lazily
from olmo.data.records import DatasetFormatError
from olmo.data.registry import MissingDataError, get_dataset
from olmo.preprocessing.chat import DataFormatterConfig
from tests.data.worlds import write_case

RNG = np.random.RandomState(0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    return tmp_path / "video_datasets"


def first(name: str) -> dict[str, Any]:
    example: dict[str, Any] = get_dataset(name, "train").get(0, RNG)
    return example


def test_nothing_is_written_for_an_end_that_is_hidden(root: Path) -> None:
    """The second dog is seen at 1 s, and hidden where it is listed last."""
    write_case("mevis_ground", root)
    message = get_dataset("mevis_ground", "train").get(1, RNG)
    assert message["points"][-1]["8"] is None
    answer = DataFormatterConfig().build()(message, RNG, for_inference=False, sizes=[]).turns[-1]
    assert 'coords="0.0 1 400 333;1.0 2 000 000;2.0 1 400 333"' in answer


def test_masks_that_are_missing_are_named(root: Path) -> None:
    write_case("ref_davis17_track", root)
    (root / "Ref-DAVIS17/train/Annotations/v1/00000.png").unlink()
    with pytest.raises(OSError, match=r"Annotations/v1/00000.png"):
        first("ref_davis17_track")


def test_half_a_character_costs_one_example(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    rows = [{"video": "a", "label": label} for label in ("cat", "\ud800", "dog")]
    found = lazily(disk, iter(rows), lambda home, row: dict(row))
    assert [example["label"] for example in found] == ["cat", "dog"]
    assert "surrogates not allowed" in disk.losses.text()


def test_boxes_that_are_wrong_are_named(root: Path) -> None:
    write_case("lasot_single_point_track", root)
    boxes = root / "LaSOT/cup/cup-2/groundtruth.txt"
    for text, line in (("1,2,3,4\n1,2,3\n", 2), ("", 1)):
        boxes.write_text(text)
        expected = rf"groundtruth.txt: line {line}: expected x,y,width,height"
        with pytest.raises(DatasetFormatError, match=expected):
            first("lasot_single_point_track")
    boxes.write_text("nan,nan,nan,nan\n")
    assert first("lasot_single_point_track")["points"] == [{"1": None}]
    (root / "LaSOT/cup/cup-2/img/00000001.jpg").rename(root / "LaSOT/elsewhere.jpg")
    with pytest.raises(DatasetFormatError, match="LaSOT/cup/cup-2/img: a folder without pictures"):
        first("lasot_single_point_track")


@pytest.mark.parametrize("name", [n for n in sorted(dataset_rows()) if "_track" in n])
def test_absent_files_are_named(name: str, root: Path) -> None:
    (split,) = dataset_rows()[name].splits
    with pytest.raises(MissingDataError) as caught:
        get_dataset(name, split)
    assert name in str(caught.value) and str(root) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [
        ("mevis_track", "mevis/MeViS_release/train/meta_expressions.json", "videos"),
        ("lv_vis_track", "LV-VIS/train/train_instances.json", "annotations"),
        ("burst_track", "TAO-Amodal/burst/train.json", "sequences"),
    ],
)
def test_a_file_without_its_rows_is_named(name: str, file: str, column: str, root: Path) -> None:
    write_case(name, root)
    content = json.loads((root / file).read_text())
    del content[column]
    (root / file).write_text(json.dumps(content))
    with pytest.raises(DatasetFormatError, match=rf"{file}.*no field '{column}'"):
        get_dataset(name, "train")


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "Expecting"), ("{}", "no field 'segmentations'"), ("[]", "list")]
)
def test_a_file_of_one_video_that_is_wrong_is_named(root: Path, content: str, reason: str) -> None:
    write_case("vicas_track", root)
    (root / "ViCaS/annotations/v1.0/000012.json").write_text(content)
    with pytest.raises(DatasetFormatError, match=rf"000012\.json: .*{reason}"):
        first("vicas_track")
