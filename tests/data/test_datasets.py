"""What all declared data sets have in common: draws, absent and broken files, other processes."""

from __future__ import annotations

import json
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

from olmo.config import ConfigError, to_yaml
from olmo.data import arrow
from olmo.data.arrow import ArrowRows, write_splits
from olmo.data.datasets import catalogue
from olmo.data.datasets.catalogue import GROUPS, DatasetRow, dataset_rows, select_rows
from olmo.data.datasets.disk import Disk, structs
from olmo.data.datasets.draws import drawn
from olmo.data.datasets.frame_clips import frame_clip, frame_span, write_frame_clip
from olmo.data.datasets.messages import merged
from olmo.data.records import DatasetFormatError, LeftOut, PackedRecords
from olmo.data.registry import MissingDataError, get_dataset
from scripts import data_status
from tests.data.worlds import write_table

HOW2QA = "v1,[0:59],n1,n2,n3,Who?,right\nv2,[1.5:2.25],n,m,o,Q?,yes\n"
HOW2QA_CLIPS = ("v1_0_59.webm", "v2_1.5_2.25.mp4")


def write(path: Path, content: Any = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def write_how2qa(root: Path) -> Path:
    home = root / "video_datasets"
    write(home / "how2QA/how2QA_train_release.csv", HOW2QA)
    for clip in HOW2QA_CLIPS:
        write(home / "how2QA/video-clips" / clip)
    return home


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    return tmp_path


def options(data: Any, seed: int) -> list[str]:
    found: list[str] = data.get(0, np.random.RandomState(seed))["message_list"][0]["options"]
    return found


def test_options_come_from_the_generator_of_the_example(root: Path) -> None:
    write_how2qa(root)
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
        write(root / f"video_datasets/IntentQA/{split}.csv", rows)
    write(root / "video_datasets/IntentQA/videos/5.mp4")
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
            {"draw": ["wording"], "wordings": ["{a}?", "{a}!"]},  # braces of a publisher stay
            "question",
            {"{a}?", "{a}!"},
        ),
        ({"draw": ["one_answer"], "answer": ["x", "y"]}, "answer", {"x", "y"}),
        ({"draw": ["one_style"], "styles": ["s", "t"]}, "style", {"s", "t"}),
        (
            {"draw": ["numbers"], "answer": "2"},
            "options",
            {("1", "2", "3", "4"), ("2", "3", "4", "5")},
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
    right = {"numbers": "2", "shuffle": "r"}.get(message["draw"][0])
    assert right is None or {f["options"][f["answer_idx"]] for f in found} == {right}


def test_example_belongs_to_the_caller(root: Path) -> None:
    write_how2qa(root)
    data = get_dataset("how2qa", "train")
    first = data.get(0, np.random.RandomState(0))
    first["message_list"][0]["options"].clear()
    assert len(data.get(0, np.random.RandomState(0))["message_list"][0]["options"]) == 4


def test_absent_annotations_are_listed(root: Path) -> None:
    for name, file in (
        ("tgif", "TGIF/Train_action_question.csv"),
        ("intent_qa", "IntentQA/train.csv"),
    ):
        with pytest.raises(MissingDataError) as caught:
            get_dataset(name, "train")
        assert caught.value.missing[0].endswith(file)
        assert str(root / "video_datasets") in str(caught.value)
        assert f"scripts/download_datasets.py {name}" in str(caught.value)


def test_absent_media(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = write_how2qa(root)
    rows = "video_id,question,a0,a1,a2,a3,a4,answer\n5,why,a,b,c,d,e,1\n6,why,a,b,c,d,e,1\n"
    for split in ("train", "val"):
        write(home / f"IntentQA/{split}.csv", rows)
    write(home / "IntentQA/videos/5.mp4")
    with caplog.at_level(logging.WARNING):
        assert len(get_dataset("intent_qa", "train")) == 1
    assert "1 of 2 examples" in caplog.text and "left out" in caplog.text
    assert f"first {home / 'IntentQA/videos/6.mp4'}" in caplog.text
    kept = get_dataset("intent_qa", "val")
    assert len(kept) == 4, "an evaluation keeps what it cannot read"
    assert kept.get(3, np.random.RandomState(0))["video"].endswith("6.mp4")
    (home / "IntentQA/videos/5.mp4").unlink()
    with pytest.raises(MissingDataError, match=r"all media, first IntentQA/videos/5\.mp4"):
        get_dataset("intent_qa", "train")


def test_unknown_split_names_the_known() -> None:
    with pytest.raises(ValueError, match="'how2qa' has no split 'test', only train, validation"):
        get_dataset("how2qa", "test")


LAYOUTS = [
    ("social_iq2", "social-iq2/qa/qa_train.json", '{"q": "x"}', "1 no field 'vid_name' .*line 1"),
    ("star", "STAR/STAR_train_qa.json", "[{,", r"STAR_train_qa.json: not valid JSON: .*line 1"),
    ("star", "STAR/STAR_train_qa.json", '{"data": 3}', "expected a list of rows, got int"),
    ("intent_qa", "IntentQA/train.csv", "video_id,question\n1\n", "1 another number of cells"),
    ("how2qa", "how2QA/how2QA_train_release.csv", "v2\n", "1 list index out of range .*line 1"),
    ("tabwmp_da", "tabmwp/problems_train.json", {"1": {"answer": "1"}}, "1 no field 'question'"),
]


@pytest.mark.parametrize(("name", "path", "content", "message"), LAYOUTS)
def test_another_layout_names_file_row_and_field(
    root: Path, name: str, path: str, content: Any, message: str
) -> None:
    write(root / dataset_rows()[name].home / path, content)
    with pytest.raises(DatasetFormatError, match=f"'{name}': .*{message}"):
        get_dataset(name, "train")


def small_row(**more: Any) -> DatasetRow:
    """A plain data set whose lines have a file, a question and an answer."""
    fields = {"question": "q", "answer": "a"}
    values = {"files": ["a.jsonl"], "video": "{v}.mp4", "fields": fields, "style": "user_qa"}
    return DatasetRow("mine", "", {"train": "train", "test": "train"}, [], **values | more)


def write_small(root: Path, n_good: int, n_bad: int) -> None:
    lines = [{"v": "x", "q": f"Q{i}", "a": i} for i in range(n_good)] + [{"v": "x"}] * n_bad
    write(root / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(root / "x.mp4")


def test_rows_that_cannot_be_used_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_small(root, n_good=3, n_bad=2)
    with caplog.at_level(logging.WARNING):
        (example,) = list(small_row().open("train").records)
    assert [m["answer"] for m in example["message_list"]] == ["0", "1", "2"]
    assert "mine:train: 2 of 5 rows left out: 2 no field 'q' (first " in caplog.text
    assert f"{root}/a.jsonl: line 4)" in caplog.text and len(caplog.records) == 1


def test_too_many_unusable_rows_end_a_data_set(root: Path) -> None:
    write_small(root, n_good=3, n_bad=4)
    with pytest.raises(DatasetFormatError, match=r"'mine': .*4 of 7 rows left out: 4 no field 'q'"):
        small_row().open("train")
    assert len(small_row(max_lost=0.6).open("test")) == 3
    with pytest.raises(DatasetFormatError):
        small_row(max_lost=0.0).open("train")


def test_rows_that_a_rule_leaves_out_are_no_loss(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(row: dict[str, Any]) -> dict[str, Any]:
        if row["q"] != "Q0":
            raise LeftOut("another question")
        return {"question": row["q"], "answer": "a", "style": "user_qa"}

    write_small(root, n_good=5, n_bad=0)
    monkeypatch.setattr(catalogue, "function_of", lambda name: rule)
    row = small_row(fields={}, style=None, row="this")
    with caplog.at_level(logging.WARNING):
        assert len(row.open("train")) == 1
    assert "4 of 5 rows left out: 4 another question" in caplog.text


@pytest.mark.parametrize(("n", "sizes"), [(7, [4, 3]), (11, [4, 4, 3]), (5, [5]), (10, [5, 5])])
def test_messages_are_split_evenly(root: Path, n: int, sizes: list[int]) -> None:
    write_small(root, n_good=n, n_bad=0)
    found = list(small_row(max_messages=5).open("train").records)
    assert [len(e["message_list"]) for e in found] == sizes
    assert [m["answer"] for e in found for m in e["message_list"]] == list(map(str, range(n)))


def test_what_one_example_is(root: Path) -> None:
    clips = [("x", 0, 2), ("x", 1, 2), ("x", 0, 2), ("y", 0, 2)]
    records = [
        {"video": v, "question": str(i), "metadata": {"clip_start_time": s, "clip_end_time": e}}
        for i, (v, s, e) in enumerate(clips)
    ]
    expected = {
        "media": [["0", "1", "2"], ["3"]],
        "clip": [["0", "2"], ["1"], ["3"]],
        "row": [["0", "1"], ["2", "3"]],
    }
    for key, groups in expected.items():
        place = iter((0, 0, 1, 1))
        found = list(merged(map(dict, records), key, lambda place=place: next(place)))
        assert [[m["question"] for m in e["message_list"]] for e in found] == groups
    assert list(merged(records, "none", int)) == records


def test_records_survive_another_process(root: Path) -> None:
    write_how2qa(root)
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
    write_table(tmp_path / "t.arrow", {"train": [{"x": i} for i in range(5)], "test": [{"x": 9}]})
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
        write_table(part, [{"x": i, "l": [{"k": "v"}]}] * 2)
    assert arrow.write_table(parts, tmp_path / "t/train") == 4
    write_splits(tmp_path / "t", ["train"])
    assert list(ArrowRows.open(tmp_path / "t"))[2] == {"x": 1, "l": [{"k": "v"}]}


def test_rows_and_groups_are_selected() -> None:
    assert {r.name for r in select_rows(["tgif", "short_video"])} > {"tgif", "mvbench", "tomato"}
    nearest = r"'shrot_video'; did you mean 'short_video'\? Groups: .*short_video"
    with pytest.raises(ValueError, match=nearest):
        select_rows(["shrot_video"])


def test_every_row_is_complete() -> None:
    """It has sources, its functions exist and say what they read."""
    for row in dataset_rows().values():
        assert row.sources and row.splits, row.name
        if function := row.read or row.row:
            assert catalogue.function_of(function).__doc__, row.name
    assert {g for r in dataset_rows().values() for g in r.groups} == set(GROUPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splitz": {}}, "splitz.*did you mean 'splits'"),
        ({"groups": ["short"]}, "unknown group 'short'; did you mean 'short_video'"),
        ({"read": "a.b"}, "expected one of fields, row and read"),
        ({"files": []}, "expected files, or read"),
        ({"merge": "videos"}, "'videos' is not one of 'media'"),
        ({"style": "user_q"}, "unknown style 'user_q'; did you mean 'user_qa'"),
        ({"sources": [{"hubb": "a/b"}]}, "unknown kind 'hubb'; did you mean 'hub'"),
        ({"sources": [{"hub": "a/b"}]}, "into"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = {"splits": {"train": "train"}, "sources": [], "files": ["a.jsonl"], "fields": {"q": "q"}}
    content = {"groups": GROUPS, "video_datasets": {"mine": row | change}}
    (tmp_path / "datasets.yaml").write_text(to_yaml(content))
    with pytest.raises(ConfigError, match=f"datasets.yaml: mine.*{message}"):
        catalogue.load(tmp_path / "datasets.yaml")


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


def test_the_documentation_has_the_catalogue() -> None:
    """docs/datasets.md holds what ``scripts/data_status.py --markdown`` prints."""
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    assert "\n".join(data_status.markdown()).rstrip() in text


def test_nested_rows_are_lists_of_rows_or_rows_of_lists() -> None:
    rows = [{"x": 1, "y": "p"}, {"x": 2, "y": "q"}]
    assert structs({"x": [1, 2], "y": ["p", "q"]}) == rows == structs(rows)
    assert structs(None) == [] == structs({"x": []})
