"""Twenty data sets against recorded examples: a raw annotation in, the example out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olmo.data.datasets.long_benchmarks import MLVU_CHOICE, MLVU_OPEN
from olmo.data.datasets.video_benchmarks import MVBENCH, TOMATO
from olmo.data.datasets.video_grounding import LLAVA_MC
from tests.data.datasets_miniature import Miniature

GOLDEN = {
    entry["name"]: entry
    for entry in json.loads(
        (Path(__file__).parents[1] / "fixtures/data_sets/dataset_examples.json").read_text()
    )
}
Files = dict[str, Any]


def only(folder: str, names: list[str], first: Any, empty: Any) -> Files:
    """One file with content, the others empty."""
    return {f"{folder}/{n}.json": first if i == 0 else empty for i, n in enumerate(names)}


def tgif(raw: Any) -> Files:
    choice = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\n"
    choice += "g1\tWhat does he do?\ta\tb\tc\td\te\t4\n"
    count = "gif_name\tquestion\tanswer\ng1\tHow many?\t3\n"
    kinds = {"action": choice, "count": count, "transition": choice, "frameqa": count}
    return {f"TGIF/Train_{kind}_question.csv": text for kind, text in kinds.items()}


def llava(raw: Any) -> Files:
    question = "<image>\nWhat?\nA. a\nB. b\nPlease respond with only the letter of the correct "
    turns = [{"from": "human", "value": question + "answer."}, {"from": "gpt", "value": " B. "}]
    row = {"id": 1, "data_source": "0_30_s_nextqa", "video": "NextQA/a.mp4", "conversations": turns}
    return {
        f"LLaVA-Video-178K/{f}/{f}_mc_qa.json": [row] if f == "0_30_s_nextqa" else []
        for f in LLAVA_MC
    }


def nextqa(raw: Any) -> Files:
    header = ",".join(raw[0])
    values = ",".join(str(v) for v in raw[0].values())
    return {
        "NeXTQA/train.csv": f"{header}\n{values}\n",
        "NeXTQA/map_vid_vidorID.json": {"123": "1164/123"},
    }


def long_video_bench(raw: Any) -> Files:
    subtitles = [
        {"start": "00:01:40.000", "end": "00:01:41.000", "line": "hi"},
        {"start": "00:02:40.000", "end": "00:02:41.000", "line": "after the clip"},
    ]
    return {
        "LongVideoBench/lvb_val.json": raw,
        "LongVideoBench/subtitles/v1_en.json": subtitles,
    }


CASES: dict[str, tuple[str, str, Callable[[Any], Files]]] = {
    "mvbench validation": (
        "mvbench",
        "validation",
        lambda raw: only("MVBench/json", [f for f, _ in MVBENCH.values()], [raw], []),
    ),
    "tomato test": ("tomato", "test", lambda raw: only("TOMATO/data", list(TOMATO), raw, {})),
    "motionbench validation": (
        "motionbench",
        "validation",
        lambda raw: {"MotionBench/MotionBench/video_info.meta.jsonl": [raw]},
    ),
    "motionbench test": (
        "motionbench",
        "test",
        lambda raw: {"MotionBench/MotionBench/video_info.meta.jsonl": [raw]},
    ),
    "perception_test validation": (
        "perception_test",
        "validation",
        lambda raw: {"perception_test/mc_question_val/validation-00000-of-00001.parquet": raw},
    ),
    "perception_test train": (
        "perception_test",
        "train",
        lambda raw: {"perception_test/all_train.json": raw},
    ),
    "ego_schema validation": (
        "ego_schema",
        "validation",
        lambda raw: {"egoschema/Subset/test-00000-of-00001.parquet": raw},
    ),
    "ego_schema test": (
        "ego_schema",
        "test",
        lambda raw: {"egoschema/MC/test-00000-of-00001.parquet": raw},
    ),
    "nextqa_mc test": (
        "nextqa_mc",
        "test",
        lambda raw: {"NeXTQA/MC/test-00000-of-00001.parquet": raw},
    ),
    "nextqa_mc train": ("nextqa_mc", "train", nextqa),
    "video_mme_w_subtitle validation": (
        "video_mme_w_subtitle",
        "validation",
        lambda raw: {
            "Video-MME/videomme/test-00000-of-00001.parquet": raw,
            "Video-MME/subtitles.json": {"abc": {"0": {"start": 0.5, "end": 2.0, "text": "hello"}}},
        },
    ),
    "VideoMME(with_subtitle=False)": (
        "video_mme",
        "validation",
        lambda raw: {"Video-MME/videomme/test-00000-of-00001.parquet": raw},
    ),
    "long_video_bench_w_subtitle validation": (
        "long_video_bench_w_subtitle",
        "validation",
        long_video_bench,
    ),
    "LongVideoBench(with_subtitle=False)": (
        "long_video_bench_no_subtitle",
        "validation",
        lambda raw: {"LongVideoBench/lvb_val.json": raw},
    ),
    "lvbench test": ("lvbench", "test", lambda raw: {"LVBench/video_info.meta.jsonl": [raw]}),
    "mlvu_mc validation": (
        "mlvu_mc",
        "validation",
        lambda raw: only("MVLU/MLVU/json", list(MLVU_CHOICE), raw, []),
    ),
    "mlvu_gen validation": (
        "mlvu_gen",
        "validation",
        lambda raw: only("MVLU/MLVU/json", list(MLVU_OPEN), [raw], []),
    ),
    "video_eval_pro_mc test": (
        "video_eval_pro_mc",
        "test",
        lambda raw: {"VideoEvalPro/data/test-00000-of-00001.parquet": raw},
    ),
    "llava_video_mc_academic train": ("llava_video_mc_academic", "train", llava),
    "star train": ("star", "train", lambda raw: {"STAR/STAR_train_qa.json": raw}),
    "clevrer train": ("clevrer", "train", lambda raw: {"CLEVRER/train.json": raw}),
    "tgif train": ("tgif", "train", tgif),
    "qv_highlights train": (
        "qv_highlights",
        "train",
        lambda raw: {"QVHighlights/highlight_train_release.jsonl": [raw]},
    ),
    "charades_sta_all_qa train": (
        "charades_sta_all_qa",
        "train",
        lambda raw: {"Charades/charades_sta_train.txt": raw + "\n"},
    ),
}


def comparable(example: dict[str, Any]) -> dict[str, Any]:
    """Spans of subtitles as the recording shows them."""
    if isinstance(example.get("subtitle"), dict):
        lines = {str(list(span)): text for span, text in example["subtitle"].items()}
        example = {**example, "subtitle": lines}
    return example


def test_every_recorded_example_is_compared() -> None:
    assert set(CASES) == set(GOLDEN)


@pytest.mark.parametrize("recorded", CASES)
def test_example(recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    entry = GOLDEN[recorded]
    name, split, layout = CASES[recorded]
    home = str(tmp_path / "video_datasets")
    expected = json.loads(json.dumps(entry["examples"]).replace("<VIDEO_DATA_HOME>", home))
    media = [e["video"].removeprefix(home + "/") for e in expected]
    miniature = Miniature(name, layout(entry["raw"]), media, split=split)
    miniature.write(tmp_path)
    assert [comparable(e) for e in miniature.read()] == expected
    assert len(expected) == entry["n"]
