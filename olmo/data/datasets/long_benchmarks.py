"""Benchmarks of long videos, with and without subtitles. Prompts as in ``video_benchmarks``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.declare import LONG_VIDEO, Record, dataset
from olmo.data.datasets.disk import Disk, pick
from olmo.data.datasets.sources import HubFiles, Manual
from olmo.data.datasets.video_benchmarks import (
    LETTERS,
    ONLY_LETTER,
    OPTION_LETTER,
    STYLE,
    STYLE_SUBTITLE,
    asked,
    lettered,
)

# --- Video-MME ---------------------------------------------------------------------------------

MME_FIRST = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
MME_LAST = "The best answer is:"
MME_TABLE = "Video-MME/videomme/test-00000-of-00001.parquet"
MME_SUBTITLES = "Video-MME/subtitles.json"
MME_HUB = HubFiles("lmms-lab/Video-MME", "Video-MME", ("videomme/*", "*.zip"), unpack=True)
EITHER = {"validation": "test", "test": "test"}
"""Sets with one split: asked for as validation or as test."""


@dataset(
    "video_mme",
    EITHER,
    files=(MME_TABLE,),
    media=("Video-MME/data",),
    sources=(MME_HUB,),
    groups=(LONG_VIDEO,),
)
def video_mme(disk: Disk, split: str) -> Iterator[Record]:
    return _video_mme(disk, {})


@dataset(
    "video_mme_w_subtitle",
    EITHER,
    files=(MME_TABLE, MME_SUBTITLES),
    media=("Video-MME/data",),
    sources=(MME_HUB, HubFiles("allenai/Molmo2-VideoMME", "Video-MME", ("subtitles.json",))),
    groups=(LONG_VIDEO,),
)
def video_mme_w_subtitle(disk: Disk, split: str) -> Iterator[Record]:
    return _video_mme(disk, dict(disk.items(MME_SUBTITLES)))


def _video_mme(disk: Disk, subtitles: dict[str, dict[str, Any]]) -> Iterator[Record]:
    kept = ("video_id", "question_id", "duration", "domain", "sub_category", "task_type")
    for i, row in enumerate(disk.parquet(MME_TABLE)):
        example_id = f"{row['question_id']}_{row['video_id']}_{i}"
        record = {
            "question": "\n".join([MME_FIRST, row["question"], *row["options"], MME_LAST]),
            "answer": row["answer"],
            "video": f"Video-MME/data/{row['videoID']}.mp4",
            "style": STYLE,
            "metadata": {"example_id": example_id, **{k: row[k] for k in kept}},
        }
        lines = subtitles.get(row["videoID"], {})
        if lines:
            record["subtitle"] = [[s["start"], s["end"], s["text"]] for s in lines.values()]
            record["style"] = STYLE_SUBTITLE
        yield record


# --- LongVideoBench ----------------------------------------------------------------------------

LVB_FILES = {"validation": "lvb_val", "test": "lvb_test_wo_gt"}
LVB_SOURCE = (HubFiles("longvideobench/LongVideoBench", "LongVideoBench", unpack=True, gated=True),)


@dataset(
    "long_video_bench_no_subtitle",
    LVB_FILES,
    files=("LongVideoBench/{split}.json",),
    media=("LongVideoBench/videos",),
    sources=LVB_SOURCE,
    groups=(LONG_VIDEO,),
)
def long_video_bench(disk: Disk, split: str) -> Iterator[Record]:
    for i, row in enumerate(disk.rows(f"LongVideoBench/{split}.json")):
        yield _lvb_record(row, i)


@dataset(
    "long_video_bench_w_subtitle",
    LVB_FILES,
    files=("LongVideoBench/{split}.json",),
    media=("LongVideoBench/videos", "LongVideoBench/subtitles"),
    sources=LVB_SOURCE,
    groups=(LONG_VIDEO,),
)
def long_video_bench_w_subtitle(disk: Disk, split: str) -> Iterator[Record]:
    for i, row in enumerate(disk.rows(f"LongVideoBench/{split}.json")):
        place, path = disk.place, f"LongVideoBench/subtitles/{row['subtitle_path']}"
        lines = list(disk.rows(path)) if disk.exists(path) else []
        disk.place = place
        start, length = float(row["starting_timestamp_for_subtitles"]), float(row["duration"])
        shown = [line for raw in lines if (line := _lvb_line(raw, start, length))]
        record = _lvb_record(row, i)
        yield record | ({"subtitle": shown, "style": STYLE_SUBTITLE} if shown else {})


def _lvb_record(row: dict[str, Any], i: int) -> Record:
    right = row.get("correct_choice")
    return {
        "question": asked(row["question"], lettered(row["candidates"]), OPTION_LETTER),
        "answer": None if right is None else LETTERS[int(right)],
        "video": f"LongVideoBench/videos/{row['video_path']}",
        "metadata": {
            "question_id": row["id"],
            "video_id": row["video_id"],
            "level": row["level"],
            "options": row["candidates"],
            "question_category": row["question_category"],
            "duration_group": row["duration_group"],
            "example_id": f"{row['video_id']}_{row['id']}_{i}",
        },
        "style": STYLE,
    }


def _lvb_line(line: dict[str, Any], offset: float, length: float) -> list[Any] | None:
    """``[start, end, text]`` of a subtitle line, relative to the clip that starts at ``offset``
    and lasts ``length`` seconds; None if it lies outside. A line without an end runs to the end
    of the clip. Two spellings exist: ``timestamp`` and ``text``, or ``start``, ``end``, ``line``.
    """
    start, end = line["timestamp"] if "timestamp" in line else (line["start"], line.get("end"))
    first = clock_seconds(start) - offset
    last = length if end is None else clock_seconds(end) - offset
    if last <= 0 or first >= length:
        return None
    return [max(first, 0.0), min(last, length), pick(line, "text", "line")]


def clock_seconds(value: str | float) -> float:
    """Seconds of a number or of ``"HH:MM:SS.fff"``."""
    if isinstance(value, (int, float)):
        return float(value)
    total = 0.0
    for part in value.replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total


# --- LVBench, MLVU, VideoEval-Pro --------------------------------------------------------------


@dataset(
    "lvbench",
    EITHER,
    files=("LVBench/video_info.meta.jsonl",),
    media=("LVBench",),
    sources=(
        HubFiles("zai-org/LVBench", "LVBench", ("video_info.meta.jsonl",)),
        Manual("videos go to LVBench/<key>.mp4", "https://huggingface.co/datasets/zai-org/LVBench"),
    ),
    groups=(LONG_VIDEO,),
)
def lvbench(disk: Disk, split: str) -> Iterator[Record]:
    for row in disk.jsonl("LVBench/video_info.meta.jsonl"):
        for qa in row["qa"]:
            lines = [
                re.sub(r"^\(([A-Z])\) ?", r"\1. ", line) for line in qa["question"].split("\n")
            ]
            yield {
                "video": f"LVBench/{row['key']}.mp4",
                "question": "\n".join([*lines, ONLY_LETTER]),
                "metadata": {
                    "answer": f"{qa['answer']}.",
                    "type": row["type"],
                    "uid": qa["uid"],
                    "qtype": qa["question_type"],
                    "time_reference": qa["time_reference"],
                },
                "style": STYLE,
            }


MLVU_CHOICE = (
    "1_plotQA",
    "2_needle",
    "3_ego",
    "4_count",
    "5_order",
    "6_anomaly_reco",
    "7_topic_reasoning",
)
MLVU_OPEN = ("8_sub_scene", "9_summary")
MLVU_SOURCE = (HubFiles("MLVU/MVLU", "MVLU", gated=True),)


def _mlvu(disk: Disk, tasks: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], Record]]:
    """Raw rows, each with what all kinds of questions have in common."""
    number = 0
    for task in tasks:
        for row in disk.rows(f"MVLU/MLVU/json/{task}.json"):
            metadata = {
                "question_id": str(number),
                "video_id": row["video"],
                "task_type": task.partition("_")[2],
                "duration": row["duration"],
            }
            yield row, {"video": f"MVLU/MLVU/video/{task}/{row['video']}", "metadata": metadata}
            number += 1


@dataset(
    "mlvu_mc",
    EITHER,
    files=tuple(f"MVLU/MLVU/json/{task}.json" for task in MLVU_CHOICE),
    media=("MVLU/MLVU/video",),
    sources=MLVU_SOURCE,
    groups=(LONG_VIDEO,),
)
def mlvu_mc(disk: Disk, split: str) -> Iterator[Record]:
    for row, record in _mlvu(disk, MLVU_CHOICE):
        options = row["candidates"]
        yield record | {
            "question": asked(row["question"], lettered(options), OPTION_LETTER),
            "answer": LETTERS[options.index(row["answer"])],
            "style": STYLE,
        }


@dataset(
    "mlvu_mc_test",
    {"test": "test"},
    files=("MLVU_Test/test_question.json",),
    media=("MLVU_Test/video",),
    sources=(HubFiles("MLVU/MLVU_Test", "MLVU_Test", gated=True, unpack=True),),
    groups=(LONG_VIDEO,),
)
def mlvu_mc_test(disk: Disk, split: str) -> Iterator[Record]:
    """Without answers."""
    for row in disk.rows("MLVU_Test/test_question.json"):
        yield {
            "question": asked(row["question"], lettered(row["candidates"]), OPTION_LETTER),
            "video": f"MLVU_Test/video/{row['video']}",
            "metadata": {"question_id": row["question_id"], "task_type": row["question_type"]},
            "style": STYLE,
        }


@dataset(
    "mlvu_gen",
    EITHER,
    files=tuple(f"MVLU/MLVU/json/{task}.json" for task in MLVU_OPEN),
    media=("MVLU/MLVU/video",),
    sources=MLVU_SOURCE,
    groups=(LONG_VIDEO,),
)
def mlvu_gen(disk: Disk, split: str) -> Iterator[Record]:
    for row, record in _mlvu(disk, MLVU_OPEN):
        asked_for = {k: row[k] for k in ("question", "answer")}
        points = {k: row[k] for k in ("scoring_points",) if k in row}
        metadata = record["metadata"] | asked_for | points
        yield record | asked_for | {"metadata": metadata, "style": "demo"}


@dataset(
    "video_eval_pro_mc",
    {"test": "test"},
    files=("VideoEvalPro/data/test-00000-of-00001.parquet",),
    media=("VideoEvalPro/videos/videos_filtered",),
    sources=(
        HubFiles("TIGER-Lab/VideoEval-Pro", "VideoEvalPro", ("data/*",)),
        Manual(
            "join and unpack the video archives of the repository to VideoEvalPro/videos",
            "https://huggingface.co/datasets/TIGER-Lab/VideoEval-Pro",
        ),
    ),
    groups=(LONG_VIDEO,),
)
def video_eval_pro(disk: Disk, split: str) -> Iterator[Record]:
    kept = ("answer_text", "source", "qa_subtype", "qa_type", "options")
    table = "VideoEvalPro/data/test-00000-of-00001.parquet"
    for i, row in enumerate(disk.parquet(table)):
        yield {
            "question": asked(row["question"], row["options"], ONLY_LETTER),
            "answer": row["answer"],
            "style": STYLE,
            "video": f"VideoEvalPro/videos/videos_filtered/{row['video']}",
            "metadata": {**{k: row[k] for k in kept}, "example_id": f"{i}_{row['video']}"},
        }
