"""TVQA: questions on spans of folders of frames, with subtitles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.frame_clips import frame_clip
from olmo.data.datasets.messages import MC, MC_SUBTITLE, as_text, choice, subtitle_lines
from olmo.data.records import Flaw, LeftOut, Record
from olmo.files import write_text

FRAMES = "TVQA/video-frames/frames_hq"
MISSING = "TVQA/missing_clips.txt"
SUBTITLES = "TVQA/tvqa_preprocessed_subtitles.jsonl"
SPLITS = ("train", "val", "test_public")
UNANSWERED = "test_public"
FOLDERS = {
    "Grey's Anatomy": "grey_frames",
    "How I Met You Mother": "met_frames",  # so spelt
    "The Big Bang Theory": "bbt_frames",
    "House M.D.": "house_frames",
    "Castle": "castle_frames",
    "Friends": "friends_frames",
}
CORRUPT = (
    "grey_s03e15_seg02_clip_05/video_00001_00051.mp4",
    "castle_s08e08_seg02_clip_14/video_00001_00019.mp4",
)


def tvqa(disk: Disk, split: str, with_subtitle: bool) -> Iterator[Record]:
    """``TVQA/tvqa_{train,val,test_public}.jsonl``: q, a0 to a4, answer_idx (not for the test), ts
    ("start-end"), vid_name, show_name; and with_subtitle
    ``TVQA/tvqa_preprocessed_subtitles.jsonl``: vid_name, sub (start, end, text). Clips are listed
    in ``TVQA/missing_clips.txt`` that have no frames."""
    missing = set(disk.lines(MISSING)) if disk.exists(MISSING) else set()
    rows = disk.jsonl(SUBTITLES) if with_subtitle else ()
    subtitles = disk.lookup(rows, lambda r: (r["vid_name"], subtitle_lines(r["sub"])))

    def message(row: Row) -> Record:
        (line, clip), (start, end) = _clip(row), _span(row)
        LeftOut.when(line in missing, "the clip is listed as missing")
        LeftOut.when(clip.endswith(CORRUPT), "the clip is known to be corrupt")
        found = subtitles.get(row["vid_name"], [])
        lines = [[s - start, e - start, text] for s, e, text in found if e > start and s < end]
        shown: Record = {"video": clip, "metadata": {k: row[k] for k in ("show_name", "ts")}}
        if lines:
            shown["subtitle"] = lines
        options = [row[f"a{i}"] for i in range(5)]
        style = MC_SUBTITLE if lines else MC
        if split == UNANSWERED:
            return shown | {"question": as_text(row["q"]), "options": options, "style": style}
        return shown | choice(row["q"], options, row["answer_idx"], style)

    return disk.each(disk.jsonl(f"TVQA/tvqa_{split}.jsonl"), message)


def _span(row: Row) -> tuple[float, float]:
    start, end = map(float, row["ts"].split("-"))
    LeftOut.when(not math.isfinite(start + end), "its time is not a number")
    return start, end


def _clip(row: Row) -> tuple[str, str]:
    """A row as ``missing_clips.txt`` names it, and the path of its clip."""
    span = _span(row)
    Flaw.when(row["show_name"] not in FOLDERS, "an unknown show")
    folder = f"{FOLDERS[row['show_name']]}/{row['vid_name']}"
    return f"{folder}:{row['ts']}", frame_clip(f"{FRAMES}/{folder}", *span)


def list_missing_clips(disk: Disk) -> int:
    """After the clips were made of their frames: write ``missing_clips.txt``, if it is absent, for
    the rows of all splits that have no clip. Returns how many. Nothing is written as long as no
    clip is there at all."""
    if disk.exists(MISSING):
        return 0
    files = [f for split in SPLITS if disk.exists(f := f"TVQA/tvqa_{split}.jsonl")]
    clips = disk.lookup(itertools.chain.from_iterable(map(disk.jsonl, files)), _clip)
    absent = [line for line, clip in clips.items() if not disk.exists(clip)]
    if len(absent) == len(clips):
        return 0
    write_text(disk.home / MISSING, "".join(f"{line}\n" for line in absent))
    return len(absent)
