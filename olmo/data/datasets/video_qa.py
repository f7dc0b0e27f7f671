"""Questions on whole videos whose rows need a rule: multiple choice (MC), and the same as a short
answer (SA)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.draws import INSERT
from olmo.data.datasets.messages import MC, choice, short
from olmo.data.records import Flaw, LeftOut, Record

Row = dict[str, Any]

TGIF_KINDS = ("action", "count", "transition", "frameqa")
TGIF_CHOICE = ("action", "transition")


def tgif(disk: Disk, split: str) -> Iterator[Record]:
    """``TGIF/{Train,Test}_{kind}_question.csv``, tab-separated: gif_name, question, answer; the
    kinds with options have them as a1 to a5."""
    for kind in TGIF_KINDS:

        def messages(row: Row, has_options: bool = kind in TGIF_CHOICE) -> Iterator[Record]:
            video, answer = {"video": f"TGIF/videos/{row['gif_name']}.mp4"}, row["answer"]
            if has_options:
                options = [row[f"a{i}"] for i in range(1, 6)]
                yield video | choice(row["question"], options, answer)
                answer = options[int(answer)]
            yield video | short(row["question"], answer)

        yield from disk.each(disk.csv(f"TGIF/{split}_{kind}_question.csv", "\t"), messages)


def choice_and_short(row: Row) -> list[Record]:
    """IntentQA: question, a0 to a4, answer (a number). SA, then MC."""
    options = [row[f"a{i}"] for i in range(5)]
    message = choice(row["question"], options, row["answer"])
    return [short(row["question"], options[message["answer_idx"]]), message]


def sutd_trafficqa(disk: Disk, split: str) -> Iterator[Record]:
    """``SUTD-TrafficQA/R2_{split}.jsonl``: a list per line, the first one names the columns
    (vid_filename, q_body, option0 to option3, answer). Empty options are not shown."""
    lines = disk.jsonl(f"SUTD-TrafficQA/R2_{split}.jsonl")
    header: list[str] = next(lines, [])

    def message(line: list[Any]) -> Record:
        row = dict(zip(header, line, strict=True))
        texts = [row[f"option{i}"] for i in range(4)]
        shown = [text for text in texts if text]
        right = choice(row["q_body"], texts, row["answer"])["answer_idx"]
        if not texts[right]:
            raise Flaw("the answer is an empty option")
        video = f"SUTD-TrafficQA/compressed_videos/{row['vid_filename']}"
        return {"video": video} | choice(row["q_body"], shown, shown.index(texts[right]))

    return disk.each(lines, message)


HOW2QA_CLIPS = "how2QA/video-clips"
HOW2QA_CORRUPT = {"onGTfd-EKrs_89.15_89.44.mp4", "bkl7eK8B6ig_147.73_149.83.mp4"}
HOW2QA_CORRUPT_IDS = {"Z1NEMNKgR9U"}


def how2qa(disk: Disk, split: str) -> Iterator[Record]:
    """``how2QA/how2QA_{split}_release.csv`` without a header: id, [start:end], three wrong answers,
    question, right answer. Clips ``how2QA/video-clips/{id}_{start}_{end}.{ext}``; the extension is
    that of ``extensions.json``, else of the first clip of the id."""
    known = "how2QA/extensions.json"
    extensions = dict(disk.items(known)) if disk.exists(known) else {}
    for name in disk.names(HOW2QA_CLIPS):
        if found := re.fullmatch(r"(.+)_[\d.]+_[\d.]+\.(\w+)", name):
            extensions.setdefault(found[1], found[2])

    def message(row: list[str]) -> Record:
        start, end = map(float, row[1].strip("[]").split(":"))
        if not start < end:
            raise Flaw("the segment has no length")
        if row[0] not in extensions:
            raise LeftOut("no clip of the video is there")
        clip = f"{row[0]}_{round(start, 2)}_{round(end, 2)}.{extensions[row[0]]}"
        if row[0] in HOW2QA_CORRUPT_IDS or clip in HOW2QA_CORRUPT:
            raise LeftOut("the clip is known to be corrupt")
        return {
            "video": f"{HOW2QA_CLIPS}/{clip}",
            "question": row[5],
            "negatives": row[2:5],
            "answer": row[6],
            "style": MC,
            "draw": [INSERT],
        }

    return disk.each(disk.cells(f"how2QA/how2QA_{split}_release.csv"), message)
