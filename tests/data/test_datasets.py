"""What all declared data sets have in common: draws, absent and broken files, other processes."""

from __future__ import annotations

import logging
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

import av
import numpy as np
from PIL import Image

from olmo.data.arrow import ArrowRows, write_splits, write_table
from olmo.data.datasets.declare import dataset_rows, select_rows
from olmo.data.datasets.disk import Disk, pick, structs
from olmo.data.datasets.draws import drawn
from olmo.data.datasets.frame_clips import frame_clip, frame_span, write_frame_clip
from olmo.data.records import DatasetFormatError, PackedRecords
from olmo.data.registry import MissingDataError, get_dataset
from tests.data.datasets_miniature import Miniature, write_arrow, write_file

HOW2QA = Miniature(
    "how2qa",
    {"how2QA/how2QA_train_release.csv": "v1,[0:59],n1,n2,n3,Who?,right\nv2,[1:2],n,m,o,Q?,yes\n"},
    ["how2QA/video-clips/v1_0_59.webm", "how2QA/video-clips/v2_1_2.mp4"],
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    return tmp_path


def options(data: Any, seed: int) -> list[str]:
    found: list[str] = data.get(0, np.random.RandomState(seed))["message_list"][0]["options"]
    return found


def test_options_come_from_the_generator_of_the_example(root: Path) -> None:
    HOW2QA.write(root)
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist()
    data = get_dataset("how2qa", "train")
    drawn_options = [options(data, seed) for seed in range(20)]
    assert [options(data, seed) for seed in range(20)] == drawn_options
    assert {o.index("right") for o in drawn_options} == {0, 1, 2, 3}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_an_evaluation_has_one_question_per_example(root: Path) -> None:
    rows = "video_id,question,a0,a1,a2,a3,a4,answer\n5,why,a,b,c,d,e,1\n"
    for split in ("train", "val"):
        files = {f"IntentQA/{split}.csv": rows}
        Miniature("intent_qa", files, ["IntentQA/videos/5.mp4"]).write(root)
    together = get_dataset("intent_qa", "train").get(0, np.random.RandomState(0))
    data = get_dataset("intent_qa", "validation")
    single = [data.get(i, np.random.RandomState(0)) for i in range(len(data))]
    video = {"video": together["video"]}
    assert single == [video | message for message in together["message_list"]]
    assert [m["style"] for m in single] == ["video_short_answer", "video_multiple_choice"]


@pytest.mark.parametrize(
    ("message", "key", "possible"),
    [
        (
            {"draw": ["wording"], "wordings": ["{a}?", "{a}!"], "fill": {"a": "b"}},
            "question",
            {"b?", "b!"},
        ),
        ({"draw": ["one_answer"], "answer": ["x", "y"]}, "answer", {"x", "y"}),
        ({"draw": ["one_style"], "styles": ["s", "t"]}, "style", {"s", "t"}),
        (
            {"draw": ["numbers"], "answer": "1"},
            "options",
            {("0", "1", "2", "3"), ("1", "2", "3", "4")},
        ),
        (
            {"draw": ["shuffle"], "options": ["r", "w"], "answer_idx": 0},
            "options",
            {("r", "w"), ("w", "r")},
        ),
    ],
)
def test_draws(message: dict[str, Any], key: str, possible: set[Any]) -> None:
    before = pickle.dumps(message)
    found = [drawn(message, np.random.RandomState(seed)) for seed in range(40)]
    values = [tuple(f[key]) if isinstance(f[key], list) else f[key] for f in found]
    assert set(values) == possible
    assert all("draw" not in f for f in found) and pickle.dumps(message) == before
    right = {"numbers": "1", "shuffle": "r"}.get(message["draw"][0])
    assert right is None or {f["options"][f["answer_idx"]] for f in found} == {right}


def test_example_belongs_to_the_caller(root: Path) -> None:
    HOW2QA.write(root)
    data = get_dataset("how2qa", "train")
    first = data.get(0, np.random.RandomState(0))
    first["message_list"][0]["options"].clear()
    assert len(data.get(0, np.random.RandomState(0))["message_list"][0]["options"]) == 4


def test_absent_annotations_are_listed(root: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        get_dataset("tgif", "train")
    assert caught.value.missing[0] == "TGIF/Train_action_question.csv"
    assert len(caught.value.missing) == 4
    assert str(root / "video_datasets") in str(caught.value)
    assert "scripts/download_datasets.py tgif" in str(caught.value)


def test_absent_media(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = HOW2QA.write(root)
    write_file(
        home / "how2QA/how2QA_val_release.csv", HOW2QA.files["how2QA/how2QA_train_release.csv"]
    )
    (home / HOW2QA.media[1]).unlink()
    with caplog.at_level(logging.WARNING):
        assert len(get_dataset("how2qa", "train")) == 1
    assert "1 of 2 examples" in caplog.text and "left out" in caplog.text
    kept = get_dataset("how2qa", "val")
    assert len(kept) == 2, "an evaluation keeps what it cannot read"
    assert kept.get(1, np.random.RandomState(0))["video"].endswith("v2_1_2.mp4")
    (home / HOW2QA.media[0]).unlink()
    with pytest.raises(MissingDataError, match="all media, in how2QA/video-clips"):
        get_dataset("how2qa", "train")


def test_unknown_split_names_the_known() -> None:
    with pytest.raises(ValueError, match="'how2qa' has no split 'test', only train, validation"):
        get_dataset("how2qa", "test")


@pytest.mark.parametrize(
    ("name", "path", "content", "message"),
    [
        ("social_iq2", "social-iq2/qa/qa_train.json", [{"q": "x"}], "line 1: no field 'vid_name'"),
        ("star", "STAR/STAR_train_qa.json", "[{,", r"STAR_train_qa.json: not valid JSON: .*line 1"),
        ("star", "STAR/STAR_train_qa.json", '{"data": 3}', "expected a list of rows, got int"),
        ("intent_qa", "IntentQA/train.csv", "video_id,question\n1\n", "line 2: 1 cells, but 2"),
        (
            "how2qa",
            "how2QA/how2QA_train_release.csv",
            "v1,[0:1],a,b,c,q,r\nv2\n",
            "line 2: list index out of range",
        ),
        (
            "nextqa_mc",
            "NeXTQA/train.csv",
            "video,question,answer,a0,a1,a2,a3,a4\n1,q,5,a,b,c,d,e\n",
            "line 2: answer 5 is not one of 5 options",
        ),
    ],
)
def test_other_layout_names_file_and_row(
    root: Path, name: str, path: str, content: Any, message: str
) -> None:
    write_file(root / "video_datasets" / path, content)
    write_file(root / "video_datasets/NeXTQA/map_vid_vidorID.json", {"1": "1/1"})
    with pytest.raises(DatasetFormatError, match=f"'{name}': .*{message}"):
        get_dataset(name, "train")


def test_records_survive_another_process(root: Path) -> None:
    HOW2QA.write(root)
    data = get_dataset("how2qa", "train")
    copy = pickle.loads(pickle.dumps(data))
    assert [copy.get(i, np.random.RandomState(i)) for i in range(2)] == [
        data.get(i, np.random.RandomState(i)) for i in range(2)
    ]


def test_packed_records() -> None:
    rows = [{"a": 1}, {"b": "ünicode\n"}, {}]
    packed = PackedRecords.pack(rows)
    assert len(packed) == 3 and list(packed) == rows
    with pytest.raises(IndexError):
        packed[3]


def test_arrow_folder_by_row_split_and_process(tmp_path: Path) -> None:
    write_arrow(tmp_path / "t", {"train": [{"x": i} for i in range(5)], "test": [{"x": 9}]})
    rows = ArrowRows.open(tmp_path / "t")
    assert [rows[i]["x"] for i in range(5)] == [0, 1, 2, 3, 4] == rows.column("x")
    assert pickle.loads(pickle.dumps(rows))[4] == {"x": 4}
    assert ArrowRows.open(tmp_path / "t", "test")[0] == {"x": 9}
    with pytest.raises(ValueError, match="no split 'val', only train, test"):
        ArrowRows.open(tmp_path / "t", "val")
    with pytest.raises(ValueError, match="no column 'y'"):
        rows.column("y")


def test_parquet_becomes_an_arrow_folder(tmp_path: Path) -> None:
    parts = [tmp_path / f"{i}.parquet" for i in range(2)]
    for i, part in enumerate(parts):
        write_file(part, [{"x": i, "l": [{"k": "v"}]}] * 2)
    assert write_table(parts, tmp_path / "t/train") == 4
    write_splits(tmp_path / "t", ["train"])
    assert list(ArrowRows.open(tmp_path / "t"))[2] == {"x": 1, "l": [{"k": "v"}]}


def test_rows_and_groups_are_selected() -> None:
    assert {r.name for r in select_rows(["tgif", "short_video"])} > {"tgif", "mvbench", "tomato"}
    with pytest.raises(ValueError, match=r"'shrot_video'. Groups: .*short_video"):
        select_rows(["shrot_video"])


def test_every_row_is_complete() -> None:
    for row in dataset_rows().values():
        assert row.files and row.sources and row.splits, row.name
        assert row.read.__module__.startswith("olmo.data.datasets"), row.name


def test_clip_of_frames(tmp_path: Path) -> None:
    assert frame_span(10.5, 12.5) == (32, 37)
    clip = tmp_path / frame_clip("show/name", 0.0, 1.0)
    clip.parent.mkdir(parents=True)
    assert not write_frame_clip(clip), "there are no frames yet"
    for n in (1, 2, 3, 4):
        Image.new("RGB", (30, 20), (60 * n, 0, 0)).save(clip.parent / f"{n:05d}.jpg")
    assert write_frame_clip(clip) and not write_frame_clip(clip)
    with av.open(str(clip)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [f.shape for f in frames] == [(32, 32, 3)] * 3
    assert [round(float(f[5, 5, 0]) / 60) for f in frames] == [1, 2, 3]
    assert frames[0][25, 31].max() < 12, "padding is black"


def test_listing_is_read_once(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert not disk.exists("a/b.mp4") and disk.names("a") == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.mp4").touch()
    assert not disk.exists("a/b.mp4") and Disk(tmp_path).exists("a/b.mp4")


def test_documentation_lists_every_data_set() -> None:
    """With its splits, its first annotation file and its first folder of media."""
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    for row in dataset_rows().values():
        start = f"| {row.name} | {', '.join(row.splits)} | `{row.files[0]}`"
        lines = [line for line in text.splitlines() if line.startswith(start)]
        assert len(lines) == max(len(row.groups), 1), f"docs/datasets.md lacks {start}"
        assert all(f"`{m}`" in line for line in lines for m in row.media[:1])


def test_spellings_of_fields_and_of_nested_rows() -> None:
    assert pick({"b": 1, "a": None}, "a", "b") == 1
    with pytest.raises(ValueError, match=r"no field 'a' or 'b' among \['c'\]"):
        pick({"c": 1}, "a", "b")
    rows = [{"x": 1, "y": "p"}, {"x": 2, "y": "q"}]
    assert structs({"x": [1, 2], "y": ["p", "q"]}) == rows == structs(rows)
    assert structs(None) == [] == structs({"x": []})
