"""Questions on videos whose answers are spans of time: moments of QVHighlights and Ego4D."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.messages import short
from olmo.data.records import LeftOut, Record

Row = dict[str, Any]
QV_QUESTION = (
    "Here is a query: {query}. Where are all the segments for the query? "
    "Report the segments in seconds."
)
QV_MAX_WINDOWS = 5
QV_CLIP_S = 2
QV_TOP_SCORE = 4
QV_METADATA = ("query", "duration", "relevant_windows", "relevant_clip_ids", "saliency_scores")


def qv_highlights(disk: Disk, split: str) -> Iterator[Record]:
    """``QVHighlights/highlight_{split}_release.jsonl``: qid, query, duration, vid,
    relevant_windows, relevant_clip_ids, saliency_scores."""

    def message(row: Row) -> Record:
        windows, query = row["relevant_windows"], row["query"].rstrip(".")
        video = f"QVHighlights/videos/{row['vid']}.mp4"
        LeftOut.when(len(windows) > QV_MAX_WINDOWS, "more windows than the question is about")
        LeftOut.when(not disk.exists(video), "its video is not there")
        answer = "Segments: " + ", ".join(f"[{start}-{end}]" for start, end in windows)
        metadata = {
            "example_id": f"{row['qid']}_{row['vid']}",
            "video_path": str(disk.home / video),
            **{k: row[k] for k in QV_METADATA},
            "scaled_avg_scores": _clip_scores(row),
            "frame_sel_input": query,
        }
        message = short(QV_QUESTION.format(query=query), answer)
        return {"video": video, "metadata": metadata} | message

    return disk.each(disk.jsonl(f"QVHighlights/highlight_{split}_release.jsonl"), message)


def _clip_scores(row: Row) -> list[float]:
    """Mean saliency of every 2 s clip, 0 to 1; clips without a score have 0."""
    scores = [0.0] * (int(row["duration"]) // QV_CLIP_S)
    for i, votes in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
        if i < len(scores):
            scores[i] = sum(votes) / len(votes) / QV_TOP_SCORE
    return scores


def ego4d(disk: Disk, split: str) -> Iterator[Record]:
    """``Ego4d/ego4d_cached_{split}_metadata.jsonl``, or ``.parquet``: clip (in ``ego4d-clips``),
    corrupt and metadata (optional), message_list [{question, answer, style}]."""

    def messages(row: Row) -> Iterator[Record]:
        LeftOut.when(row.get("corrupt"), "the clip is marked as corrupt")
        shown: Record = {"video": f"ego4d-clips/{row['clip']}"}
        if metadata := {k: v for k, v in (row.get("metadata") or {}).items() if v is not None}:
            shown["metadata"] = metadata
        for message in row["message_list"]:
            yield shown | short(message["question"], message["answer"], message["style"])

    table = f"Ego4d/ego4d_cached_{split}_metadata"
    rows = disk.rows_of(disk.first(f"{table}.jsonl", f"{table}.parquet"), split)
    return disk.each(rows, messages)
