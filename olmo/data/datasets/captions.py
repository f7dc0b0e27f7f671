"""Captions and chat: of videos, of images of PixMo, and of text alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.messages import as_text
from olmo.data.datasets.web_videos import captioned_video, koala_names
from olmo.data.records import Flaw, LeftOut, Record
from olmo.preprocessing.chat import alternating
from olmo.preprocessing.tokens import Turn

USER_QA, LONG = "user_qa", "video_long_caption"
CAPTIONS = {
    "merged_caption": "video_merged_caption",
    "video_caption": "video_short_caption",
    "video_frame_merged_caption": LONG,
}
"""Columns and their styles."""
_SPEAKER = re.compile(r"\s*\[(?:USER|ASSISTANT)\]\s*")
UNUSABLE = {
    *("0OfUqrbRa2Y", "mTXBQzptWAg", "NyuA4FatDQk", "a_", "gsfIHiBB6xE", "bXApJtAf6Qo"),
    "N8BlpYSpgg4",
}


def caption_eval(row: Row) -> Record:
    """``Molmo2-CapEval`` (the layout is ours): video_id, statements, the facts that a caption may
    state."""
    metadata = {"example_id": row["video_id"], "statements": list(row["statements"])}
    return {"style": LONG, "metadata": metadata}


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
        video = captioned_video(disk, row, koala)
        return [{"video": video, "text": text, "style": style} for text, style in texts]

    return disk.each(disk.table_rows("Molmo2-Cap", split), messages)


def human_qa(row: Row) -> Record:
    """``Molmo2-AskModelAnything``: video_id, question, answer."""
    answer = row["answer"].strip()
    LeftOut.when(not answer, "the answer is empty")
    return {"question": row["question"].strip(), "answer": answer, "style": USER_QA}


def narratives(row: Row) -> Iterator[Record]:
    """``video-localized-narratives/hf_dataset``: video, captions, actor_names."""
    for text, actor in zip(row["captions"], row["actor_names"], strict=True):
        yield {"text": as_text(text), "object": actor.lower(), "style": "video_object_caption"}


# --- of images, and of text alone ---------------------------------------------------------------


def user_question(row: Row) -> Record:
    """PixMo: question, answer. Where the question asks for a count, it is one without points."""
    answered = {"question": row["question"].strip(), "answer": row["answer"]}
    return answered | {"style": USER_QA, "no_points": True}


def user_conversation(row: Row) -> Record:
    """``pixmo-cap-qa``: question, a conversation ``[USER] ... [ASSISTANT] ... [USER] ...
    [ASSISTANT]`` that ends before the last answer, and answer, which is taken as it is."""
    turns = [*filter(None, _SPEAKER.split(row["question"])), row["answer"]]
    Flaw.when(len(turns) % 2, "question: user and assistant do not alternate")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    shared = {"style": USER_QA, "no_points": True}
    return {"multi_turn_messages": [{"question": q, "answer": a} | shared for q, a in pairs]}


def turns(messages: list[dict[str, str]]) -> list[str]:
    """The texts of ``alternating`` turns."""
    said = ((m["role"] == "assistant", Turn.of(m["content"])) for m in messages)
    return [str(turn) for turn in alternating(said)]


def conversation(row: Row) -> Record:
    """Tulu: messages with role (system, user or assistant) and content."""
    found = turns(row["messages"])
    Flaw.when(not found, "no question has an answer")
    return {"messages": found, "style": USER_QA}
