"""Video sets whose answers are spans, objects or ready-made conversations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.declare import VIDEO_ACADEMIC, Record, by_media, dataset
from olmo.data.datasets.disk import Disk, pick
from olmo.data.datasets.sources import HubFiles, Manual, WebFile
from olmo.data.datasets.video_qa import MC, SA, TRAIN_VAL

GROUPS = (VIDEO_ACADEMIC,)

# --- QVHighlights ------------------------------------------------------------------------------

QV_QUESTION = (
    "Here is a query: {query} Where are all the segments for the query? "
    "Report the segments in seconds."
)
QV_MAX_WINDOWS = 5
QV_CLIP_S = 2
QV_TOP_SCORE = 4
QV_SITE = "https://raw.githubusercontent.com/jayleicn/moment_detr/main/data"


@dataset(
    "qv_highlights",
    TRAIN_VAL,
    files=("QVHighlights/highlight_{split}_release.jsonl",),
    media=("QVHighlights/videos",),
    sources=(
        *(
            WebFile(
                f"{QV_SITE}/highlight_{split}_release.jsonl",
                f"QVHighlights/highlight_{split}_release.jsonl",
            )
            for split in ("train", "val")
        ),
        WebFile(
            "https://nlp.cs.unc.edu/data/jielei/qvh/qvhilights_videos.tar.gz",
            "QVHighlights",
            unpack=True,
        ),
    ),
    groups=GROUPS,
)
def qv_highlights(disk: Disk, split: str) -> Iterator[Record]:
    """Queries with more than five windows are left out."""
    kept = ("query", "duration", "relevant_windows", "relevant_clip_ids", "saliency_scores")
    for row in disk.jsonl(f"QVHighlights/highlight_{split}_release.jsonl"):
        windows = row["relevant_windows"]
        if len(windows) > QV_MAX_WINDOWS:
            continue
        video = f"QVHighlights/videos/{row['vid']}.mp4"
        yield {
            "question": QV_QUESTION.format(query=row["query"]),
            "answer": "Segments: " + ", ".join(f"[{start}-{end}]" for start, end in windows),
            "video": video,
            "metadata": {
                "example_id": f"{row['qid']}_{row['vid']}",
                "video_path": str(disk.home / video),
                **{k: row[k] for k in kept},
                "scaled_avg_scores": _clip_scores(row),
                "frame_sel_input": row["query"].rstrip("."),
            },
            "style": SA,
        }


def _clip_scores(row: dict[str, Any]) -> list[float]:
    """Mean saliency of every 2 s clip, 0 to 1; clips without a score have 0."""
    scores = [0.0] * (int(row["duration"]) // QV_CLIP_S)
    for i, votes in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
        if i < len(scores):
            scores[i] = sum(votes) / len(votes) / QV_TOP_SCORE
    return scores


# --- ready-made conversations ------------------------------------------------------------------


@dataset(
    "ego4d_all",
    {"train": "train", "validation": "val"},
    files=("Ego4d/ego4d_cached_{split}_metadata.jsonl",),
    media=("Ego4d/ego4d-clips",),
    sources=(
        Manual(
            "ego4d_cached_train_metadata.jsonl (lines with 'clip' and 'message_list') goes to "
            "Ego4d, the clips to Ego4d/ego4d-clips",
            "https://ego4d-data.org",
        ),
    ),
    groups=GROUPS,
)
def ego4d(disk: Disk, split: str) -> Iterator[Record]:
    for row in disk.jsonl(f"Ego4d/ego4d_cached_{split}_metadata.jsonl"):
        name = str(pick(row, "clip", "video"))
        yield {"video": f"Ego4d/ego4d-clips/{name}", "message_list": row["message_list"]}


@dataset(
    "video_localized_narratives_caption",
    {"train": "train"},
    files=("video-localized-narratives/hf_dataset",),
    media=("oops", "kinetics", "UVO", "OVIS"),
    sources=(
        HubFiles(
            "allenai/Molmo2-VideoLocalizedNarrativesCaptionHf",
            "video-localized-narratives/hf_dataset",
            table=(("train", "*.parquet"),),
        ),
        Manual("videos go to oops, kinetics, UVO and OVIS, as the column 'video' names them"),
    ),
    groups=GROUPS,
)
def narrative_captions(disk: Disk, split: str) -> Iterator[Record]:
    for row in disk.table_rows("video-localized-narratives/hf_dataset", split):
        messages = [
            {"text": text, "object": actor, "style": "video_object_caption"}
            for text, actor in zip(row["captions"], row["actor_names"], strict=True)
        ]
        yield {"video": pick(row, "video", "video_path"), "message_list": messages}


# --- LLaVA-Video-178K --------------------------------------------------------------------------

LLAVA = "LLaVA-Video-178K"
LLAVA_MC = (
    "0_30_s_perceptiontest",
    "30_60_s_perceptiontest",
    "0_30_s_nextqa",
    "30_60_s_nextqa",
    "1_2_m_nextqa",
    "2_3_m_nextqa",
)
LLAVA_OE = tuple(
    f"{length}_{name}"
    for name in ("activitynetqa", "nextqa")
    for length in ("0_30_s", "30_60_s", "1_2_m", "2_3_m")
)


def _llava_source(folders: tuple[str, ...]) -> tuple[HubFiles, ...]:
    patterns = tuple(f"{folder}/*" for folder in folders)
    return (HubFiles("lmms-lab/LLaVA-Video-178K", LLAVA, patterns, unpack=True),)


def _llava(
    disk: Disk, folders: tuple[str, ...], kind: str, style: str, name: str
) -> Iterator[Record]:
    """One record per video. The human turn holds options and instruction already."""
    ids: dict[str, dict[str, str]] = {}
    pairs: list[tuple[str, Record]] = []
    for folder in folders:
        prefix = f"{folder}/*{kind}*.json"
        for file in disk.glob(f"{LLAVA}/{prefix}"):
            for row in disk.rows(file):
                video = "/".join([LLAVA, row["data_source"], row["video"]])
                example_id = "_".join([str(row["id"]), row["data_source"], row["video"], name])
                ids.setdefault(video, {"example_id": example_id, "prefix": prefix})
                turns = [str(turn["value"]) for turn in row["conversations"]]
                for question, answer in zip(turns[::2], turns[1::2], strict=True):
                    question = question.replace("<image>\n", "").strip()
                    message = {"answer": answer.strip(), "question": question, "style": style}
                    pairs.append((video, message))
    return (r | {"metadata": ids[r["video"]]} for r in by_media(pairs))


@dataset(
    "llava_video_mc_academic",
    {"train": "train"},
    files=tuple("/".join([LLAVA, folder, "*mc*.json"]) for folder in LLAVA_MC),
    media=(LLAVA,),
    sources=_llava_source(LLAVA_MC),
    groups=GROUPS,
)
def llava_mc(disk: Disk, split: str) -> Iterator[Record]:
    return _llava(disk, LLAVA_MC, "mc", MC, "multi_choice")


@dataset(
    "llava_video_oe_academic",
    {"train": "train"},
    files=tuple("/".join([LLAVA, folder, "*oe*.json"]) for folder in LLAVA_OE),
    media=(LLAVA,),
    sources=_llava_source(LLAVA_OE),
    groups=GROUPS,
)
def llava_oe(disk: Disk, split: str) -> Iterator[Record]:
    return _llava(disk, LLAVA_OE, "oe", SA, "open_ended")
