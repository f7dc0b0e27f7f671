"""Tables of Molmo2 on the hub, read whole: rows in, and what must become of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.data.registry import get_dataset
from olmo.preprocessing.chat import DataFormatterConfig
from tests.data.worlds import First, examples, write_arrow

TABLES = json.loads(
    (Path(__file__).parents[1] / "fixtures/data_2/tables.json").read_text(encoding="utf-8")
)
POINT, COUNT = "video_point", "video_point_count"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    return tmp_path / "video_datasets"


def touch(home: Path, *paths: str) -> None:
    for path in paths:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).touch()


def clip_of(example: dict[str, Any]) -> list[float | None]:
    metadata = example.get("metadata", {})
    return [metadata.get("clip_start_time"), metadata.get("clip_end_time")]


def write_points(home: Path) -> dict[str, Any]:
    """Molmo2-VideoPoint, each row in the folder of its category, and its videos."""
    table = TABLES["Molmo2-VideoPoint"]
    for kind in table["configs"]:
        rows = [row for row in table["rows"] if row["category"] == kind]
        write_arrow(home / "Molmo2-VideoPoint" / kind, rows)
    touch(home, *(e["video"] for found in table["expected"].values() for e in found))
    expected: dict[str, Any] = table["expected"]
    return expected


@pytest.mark.parametrize("seed", [0, 100, 200])
@pytest.mark.parametrize("name", TABLES["Molmo2-VideoPoint"]["expected"])
def test_video_points(name: str, seed: int, home: Path) -> None:
    expected = write_points(home)[name]
    if not expected:
        with pytest.raises(ValueError, match=r"9 of 9 rows left out: .*another number of points"):
            get_dataset(name, "train")
        return
    found = examples(name, "train", home.parent, seed)
    assert [(e["video"], clip_of(e)) for e in found] == [(e["video"], e["clip"]) for e in expected]
    for mine, theirs in zip(found, expected, strict=True):
        (first, *rest) = mine["message_list"]
        messages = first.get("multi_turn_messages", [first, *rest])
        assert len(messages) == len(theirs["messages"])
        for message, right in zip(messages, theirs["messages"], strict=True):
            assert message["style"] in (POINT, COUNT)
            question = {"question": right["question"]} if message["style"] == COUNT else {}
            kept = {k: v for k, v in right.items() if k != "question"}
            assert message == kept | question | {"style": message["style"]}


def test_several_questions_on_a_video_are_sometimes_one_conversation(home: Path) -> None:
    """0.2 of the time; and then each turn has its own style and answer."""
    write_points(home)
    data = get_dataset("vixmo_points_minmax_0_5", "train")
    found = [data.get(2, np.random.RandomState(seed))["message_list"] for seed in range(400)]
    talks = [m[0]["multi_turn_messages"] for m in found if "multi_turn_messages" in m[0]]
    assert all(len(m) == 1 for m in found if "multi_turn_messages" in m[0])
    assert 0.15 < len(talks) / len(found) < 0.25
    assert {tuple(t["style"] for t in talk) for talk in talks} == {
        (first, second) for first in (POINT, COUNT) for second in (POINT, COUNT)
    }
    alone = data.get(1, np.random.RandomState(0))["message_list"]
    assert len(alone) == 1 and "multi_turn_messages" not in alone[0]
    counted = next(t for t in talks if {m["style"] for m in t} == {COUNT})
    turns = DataFormatterConfig().build()({"multi_turn_messages": counted}).turns
    assert "How many Red Cat are there?" in turns[0] and turns[3] == "There are none."
    assert turns[1].startswith('Counting the <points coords="1.0 1 100 200 2 500 100;0.5 3 ')
    assert turns[1].endswith("shows a total of 4.")


def test_the_bounds_of_ranges(home: Path) -> None:
    """Counts by the column; of a video of 63.5 s clips from 0.5 s on, with points at both ends."""
    row = {"video_id": "a", "video_source": "youtube", "question": "How many?", "points": []}
    row |= {"clip_start": None, "clip_end": None, "two_fps_timestamps": [], "video_duration": 63.0}
    counts = (0, 5, 6, 25, 26, 60, 61)
    short = [row | {"count": n, "label": str(n)} for n in counts]
    clip = {"video_id": "b", "video_duration": 63.5, "clip_start": 0.5, "clip_end": 63.5}
    row |= clip | {"points": [[{"x": 1.0, "y": 2.0}]], "count": 7, "label": "7"}
    long = [row | {"two_fps_timestamps": [t]} for t in (0.0, 0.5, 63.5)]
    write_arrow(home / "Molmo2-VideoPoint/spatial reference", short)
    write_arrow(home / "Molmo2-VideoPoint/animal", long)
    touch(home, *(f"youtube-cc/youtube-cc-kw-2fps/{name}_2fps.mp4" for name in "ab"))
    found = {}
    for bounds in ("0_5", "6_25", "26_60"):
        shown = examples(f"vixmo_points_minmax_{bounds}", "train", home.parent, seed=None)
        found[bounds] = [
            (clip_of(e), [(m["label"], m["timestamps"]) for m in e["message_list"]]) for e in shown
        ]
    whole = [0.0, 63.0]
    assert found["0_5"] == [(whole, [("0", []), ("5", [])])]
    assert found["6_25"] == [
        *(([0.5, 63.5], [("7", [t])]) for t in (0.0, 63.0)),
        (whole, [("6", []), ("25", [])]),
    ]
    assert found["26_60"] == [(whole, [("26", []), ("60", [])])]


@pytest.mark.parametrize("seed", [0, 100])
@pytest.mark.parametrize("split", TABLES["academic_points"]["splits"])
def test_academic_points(split: str, seed: int, home: Path) -> None:
    table = TABLES["academic_points"]
    expected = table["expected"][f"academic_points_clip_63s_2fps:{split}"]
    write_arrow(home / f"molmo2-academic-video-points-{split}", table["rows"])
    touch(home, *(e["video"] for e in expected))
    found = examples("academic_points_clip_63s_2fps", split, home.parent, seed)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert clip_of(mine) == theirs["clip"] and mine["style"] in (POINT, COUNT)
        assert mine.get("question") == theirs["question"]
        assert all(mine[k] == theirs[k] for k in ("video", "label", "count", "points"))
        assert mine["timestamps"] == theirs["timestamps"]


def test_captions(home: Path) -> None:
    table = TABLES["Molmo2-Cap"]
    for split in table["splits"]:
        write_arrow(home / "Molmo2-Cap" / split, table["rows"])
    (home / "Molmo2-Cap/dataset_dict.json").write_text(json.dumps({"splits": table["splits"]}))
    touch(home, *table["files"])
    for name, content in (table["koala_meta"] | {"broken.json": "no mapping"}).items():
        (home / "koala_meta").mkdir(exist_ok=True)
        (home / "koala_meta" / name).write_text(json.dumps(content))
    (expected,) = table["expected"].values()
    found = examples("vixmo3_top_level_captions_min_3", "train", home.parent)
    assert found == [{"video": e["video"], "message_list": e["messages"]} for e in expected]
    single = examples("vixmo3_top_level_captions_min_3", "val", home.parent)
    assert single == [{"video": e["video"]} | m for e in expected for m in e["messages"]]


def test_video_counts(home: Path) -> None:
    table = TABLES["Molmo2-VideoCountEval"]
    ((_, expected),) = table["expected"].items()
    write_arrow(home / "Molmo2-VideoCountEval", table["rows"])
    touch(home, *(e["video"] for e in expected))
    found = examples("vixmo_points_count_clip_63s", "val", home.parent)
    for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert clip_of(mine) == theirs.pop("clip")
        metadata, row = mine.pop("metadata"), table["rows"][i]
        assert mine == theirs
        assert (metadata["count"], metadata["subset"]) == (row["count"], row["category"])


def test_gold_points(home: Path) -> None:
    table = TABLES["Molmo2-VideoPointEval"]
    ((_, (expected,)),) = table["expected"].items()
    write_arrow(home / "Molmo2-VideoPointEval", table["rows"])
    touch(home, expected["video"])
    (found,) = examples("vixmo_points_point_eval", "val", home.parent)
    for key in ("video", "label", "question", "style", "timestamps"):
        assert found[key] == expected[key]
    assert found["points"] == [[[p["x"], p["y"]] for p in at] for at in expected["points"]]
    metadata, gold = found["metadata"], expected["metadata"]
    assert metadata["gt_abs_triplets"] == gold["gt_abs_triplets"]
    assert metadata["gt_abs_masks"] == gold["gt_abs_masks"]
    assert metadata["duration"] == gold["video_duration"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip_start": 10.0, "clip_end": 74.0}, "the clip is too long"),
        ({}, "a long video without a clip"),
        ({"clip_start": 40.5, "clip_end": 90.0}, "the clip is not in the video"),
        ({"clip_start": -1.0, "clip_end": 50.0}, "the clip is not in the video"),
        ({"clip_start": 30.0, "clip_end": 65.0}, "the clip is not in the video"),
        ({"clip_start": 40.0, "clip_end": 40.0}, "the segment has no length"),
        ({"clip_start": 0.5, "clip_end": 63.0, "two_fps_timestamps": [], "points": []}, "the clip"),
        ({"count": 6, "clip_start": 0.0, "clip_end": 60.0}, "another number of points"),
        ({"points": []}, None),
        ({"clip_start": 0.0, "clip_end": 60.0, "points": [[], []]}, "another number of timestamps"),
        ({"clip_start": 0.0, "clip_end": 60.0, "video_id": 5}, "int"),
    ],
)
def test_rows_that_cannot_be_shown(
    home: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any], reason: str | None
) -> None:
    """In a video of 64 s with a point at 40 s; each is left out with its reason."""
    row = {"video_id": "y", "video_source": "youtube", "label": "x", "category": "object"}
    row |= {"count": 1, "question": "How many?", "video_duration": 64.0}
    row |= {"clip_start": None, "clip_end": None, "two_fps_timestamps": [40.0]}
    row["points"] = [[{"x": 1.0, "y": 2.0}]]
    video = "youtube-cc/youtube-cc-temporal-2fps/y_2fps.mp4"
    touch(home, video)
    good = row | {"clip_start": 1.0, "clip_end": 64.0}
    write_arrow(home / "Molmo2-VideoPoint/animal", [row | change])
    write_arrow(home / "Molmo2-VideoPoint/object", [good])
    (found,) = examples("vixmo_points_minmax_0_5", "train", home.parent, seed=None)
    assert found["video"] == video and found["message_list"][0]["timestamps"] == [39.0]
    assert (reason or "a long video without a clip") in caplog.text
    assert "absent, and so left out: Molmo2-VideoPoint/action_or_event" in caplog.text


def test_the_folders_of_copies(home: Path) -> None:
    """Of a source that is not known, all are looked through."""
    row = {"label": "x", "category": "animal", "count": 0, "question": "How many?"}
    row |= {"clip_start": None, "clip_end": None}
    places = {
        "a": ("MammalNet", "MammalNet/trimmed_video-2fps/a_2fps.mp4"),
        "b": ("generated", "generated_videos/b_2fps.mp4"),
        "veo/c": ("", "generated_videos/veo-2fps/c_2fps.mp4"),
        "d": ("elsewhere", "youtube-cc/youtube-cc-kw-2fps/d_2fps.mp4"),
    }
    rows = [row | {"video_id": i, "video_source": s} for i, (s, _) in places.items()]
    write_arrow(home / "Molmo2-VideoCountEval", rows)
    touch(home, *(path for _, path in places.values()))
    data = get_dataset("vixmo_points_count_clip_63s", "val")
    found = [data.get(i, First())["video"] for i in range(len(data))]
    assert found == [str(home / path) for _, path in places.values()]
