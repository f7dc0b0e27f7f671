"""Video QA with nested annotations or clips of longer videos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.declare import Record, by_media, dataset
from olmo.data.datasets.disk import Disk, pick, structs
from olmo.data.datasets.draws import INSERT, SHUFFLE, WORDING
from olmo.data.datasets.sources import HubFiles, Manual
from olmo.data.datasets.video_qa import CHARADES, GROUPS, MC, TRAIN_VAL_TEST, choice, short

# --- Paxion ------------------------------------------------------------------------------------

PAXION_WORDINGS = [
    "Which of these describes the action in the video?",
    "Which description fits what happens in the video?",
    "What action takes place in the video?",
]
NOT_SURE = "Not sure"
PAXION_EGO = "paxion/ego4d/egoclip_subset_action_antonyms_train_val_test_split"


@dataset(
    "paxion",
    TRAIN_VAL_TEST,
    files=("paxion/ssv2/antonyms/{split}_with_rel_path.json", PAXION_EGO + "/{split}.jsonl"),
    media=("sth-sth-v2/videos", "paxion-ego4d-clips"),
    sources=(
        HubFiles("allenai/Molmo2-Paxion", "paxion"),
        Manual(
            "Something-Something v2 goes to sth-sth-v2/videos",
            "https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
        ),
        Manual(
            "Ego4D clips go to paxion-ego4d-clips/<uid>_<start>_<end>.mp4 (seconds, 3 decimals)",
            "https://ego4d-data.org",
        ),
    ),
    groups=GROUPS,
)
def paxion(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_paxion_messages(disk, split))


def _paxion_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for row in disk.rows(f"paxion/ssv2/antonyms/{split}_with_rel_path.json"):
        yield f"sth-sth-v2/videos/{row['rel_vid_path']}", _antonym_choice(row)
    for row in disk.jsonl(f"{PAXION_EGO}/{split}.jsonl"):
        start, end = float(row["clip_start"]), float(row["clip_end"])
        uid = pick(row, "video_uid", "uid")
        yield f"paxion-ego4d-clips/{uid}_{start:.3f}_{end:.3f}.mp4", _antonym_choice(row)


def _antonym_choice(row: dict[str, Any]) -> Record:
    label = pick(row, "label", "clip_text")
    antonym = pick(row, "antonym", "label_antonym", "clip_antonym_text", "antonym_clip_text")
    return {
        "wordings": PAXION_WORDINGS,
        "options": [label, antonym, NOT_SURE],
        "answer_idx": 0,
        "style": MC,
        "draw": [WORDING, SHUFFLE],
    }


# --- CLEVRER, FunQA, STAR, CameraBench ---------------------------------------------------------

CLEVRER_SPLITS = {"train": "train", "validation": "validation", "test": "test"}


@dataset(
    "clevrer",
    CLEVRER_SPLITS,
    files=("CLEVRER/{split}.json",),
    media=("CLEVRER",),
    sources=(
        Manual(
            "train.json, validation.json and test.json go to CLEVRER; unpack the videos there",
            "http://clevrer.csail.mit.edu",
        ),
    ),
    groups=GROUPS,
)
def clevrer(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_clevrer_messages(disk, split))


def _clevrer_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for row in disk.rows(f"CLEVRER/{split}.json"):
        file = row["video_filename"]
        thousand = int(file.removeprefix("video_").partition(".")[0]) // 1000
        folder = f"video_{thousand * 1000:05d}-{(thousand + 1) * 1000:05d}"
        for qa in row["questions"]:
            right = [i for i, c in enumerate(qa.get("choices", [])) if c.get("answer") == "correct"]
            if "choices" not in qa and "answer" in qa:
                yield f"CLEVRER/{folder}/{file}", short(qa["question"], qa["answer"])
            elif len(right) == 1:
                options = [c["choice"] for c in qa["choices"]]
                yield f"CLEVRER/{folder}/{file}", choice(qa["question"], options, right[0])


FUNQA_FOLDERS = {"H": "humor", "C": "creative", "M": "magic"}
FUNQA_OTHER_TASKS = ("H1", "C1", "M1", "C4", "C5")
"""Tasks that ask for time stamps, titles or scores."""
FUNQA_CHOICE = "FunQA/Funqa_mcqa_v1.json"


@dataset(
    "funqa",
    TRAIN_VAL_TEST,
    files=("FunQA/FunQA_{split}.json", FUNQA_CHOICE),
    media=("FunQA",),
    sources=(HubFiles("fesvhtr/FunQA", "FunQA", unpack=True),),
    groups=GROUPS,
)
def funqa(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(_funqa_messages(disk, split))


def _funqa_messages(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    def video(row: dict[str, Any]) -> str:
        kind = FUNQA_FOLDERS[row["visual_input"][0]]
        return "/".join(["FunQA", split, f"{split}_{kind}", row["visual_input"]])

    for row in disk.rows(f"FunQA/FunQA_{split}.json"):
        if row["task"] not in FUNQA_OTHER_TASKS:
            yield video(row), short(row["instruction"], row["output"])
    for row in disk.rows(FUNQA_CHOICE):
        if disk.exists(video(row)):  # one file for the videos of all splits
            question = pick(row, "question", "instruction")
            yield video(row), choice(question, row["options"], int(row["gt"]) - 1)


STAR_SPLITS = {"train": "train", "validation": "val"}
STAR_SOURCES = (
    Manual("STAR_train_qa.json and STAR_val_qa.json go to STAR", "https://bobbywu.com/STAR"),
    CHARADES,
)
STAR_MAX_MESSAGES = 10


@dataset(
    "star",
    STAR_SPLITS,
    files=("STAR/STAR_{split}_qa.json",),
    media=("Charades/Charades_v1",),
    sources=STAR_SOURCES,
    groups=GROUPS,
)
def star(disk: Disk, split: str) -> Iterator[Record]:
    return _star(disk, split, open_ended=True)


@dataset(
    "star_mc",
    STAR_SPLITS,
    files=("STAR/STAR_{split}_qa.json",),
    media=("Charades/Charades_v1",),
    sources=STAR_SOURCES,
)
def star_mc(disk: Disk, split: str) -> Iterator[Record]:
    return _star(disk, split, open_ended=False)


def _star(disk: Disk, split: str, open_ended: bool) -> Iterator[Record]:
    clips: dict[tuple[str, float, float], list[Record]] = {}
    for row in disk.rows(f"STAR/STAR_{split}_qa.json"):
        options = [c["choice"] for c in row["choices"]]
        messages = clips.setdefault((row["video_id"], row["start"], row["end"]), [])
        if open_ended:
            messages.append(short(row["question"], row["answer"]))
        messages.append(choice(row["question"], options, options.index(row["answer"])))
    for (name, start, end), messages in clips.items():
        for i in range(0, len(messages), STAR_MAX_MESSAGES):
            yield {
                "video": f"Charades/Charades_v1/{name}.mp4",
                "message_list": messages[i : i + STAR_MAX_MESSAGES],
                "metadata": {"clip_start_time": start, "clip_end_time": end},
            }


@dataset(
    "camerabench_qa",
    {"train": "train"},
    files=("CameraBench/camerabench_qa.parquet",),
    media=("CameraBench/train",),
    sources=(
        HubFiles("allenai/Molmo2-CameraBenchTrain", "CameraBench", ("camerabench_qa.parquet",)),
        Manual("videos go to CameraBench/train", "https://github.com/sy77777en/CameraBench"),
    ),
    groups=GROUPS,
)
def camerabench(disk: Disk, split: str) -> Iterator[Record]:
    return by_media(
        (f"CameraBench/train/{row['video_path']}", negatives_choice(qa))
        for row in disk.parquet("CameraBench/camerabench_qa.parquet")
        for qa in structs(row["mc_qa_list"])
    )


def negatives_choice(qa: dict[str, Any]) -> Record:
    """Multiple choice of ``Question``, ``Answer`` and ``NegativeAnswers``."""
    return {
        "question": qa["Question"],
        "negatives": list(qa["NegativeAnswers"]),
        "answer": qa["Answer"],
        "style": MC,
        "draw": [INSERT],
    }
