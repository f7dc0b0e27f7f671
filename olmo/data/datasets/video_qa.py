"""Multiple choice (MC) on whole videos, one annotation file per split; some sets ask for a short
answer (SA) as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.declare import VIDEO_ACADEMIC, Record, by_media, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.draws import INSERT
from olmo.data.datasets.sources import HubFiles, Manual, WebFile

MC, SA = "video_multiple_choice", "video_short_answer"
TRAIN_VAL = {"train": "train", "validation": "val"}
TRAIN_VAL_TEST = {**TRAIN_VAL, "test": "test"}
CHARADES = Manual(
    "Charades videos (480p) go to Charades/Charades_v1",
    "https://prior.allenai.org/projects/charades",
)
GROUPS = (VIDEO_ACADEMIC,)


def choice(question: str, options: list[str], answer_idx: int) -> Record:
    """A multiple-choice message."""
    if not 0 <= answer_idx < len(options):
        raise ValueError(f"answer {answer_idx} is not one of {len(options)} options")
    return {"question": question, "options": options, "answer_idx": answer_idx, "style": MC}


def short(question: str, answer: Any) -> Record:
    """A short-answer message."""
    return {"question": question, "answer": str(answer), "style": SA}


# --- TGIF-QA -----------------------------------------------------------------------------------

TGIF_KINDS = ("action", "count", "transition", "frameqa")
TGIF_CHOICE = ("action", "transition")


@dataset(
    "tgif",
    {"train": "Train", "validation": "Test", "test": "Test"},
    files=tuple(f"TGIF/{{split}}_{kind}_question.csv" for kind in TGIF_KINDS),
    media=("TGIF/videos",),
    sources=(
        HubFiles("allenai/Molmo2-TGIF", "TGIF", ("*.csv",)),
        Manual(
            "get the GIFs of TGIF and convert each to TGIF/videos/<gif_name>.mp4",
            "https://github.com/raingo/TGIF-Release",
        ),
    ),
    groups=GROUPS,
)
def tgif(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_tgif_messages(disk, split))


def _tgif_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for kind in TGIF_KINDS:
        for row in disk.csv(f"TGIF/{split}_{kind}_question.csv", "\t"):
            video, answer = f"TGIF/videos/{row['gif_name']}.mp4", row["answer"]
            if kind in TGIF_CHOICE:
                options = [row[f"a{i}"] for i in range(1, 6)]
                yield video, choice(row["question"], options, int(answer))
                answer = options[int(answer)]
            yield video, short(row["question"], answer)


# --- sets with a table of options --------------------------------------------------------------


@dataset(
    "sutd_trafficqa",
    {"train": "train", "validation": "test", "test": "test"},
    files=("SUTD-TrafficQA/R2_{split}.jsonl",),
    media=("SUTD-TrafficQA/compressed_videos",),
    sources=(
        Manual(
            "R2_train.jsonl, R2_test.jsonl and compressed_videos/ go to SUTD-TrafficQA",
            "https://sutdcv.github.io/SUTD-TrafficQA",
        ),
    ),
    groups=GROUPS,
)
def sutd_trafficqa(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_sutd_messages(disk, split))


def _sutd_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    lines = disk.jsonl(f"SUTD-TrafficQA/R2_{split}.jsonl")
    header: list[str] = next(lines, [])
    for line in lines:
        row = dict(zip(header, line, strict=True))
        texts = [row[f"option{i}"] for i in range(4)]
        filled = [i for i, text in enumerate(texts) if text]
        if int(row["answer"]) not in filled:
            raise ValueError(f"the answer {row['answer']} is an empty option of {texts}")
        message = choice(
            row["q_body"], [texts[i] for i in filled], filled.index(int(row["answer"]))
        )
        yield f"SUTD-TrafficQA/compressed_videos/{row['vid_filename']}", message


@dataset(
    "social_iq2",
    TRAIN_VAL_TEST,
    files=("social-iq2/qa/qa_{split}.json",),
    media=("social-iq2/video",),
    sources=(
        HubFiles("PediaMedAI/Social-IQ-Video", "social-iq2", ("qa/*",)),
        Manual(
            "videos go to social-iq2/video/<vid_name>.mp4", "https://cmu-multicomp-lab.github.io"
        ),
    ),
    groups=GROUPS,
)
def social_iq2(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(
        (
            f"social-iq2/video/{row['vid_name']}.mp4",
            choice(row["q"], [row[f"a{i}"] for i in range(4)], int(row["answer_idx"])),
        )
        for row in disk.jsonl(f"social-iq2/qa/qa_{split}.json")
    )


HOW2QA_SITE = "https://raw.githubusercontent.com/ych133/How2R-and-How2QA/master"


@dataset(
    "how2qa",
    TRAIN_VAL,
    files=("how2QA/how2QA_{split}_release.csv",),
    media=("how2QA/video-clips",),
    sources=(
        WebFile(f"{HOW2QA_SITE}/how2QA_train_release.csv", "how2QA/how2QA_train_release.csv"),
        WebFile(f"{HOW2QA_SITE}/how2QA_val_release.csv", "how2QA/how2QA_val_release.csv"),
        Manual("cut the clips to how2QA/video-clips/<video>_<start>_<end>.<ext>"),
    ),
    groups=GROUPS,
)
def how2qa(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_how2qa_messages(disk, split))


def _how2qa_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for row in disk.cells(f"how2QA/how2QA_{split}_release.csv"):
        start, end = row[1].strip("[]").split(":")
        message = {
            "question": row[5],
            "negatives": row[2:5],
            "answer": row[6],
            "style": MC,
            "draw": [INSERT],
        }
        yield disk.with_extension(f"how2QA/video-clips/{row[0]}_{start}_{end}"), message


@dataset(
    "intent_qa",
    TRAIN_VAL_TEST,
    files=("IntentQA/{split}.csv",),
    media=("IntentQA/videos",),
    sources=(
        Manual(
            "train.csv, val.csv, test.csv and the NExT-QA videos (videos/<id>.mp4) go to IntentQA",
            "https://github.com/JoseponLee/IntentQA",
        ),
    ),
    groups=GROUPS,
)
def intent_qa(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_intent_messages(disk, split))


def _intent_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for row in disk.csv(f"IntentQA/{split}.csv"):
        video = f"IntentQA/videos/{row['video_id']}.mp4"
        options, right = [row[f"a{i}"] for i in range(5)], int(row["answer"])
        message = choice(row["question"], options, right)
        yield video, short(row["question"], options[right])
        yield video, message
