"""Chat about videos, long captions of them, and the benchmark whose captions a judge reads."""

from __future__ import annotations

from collections.abc import Iterator

from olmo.data.datasets.declare import DEMO, LONG_VIDEO, Record, by_media, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.image_tables import USER_QA
from olmo.data.datasets.video_pointing import hub_table
from olmo.data.datasets.video_subtitles import WEB_MANUAL, WEB_MEDIA, web_video

STYLE = "video_long_caption"
MIN_CAPTIONS = 3


@dataset(
    "vixmo_caps_eval2",
    {"test": "test"},
    files=("Molmo2-CapEval",),
    media=WEB_MEDIA,
    sources=(hub_table("Molmo2-CapEval", "test"), WEB_MANUAL),
    groups=(LONG_VIDEO,),
)
def caption_eval(disk: Disk, split: str) -> Iterator[Record]:
    """``statements`` are the facts that a caption may state."""
    for row in disk.table_rows("Molmo2-CapEval", split):
        metadata = {"example_id": row["video_id"], "statements": list(row["statements"])}
        yield {"video": web_video(disk, row["video_id"]), "style": STYLE, "metadata": metadata}


@dataset(
    "vixmo3_top_level_captions_min_3",
    {"train": "train"},
    files=("Molmo2-Cap",),
    media=WEB_MEDIA,
    sources=(hub_table("Molmo2-Cap", "train"), WEB_MANUAL),
    groups=(DEMO,),
)
def captions(disk: Disk, split: str) -> Iterator[Record]:
    """Captions of whole videos, of those that were described in at least three parts."""
    for row in disk.table_rows("Molmo2-Cap", split):
        if len(row["clip_captions"]) >= MIN_CAPTIONS:
            message = {"text": row["caption"], "style": STYLE}
            yield {"video": web_video(disk, row["video_id"]), "message_list": [message]}


@dataset(
    "molmo2_human_qa",
    {"train": "train"},
    files=("Molmo2-AskModelAnything",),
    media=WEB_MEDIA,
    sources=(hub_table("Molmo2-AskModelAnything", "train"), WEB_MANUAL),
    groups=(DEMO,),
)
def human_qa(disk: Disk, split: str) -> Iterator[Record]:
    """Questions of people, all of a video in one example."""
    columns = ("video_id", "question", "answer")
    return by_media(
        (
            web_video(disk, row["video_id"]),
            {"question": row["question"], "answer": row["answer"], "style": USER_QA},
        )
        for row in disk.table_rows("Molmo2-AskModelAnything", split, *columns)
    )
