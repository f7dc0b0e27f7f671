"""Video QA with subtitles, and the synthetic questions on captioned web videos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.declare import VIDEO_ACADEMIC, Record, dataset
from olmo.data.datasets.disk import VIDEO_EXTENSIONS, Disk, pick, structs
from olmo.data.datasets.frame_clips import frame_clip
from olmo.data.datasets.sources import FrameClips, HubFiles, Manual
from olmo.data.datasets.video_qa import MC, choice
from olmo.data.datasets.video_reasoning import negatives_choice

MC_SUBTITLE = "video_multiple_choice_w_subtitle"
GROUPS = (VIDEO_ACADEMIC,)

# --- TVQA --------------------------------------------------------------------------------------

TVQA_SHOWS = ("grey", "met", "house", "castle", "friends")
TVQA_SUBTITLES = "TVQA/tvqa_preprocessed_subtitles.jsonl"
TVQA_SPLITS = {"train": "train", "validation": "val", "test": "test_public"}
TVQA_FILES = ("TVQA/tvqa_{split}.jsonl",)
TVQA_FRAMES = "TVQA/video-frames/frames_hq"
TVQA_SOURCES = (
    HubFiles("allenai/Molmo2-TVQA", "TVQA", ("*.jsonl", "missing_clips.txt")),
    Manual(f"unpack the 3 fps frames to {TVQA_FRAMES}", "https://nlp.cs.unc.edu/data/jielei/tvqa"),
    FrameClips("tvqa"),
)


@dataset(
    "tvqa",
    TVQA_SPLITS,
    files=TVQA_FILES,
    media=(TVQA_FRAMES,),
    sources=TVQA_SOURCES,
)
def tvqa(disk: Disk, split: str) -> Iterator[Record]:
    return _tvqa(disk, split, {})


@dataset(
    "tvqa_with_sub",
    TVQA_SPLITS,
    files=(*TVQA_FILES, TVQA_SUBTITLES),
    media=(TVQA_FRAMES,),
    sources=TVQA_SOURCES,
    groups=GROUPS,
)
def tvqa_with_sub(disk: Disk, split: str) -> Iterator[Record]:
    return _tvqa(disk, split, {r["vid_name"]: r["sub"] for r in disk.jsonl(TVQA_SUBTITLES)})


def _tvqa(disk: Disk, split: str, subtitles: dict[str, list[dict[str, Any]]]) -> Iterator[Record]:
    """One record per clip (a span of a folder of frames), with the subtitle lines it overlaps."""
    skip = "TVQA/missing_clips.txt"
    missing = set(disk.lines(skip)) if disk.exists(skip) else set()
    found: dict[str, Record] = {}
    for row in disk.jsonl(f"TVQA/tvqa_{split}.jsonl"):
        name = row["vid_name"]
        start, end = (float(t) for t in row["ts"].split("-"))
        if name in missing or not start < end:  # a few spans are "nan-nan"
            continue
        show = name.partition("_")[0]
        show = show if show in TVQA_SHOWS else "bbt"  # its names begin with the season
        video = frame_clip(f"{TVQA_FRAMES}/{show}_frames/{name}", start, end)
        lines = [
            [max(s["start"] - start, 0.0), min(s["end"], end) - start, s["text"]]
            for s in subtitles.get(name, [])
            if s["start"] < end and s["end"] > start
        ]
        message = choice(
            row["q"], [row[f"a{i}"] for i in range(5)], int(row.get("answer_idx", 0))
        ) | {"style": MC_SUBTITLE if lines else MC}
        if "answer_idx" not in row:  # the public test split has no answers
            del message["answer_idx"]
        record = found.setdefault(video, {"video": video, "message_list": []})
        if lines:
            record["subtitle"] = lines
        record["message_list"].append(message)
    yield from found.values()


# --- cinepile ----------------------------------------------------------------------------------

CINEPILE_SOURCES = (
    HubFiles("allenai/Molmo2-cinepile", "cinepile/hf_dataset", table=(("train", "*.parquet"),)),
    Manual(
        "videos go to cinepile/videos/<id>/<id>.mp4",
        "https://huggingface.co/datasets/tomg-group-umd/cinepile",
    ),
)


@dataset(
    "cinepile",
    {"train": "train"},
    files=("cinepile/hf_dataset",),
    media=("cinepile/videos",),
    sources=CINEPILE_SOURCES,
)
def cinepile(disk: Disk, split: str) -> Iterator[Record]:
    return _cinepile(disk, split, with_subtitle=False)


@dataset(
    "cinepile_with_sub",
    {"train": "train"},
    files=("cinepile/hf_dataset",),
    media=("cinepile/videos",),
    sources=CINEPILE_SOURCES,
    groups=GROUPS,
)
def cinepile_with_sub(disk: Disk, split: str) -> Iterator[Record]:
    return _cinepile(disk, split, with_subtitle=True)


def _cinepile(disk: Disk, split: str, with_subtitle: bool) -> Iterator[Record]:
    for row in disk.table_rows("cinepile/hf_dataset", split):
        name = pick(row, "id", "videoID", "video_id")
        text = (row.get("subtitles") or "").replace("<subtitle> ", "") if with_subtitle else ""
        messages = [
            choice(e["question"], e["choices"], int(e["answer_key_position"]))
            | {"style": MC_SUBTITLE if text else MC}
            for e in structs(row["examples"])
        ]
        video = "/".join(["cinepile/videos", name, f"{name}.mp4"])
        yield {"video": video, "message_list": messages} | ({"subtitle": text} if text else {})


# --- synthetic questions on captioned web videos -----------------------------------------------

WEB_VIDEOS = ("youtube-cc-exist", "youtube-cc-kw", "youtube-cc-temporal")
WEB_MEDIA = tuple(f"youtube-cc/{folder}" for folder in WEB_VIDEOS)
WEB_MANUAL = Manual(
    "the videos, named by their ids, go to youtube-cc/{" + ",".join(WEB_VIDEOS) + "}/<video_id>/",
    "https://huggingface.co/collections/allenai/molmo2-data",
)


def _synthetic(name: str, repo: str, table_split: str, with_subtitle: bool) -> None:
    @dataset(
        name,
        {"train": table_split},
        files=(repo,),
        media=WEB_MEDIA,
        sources=(
            HubFiles(f"allenai/{repo}", repo, table=((table_split, f"*{table_split}*.parquet"),)),
            WEB_MANUAL,
        ),
        groups=GROUPS,
    )
    def read(disk: Disk, split: str) -> Iterator[Record]:
        found: dict[str, Record] = {}
        for row in disk.table_rows(repo, split):
            video = web_video(disk, row["video_id"])
            record = found.setdefault(video, {"video": video, "message_list": []})
            record["message_list"].append(negatives_choice(row))
            if with_subtitle and row.get("subtitle"):
                record["subtitle"] = [
                    [s["start"], s["end"], s["text"]] for s in structs(row["subtitle"])
                ]
        yield from found.values()


def web_video(disk: Disk, video_id: str) -> str:
    """The video file in the folder of ``video_id``, in whichever place that folder is."""
    folders = ["/".join(["youtube-cc", place, video_id]) for place in WEB_VIDEOS]
    for folder in filter(disk.exists, folders):  # a listing per place, not per absent video
        for name in disk.names(folder):
            if name.rpartition(".")[2].lower() in VIDEO_EXTENSIONS:
                return f"{folder}/{name}"
    return f"{folders[0]}/{video_id}.mp4"


CAPTION_QA = ("Molmo2-VideoCapQA", "CapQA", False)
SUBTITLE_QA = ("Molmo2-VideoSubtitleQA", "SubtitleQA", True)
_synthetic("molmo2_syn_captions_qa", *CAPTION_QA)
_synthetic("molmo2_syn_captions_subtitle_qa", *SUBTITLE_QA)
