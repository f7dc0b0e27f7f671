"""Image QA with annotation files and folders of images, in the layout that each set is published
in; a folder per set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from olmo.data.datasets.declare import (
    IMAGE_ACADEMIC,
    IMAGE_HOME,
    SINGLE_IMAGE,
    Record,
    by_media,
    dataset,
)
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.sources import Manual, WebFile

TRAIN_VAL = {"train": "train", "validation": "val"}
COCO = Manual(
    "COCO images go to coco/train2014, coco/val2014, coco/train2017 and coco/val2017",
    "https://cocodataset.org/#download",
)
Pairs = Iterator[tuple[str, Record]]


def image_qa(
    name: str,
    splits: dict[str, str],
    files: tuple[str, ...],
    media: tuple[str, ...],
    *sources: Manual | WebFile,
    group: str = IMAGE_ACADEMIC,
) -> Callable[[Callable[[Disk, str], Pairs]], Callable[[Disk, str], Pairs]]:
    """Decorator for a function that yields pairs of image path and message."""

    def add(pairs: Callable[[Disk, str], Pairs]) -> Callable[[Disk, str], Pairs]:
        @dataset(
            name,
            splits,
            files=files,
            media=media,
            sources=sources,
            groups=(group,),
            home=IMAGE_HOME,
        )
        def read(disk: Disk, split: str) -> Iterator[Record]:
            return by_media(pairs(disk, split), "image")

        return pairs

    return add


# --- questions on COCO images ------------------------------------------------------------------


def _vqa(disk: Disk, questions: str, annotations: str, split: str, style: str) -> Pairs:
    answers = {
        row["question_id"]: [a["answer"] for a in row["answers"]]
        for row in disk.rows(annotations, "annotations")
    }
    for row in disk.rows(questions, "questions"):
        image = f"coco/{split}2014/COCO_{split}2014_{row['image_id']:012d}.jpg"
        given = answers[row["question_id"]]
        yield image, {"question": row["question"], "answers": given, "style": style}


VQA_SITE = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"


VQA_FILES = (
    "vqa2/v2_OpenEnded_mscoco_{split}2014_questions.json",
    "vqa2/v2_mscoco_{split}2014_annotations.json",
)
VQA_SOURCES: tuple[Manual | WebFile, ...] = (
    *(
        WebFile(f"{VQA_SITE}/v2_{kind}_{split}_mscoco.zip", "vqa2", unpack=True)
        for kind in ("Questions", "Annotations")
        for split in ("Train", "Val")
    ),
    COCO,
)


@image_qa("coco_2014_vqa", TRAIN_VAL, VQA_FILES, ("coco",), *VQA_SOURCES, group=SINGLE_IMAGE)
@image_qa("coco_2014_vqa_multi", TRAIN_VAL, VQA_FILES, ("coco",), *VQA_SOURCES)
def vqa2(disk: Disk, split: str) -> Pairs:
    questions = f"vqa2/v2_OpenEnded_mscoco_{split}2014_questions.json"
    annotations = f"vqa2/v2_mscoco_{split}2014_annotations.json"
    return _vqa(disk, questions, annotations, split, "vqa2")


OKVQA_SITE = "https://okvqa.allenai.org/static/data"


@image_qa(
    "okvqa",
    TRAIN_VAL,
    (
        "okvqa/OpenEnded_mscoco_{split}2014_questions.json",
        "okvqa/mscoco_{split}2014_annotations.json",
    ),
    ("coco",),
    *(
        WebFile(f"{OKVQA_SITE}/{name}_{split}2014_{kind}.json.zip", "okvqa", unpack=True)
        for name, kind in (("OpenEnded_mscoco", "questions"), ("mscoco", "annotations"))
        for split in ("train", "val")
    ),
    COCO,
)
def okvqa(disk: Disk, split: str) -> Pairs:
    questions = f"okvqa/OpenEnded_mscoco_{split}2014_questions.json"
    annotations = f"okvqa/mscoco_{split}2014_annotations.json"
    return _vqa(disk, questions, annotations, split, "okvqa")


AOKVQA_FILES = ("aokvqa/aokvqa_v1p0_{split}.json",)
AOKVQA_SOURCE = WebFile(
    "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz",
    "aokvqa",
    unpack=True,
)


def _aokvqa(disk: Disk, split: str) -> Iterator[tuple[str, Record]]:
    for row in disk.rows(f"aokvqa/aokvqa_v1p0_{split}.json"):
        yield f"coco/{split}2017/{row['image_id']:012d}.jpg", row


@image_qa("a_okvqa_mc", TRAIN_VAL, AOKVQA_FILES, ("coco",), AOKVQA_SOURCE, COCO)
def a_okvqa_mc(disk: Disk, split: str) -> Pairs:
    for image, row in _aokvqa(disk, split):
        message = {"question": row["question"], "options": row["choices"], "style": "a_okvqa_mc"}
        yield image, message | {"answer_idx": int(row["correct_choice_idx"])}


@image_qa("a_okvqa_da", TRAIN_VAL, AOKVQA_FILES, ("coco",), AOKVQA_SOURCE, COCO)
def a_okvqa_da(disk: Disk, split: str) -> Pairs:
    for image, row in _aokvqa(disk, split):
        message = {"question": row["question"], "answers": row["direct_answers"]}
        yield image, message | {"style": "a_okvqa_da"}


@image_qa(
    "tally_qa",
    {"train": "train", "test": "test"},
    ("tally_qa/{split}.json",),
    ("tally_qa/train2014", "tally_qa/val2014", "tally_qa/VG_100K", "tally_qa/VG_100K_2"),
    Manual(
        "train.json and test.json go to tally_qa; COCO 2014 and Visual Genome images beside them "
        "(train2014/, val2014/, VG_100K/, VG_100K_2/)",
        "https://github.com/manoja328/TallyQA_dataset",
    ),
)
def tally_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"tally_qa/{split}.json"):
        message = {"question": row["question"], "answer": str(row["answer"]), "style": "tally_qa"}
        yield f"tally_qa/{row['image']}", message


# --- text in images and documents --------------------------------------------------------------


def answered(row: dict[str, Any], style: str) -> Record:
    """A question with several accepted answers."""
    return {"question": row["question"], "answers": row["answers"], "style": style}


@image_qa(
    "text_vqa",
    TRAIN_VAL,
    ("text_vqa/TextVQA_0.5.1_{split}.json",),
    ("text_vqa/train_images",),
    *(
        WebFile(
            f"https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_{split}.json",
            f"text_vqa/TextVQA_0.5.1_{split}.json",
        )
        for split in ("train", "val")
    ),
    WebFile(
        "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        "text_vqa",
        unpack=True,
    ),
)
def text_vqa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"text_vqa/TextVQA_0.5.1_{split}.json"):
        yield f"text_vqa/train_images/{row['image_id']}.jpg", answered(row, "text_vqa")


RRC = "https://rrc.cvc.uab.es"


@image_qa(
    "doc_qa",
    TRAIN_VAL,
    ("doc_qa/{split}_v1.0_withQT.json",),
    ("doc_qa/documents",),
    Manual("SP-DocVQA: train_ and val_v1.0_withQT.json and documents/ go to doc_qa", RRC),
)
def doc_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"doc_qa/{split}_v1.0_withQT.json"):
        yield f"doc_qa/{row['image']}", answered(row, "doc_qa")


@image_qa(
    "info_qa",
    {"train": "train_v1.0", "validation": "val_v1.0_withQT"},
    ("info_qa/infographicsVQA_{split}.json",),
    ("info_qa/infographicsvqa_images",),
    Manual("InfographicVQA: the json files and infographicsvqa_images/ go to info_qa", RRC),
)
def info_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"info_qa/infographicsVQA_{split}.json"):
        image = f"info_qa/infographicsvqa_images/{row['image_local_name']}"
        yield image, answered(row, "info_qa")


@image_qa(
    "st_qa",
    {"train": "train"},
    ("st_qa/{split}_task_3.json",),
    ("st_qa",),
    Manual("ST-VQA, task 3: train_task_3.json and the images go to st_qa", RRC),
)
def st_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"st_qa/{split}_task_3.json"):
        yield f"st_qa/{row['file_path']}", answered(row, "st_qa")
