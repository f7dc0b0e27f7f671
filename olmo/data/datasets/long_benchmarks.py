"""Benchmarks of long videos, with and without subtitles. Prompts as in ``video_benchmarks``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.messages import (
    EVAL_MC,
    asked,
    letter_at,
    letter_of,
    lettered,
    subtitle_lines,
)
from olmo.data.datasets.video_benchmarks import ONLY_LETTER, OPTION_LETTER
from olmo.data.records import Record

MME_FIRST = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
MME_LAST = "The best answer is:"
MME_KEPT = ("video_id", "question_id", "duration", "domain", "sub_category", "task_type")


def video_mme(disk: Disk, split: str, subtitles: bool = False) -> Iterator[Record]:
    """``Video-MME/videomme/test-00000-of-00001.parquet``: videoID, video_id, question_id, duration,
    domain, sub_category, task_type, question, options (lettered), answer (a letter).
    ``Video-MME/subtitles.json``: videoID -> number -> start, end, text."""
    spoken = dict(disk.items("Video-MME/subtitles.json")) if subtitles else {}

    def question(row: Row) -> Record:
        example_id = f"{row['question_id']}_{row['video_id']}_{disk.place[-1]}"
        return {
            **asked(MME_FIRST, [row["question"], *row["options"]], MME_LAST, row["answer"]),
            "video": f"Video-MME/data/{row['videoID']}.mp4",
            "metadata": {"example_id": example_id, **{k: row[k] for k in MME_KEPT}},
            **_with_subtitle(subtitle_lines(list(spoken.get(row["videoID"], {}).values()))),
        }

    return disk.each(disk.parquet("Video-MME/videomme/test-00000-of-00001.parquet"), question)


def _with_subtitle(lines: list[list[Any]]) -> Record:
    """What a question with a subtitle has besides."""
    return {"subtitle": lines, "style": f"{EVAL_MC}_w_subtitle"} if lines else {}


LVB_KEPT = ("video_id", "level", "question_category", "duration_group")


def long_video_bench(disk: Disk, split: str, subtitles: bool = False) -> Iterator[Record]:
    """``LongVideoBench/{split}.json``: id, video_id, video_path, subtitle_path, level,
    question_category, duration_group, question, candidates, duration,
    starting_timestamp_for_subtitles, and correct_choice where it is public. Files of subtitles are
    lists of timestamp (two times) and text, or of start, end and line."""

    def question(row: Row) -> Record:
        number, options = disk.place[-1], row["candidates"]
        found: Record = {
            **asked(row["question"], lettered(options), OPTION_LETTER),
            "video": f"LongVideoBench/videos/{row['video_path']}",
            "metadata": {"question_id": row["id"], "options": options},
        }
        found["metadata"] |= {k: row[k] for k in LVB_KEPT}
        if row.get("correct_choice") is not None:
            found["answer"] = letter_at(row["correct_choice"], options)
            found["metadata"]["example_id"] = f"{row['video_id']}_{row['id']}_{number}"
        path = f"LongVideoBench/subtitles/{row['subtitle_path']}" if subtitles else ""
        lines = disk.json(path) if path and disk.exists(path) else []
        start, length = float(row["starting_timestamp_for_subtitles"]), float(row["duration"])
        return found | _with_subtitle(_lvb_lines(lines, start, start + length))

    return disk.each(disk.rows(f"LongVideoBench/{split}.json"), question)


def _lvb_lines(lines: list[Any], first: float, last: float) -> list[list[Any]]:
    """Subtitles of the clip from ``first`` to ``last``, in seconds from its start. One begins with
    the clip at the earliest, and ends when it says, or where that is no time with the clip."""
    entries = []
    for line in lines:
        if isinstance(line, dict):
            times = line.get("timestamp", [line.get("start"), line.get("end")])
            start, end = map(seconds, times)
            text = line.get("text", line.get("line"))
            entries.append({"start": start, "end": last if end is None else end, "text": text})
    shown = (s for s in subtitle_lines(entries) if s[1] >= first and s[0] <= last)
    return [[max(start - first, 0.0), end - first, text] for start, end, text in shown]


def seconds(value: Any) -> float | None:
    """Of a number or of ``"HH:MM:SS.fff"``; None for anything else."""
    parts = str(value).replace(",", ".").split(":")
    try:
        return sum(float(part) * 60**i for i, part in enumerate(reversed(parts)))
    except ValueError:
        return None


def lvbench(row: Row) -> Record:
    """LVBench: key, type, qa (uid, question, answer, question_type, time_reference). The lines of a
    question are its own, then the options: ``(A) x``, ``A) x`` or ``A. x``."""
    question, *lines = [line.strip() for line in row["question"].split("\n") if line.strip()]
    options = [re.sub(r"^\(?([A-Z])[).]\s*", r"\1. ", line) for line in lines]
    kept = {k: row[k] for k in ("type", "uid", "time_reference")}
    metadata = {"answer": f"{row['answer']}.", "qtype": row["question_type"], **kept}
    return asked(question, options, ONLY_LETTER) | {"metadata": metadata}


def video_eval_pro(row: Row) -> Record:
    """VideoEval-Pro: video, question, options (lettered), answer (a letter), answer_text, source,
    qa_subtype, qa_type."""
    kept = ("answer_text", "source", "qa_subtype", "qa_type", "options")
    example_id = f"{row['row_number']}_{row['video']}"
    metadata = {"example_id": example_id, **{k: row[k] for k in kept}}
    found = asked(row["question"], row["options"], ONLY_LETTER, row["answer"])
    return found | {"metadata": metadata}


# --- MLVU --------------------------------------------------------------------------------------

MLVU = "plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning"
MLVU_OPEN = "sub_scene", "summary"


def mlvu_mc(disk: Disk, split: str) -> Iterator[Record]:
    """``MVLU/MLVU/json/{number}_{task}.json``: video, duration, question, candidates, answer (a
    candidate). Test: ``MLVU_Test/test-ground-truth/test_mcq_gt.json`` with question_id as well, and
    perhaps question_type."""
    if split != "test":
        return _mlvu(disk, enumerate(MLVU, 1), _lettered)

    def question(row: Row) -> Record:
        name = row["video"]
        about = {"duration": float(row["duration"]), "task_type": row.get("question_type")}
        return {
            "video": disk.first(f"MLVU_Test/MLVU_Test/video/{name}", f"MLVU_Test/video/{name}"),
            "metadata": {"question_id": str(row["question_id"]), "video_id": name, **about},
            **_lettered(row),
        }

    rows = disk.rows("MLVU_Test/test-ground-truth/test_mcq_gt.json")
    return _shortest_first(disk.each(rows, question))


def mlvu_gen(disk: Disk, split: str) -> Iterator[Record]:
    """As ``mlvu_mc``, with a text as the answer, and perhaps scoring_points."""
    return _mlvu(disk, enumerate(MLVU_OPEN, len(MLVU) + 1), _open)


def _lettered(row: Row) -> Record:
    options = row["candidates"]
    letter = letter_of(row["answer"], options)
    return asked(row["question"], lettered(options), OPTION_LETTER, letter)


def _open(row: Row) -> Record:
    kept = {k: row[k] for k in ("question", "answer")}
    points = {k: row[k] for k in ("scoring_points",) if k in row}
    return kept | {"style": "demo", "metadata": kept | points}


def _mlvu(
    disk: Disk, tasks: Iterable[tuple[int, str]], answered: Callable[[Row], Record]
) -> Iterator[Record]:
    """Questions of all tasks, numbered through."""

    def question(item: tuple[str, Row]) -> Record:
        file, row = item
        found, task = answered(row), file.partition("_")[2]
        about = {"video_id": row["video"], "task_type": task, "duration": float(row["duration"])}
        video = f"MVLU/MLVU/video/{file}/{row['video']}"
        return found | {"video": video, "metadata": about | found.get("metadata", {})}

    files = [f"{number}_{name}" for number, name in tasks]
    rows = ((file, row) for file in files for row in disk.rows(f"MVLU/MLVU/json/{file}.json"))
    records = list(disk.each(rows, question))
    for number, record in enumerate(records):
        record["metadata"]["question_id"] = str(number)
    return _shortest_first(records)


def _shortest_first(records: Iterable[Record]) -> Iterator[Record]:
    return iter(sorted(records, key=lambda r: r["metadata"]["duration"]))
