"""Captions of videos and chat about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.messages import as_text
from olmo.data.datasets.web_videos import captioned_video, koala_names, web_video
from olmo.data.records import LeftOut, Record

Row = dict[str, Any]
LONG = "video_long_caption"
CAPTIONS = {
    "merged_caption": "video_merged_caption",
    "video_caption": "video_short_caption",
    "video_frame_merged_caption": LONG,
}
"""Columns and their styles."""
UNUSABLE = {
    *("0OfUqrbRa2Y", "mTXBQzptWAg", "NyuA4FatDQk", "a_", "gsfIHiBB6xE", "bXApJtAf6Qo"),
    "N8BlpYSpgg4",
}


def caption_eval(disk: Disk, split: str) -> Iterator[Record]:
    """``Molmo2-CapEval`` (the layout is ours): video_id, statements, the facts that a caption may
    state."""

    def message(row: Row) -> Record:
        metadata = {"example_id": row["video_id"], "statements": list(row["statements"])}
        return {"video": web_video(disk, row["video_id"]), "style": LONG, "metadata": metadata}

    return disk.each(disk.table_rows("Molmo2-CapEval", split), message)


def captions(disk: Disk, split: str, min_score: int) -> Iterator[Record]:
    """``Molmo2-Cap``: video_id, annotation_score, merged_caption, video_caption,
    video_frame_merged_caption. Empty captions give no message."""
    koala = koala_names(disk)

    def messages(row: Row) -> list[Record]:
        LeftOut.when(
            row["annotation_score"] < min_score, f"the annotation has a score below {min_score}"
        )
        LeftOut.when(row["video_id"] in UNUSABLE, "the video is known to be unusable")
        texts = [(row[column], style) for column, style in CAPTIONS.items() if row[column]]
        LeftOut.when(not texts, "no caption has text")
        video = captioned_video(disk, row["video_id"], koala)
        return [{"video": video, "text": text, "style": style} for text, style in texts]

    return disk.each(disk.table_rows("Molmo2-Cap", split), messages)


def human_qa(disk: Disk, split: str) -> Iterator[Record]:
    """``Molmo2-AskModelAnything``: video_id, question, answer."""

    def message(row: Row) -> Record:
        answer = row["answer"].strip()
        LeftOut.when(not answer, "the answer is empty")
        video, question = web_video(disk, row["video_id"]), row["question"].strip()
        return {"video": video, "question": question, "answer": answer, "style": "user_qa"}

    return disk.each(disk.table_rows("Molmo2-AskModelAnything", split), message)


def narratives(row: Row) -> Iterator[Record]:
    """``video-localized-narratives/hf_dataset``: video, captions, actor_names."""
    for text, actor in zip(row["captions"], row["actor_names"], strict=True):
        yield {"text": as_text(text), "object": actor.lower(), "style": "video_object_caption"}
