"""The example of docs/datasets.md: a data set added as one row and one folder of cases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from olmo.data import registry
from olmo.data.datasets import catalogue
from tests.data import worlds
from tests.data.worlds import examples, write_case

DOCS = Path(__file__).parents[2] / "docs/datasets.md"


def test_a_plain_data_set_is_a_row_and_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DOCS.read_text().split("## Adding a data set")[1].split("\n## ")[0]
    row, lines, expected = re.findall(r"```(?:yaml|json)\n(.*?)```", section, re.S)
    groups = "groups: {video_academic: Training}\n"
    (tmp_path / "datasets.yaml").write_text(groups + row)
    folder = tmp_path / "cases/my_video_qa"
    (folder / "files/MyVideoQA").mkdir(parents=True)
    (folder / "files/MyVideoQA/train.jsonl").write_text(lines)
    (folder / "expected.json").write_text(expected)
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(worlds, "CASES", tmp_path / "cases")
    _, rows = catalogue.load(tmp_path / "datasets.yaml")
    declared = rows["my_video_qa"]
    entry = (declared.open, tuple(declared.splits))
    monkeypatch.setitem(registry._ENTRIES, declared.name, entry)
    found = write_case("my_video_qa", tmp_path / declared.home)
    assert examples("my_video_qa", "train", tmp_path, seed=None) == found["train"]
    assert found == json.loads(expected)
    disk, _ = declared.records("train")
    assert "1 the answer is not among the options (first" in disk.losses.text()
