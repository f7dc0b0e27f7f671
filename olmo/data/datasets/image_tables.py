"""Image QA and captions from tables of the hub: images inside the table, or named by address."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from olmo.data.datasets.declare import (
    DEMO,
    IMAGE_ACADEMIC,
    IMAGE_HOME,
    SINGLE_IMAGE,
    dataset,
)
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.sources import HubFiles, LinkedImages
from olmo.data.datasets.tables import TableRecords, picture

Row = dict[str, Any]
Record = dict[str, Any]
PIXMO_IMAGES = "pixmo_images"
USER_QA = "user_qa"

# --- tables with images ------------------------------------------------------------------------


def _chart_qa(rows: list[Row]) -> Record:
    (row,) = rows
    answers = row["label"] if isinstance(row["label"], list) else [row["label"]]
    message = {"question": row["query"], "answers": answers, "style": "chart_qa"}
    kind = "augmented" if row["human_or_machine"] else "human"
    return {"image": picture(row["image"]), **message, "metadata": {"category": kind}}


CHART_SOURCE = HubFiles(
    "HuggingFaceM4/ChartQA",
    "ChartQA",
    table=tuple((split, f"data/{split}-*.parquet") for split in ("train", "val", "test")),
)


@dataset(
    "chart_qa",
    {"train": "train", "validation": "val", "test": "test"},
    files=("ChartQA",),
    media=("ChartQA",),
    sources=(CHART_SOURCE,),
    groups=(SINGLE_IMAGE,),
    home=IMAGE_HOME,
)
def chart_qa(disk: Disk, split: str) -> TableRecords:
    return TableRecords.single(disk.table("ChartQA", split), _chart_qa)


@dataset(
    "chart_qa_weighted",
    {"train": "train"},
    files=("ChartQA",),
    media=("ChartQA",),
    sources=(CHART_SOURCE,),
    groups=(IMAGE_ACADEMIC,),
    home=IMAGE_HOME,
)
def chart_qa_weighted(disk: Disk, split: str) -> TableRecords:
    """The questions that people wrote are repeated, so that they are about as many as the
    generated ones."""
    rows = disk.table("ChartQA", split)
    generated = np.asarray(rows.column("human_or_machine")).astype(bool)
    human, machine = np.flatnonzero(~generated), np.flatnonzero(generated)
    repeats = max(round(len(machine) / max(len(human), 1)), 1)
    order = np.concatenate([np.repeat(human, repeats), machine])
    return TableRecords.single(rows, _chart_qa, order)


def _science_qa(rows: list[Row]) -> Record:
    (row,) = rows
    question = "\n".join(part for part in (row.get("hint"), row["question"]) if part)
    message = {
        "question": question,
        "options": row["choices"],
        "answer_idx": int(row["answer"]),
        "style": "science_qa",
    }
    return {"image": picture(row["image"]), **message}


@dataset(
    "science_qa_img",
    {"train": "train", "validation": "validation", "test": "test"},
    files=("ScienceQA",),
    media=("ScienceQA",),
    sources=(
        HubFiles(
            "derek-thomas/ScienceQA",
            "ScienceQA",
            table=tuple(
                (split, f"data/{split}-*.parquet") for split in ("train", "validation", "test")
            ),
        ),
    ),
    groups=(IMAGE_ACADEMIC,),
    home=IMAGE_HOME,
)
def science_qa(disk: Disk, split: str) -> TableRecords:
    """Only questions with an image."""
    rows = disk.table("ScienceQA", split)
    with_image = [i for i, there in enumerate(rows.has_value("image")) if there]
    return TableRecords.single(rows, _science_qa, with_image)


def explained(pairs: Row, style: str) -> list[Record]:
    """Messages of a column of lists ``question``, ``answer`` and, where the style ends in
    ``_exp``, ``explanation``."""
    messages = []
    for i, (question, answer) in enumerate(zip(pairs["question"], pairs["answer"], strict=True)):
        message = {"question": question, "answer": answer, "style": style}
        explanation = pairs["explanation"][i] if style.endswith("_exp") else None
        messages.append(message | ({"explanation": explanation} if explanation else {}))
    return messages


def _cosyn(style: str, rows: list[Row]) -> Record:
    (row,) = rows
    return {"image": picture(row["image"]), "message_list": explained(row["qa_pairs"], style)}


def _declare_cosyn(kind: str, style: str) -> None:
    @dataset(
        style,
        {"train": "train"},
        files=(f"CoSyn-400K/{kind}",),
        media=("CoSyn-400K",),
        sources=(
            HubFiles(
                "allenai/CoSyn-400K",
                f"CoSyn-400K/{kind}",
                table=(("train", f"{kind}/train-*.parquet"),),
            ),
        ),
        groups=(IMAGE_ACADEMIC,),
        home=IMAGE_HOME,
    )
    def read(disk: Disk, split: str) -> TableRecords:
        rows = disk.table(f"CoSyn-400K/{kind}", split)
        return TableRecords.single(rows, partial(_cosyn, style))


for _kind in ("chart", "chemical", "diagram", "math", "music", "table"):
    _declare_cosyn(_kind, f"cosyn_{_kind}_exp")
_declare_cosyn("document", "cosyn_document")


def _real_world(rows: list[Row]) -> Record:
    (row,) = rows
    style = "eval_multiple_choice" if ONLY_LETTER in row["question"] else "eval_short_answer"
    return {
        "image": picture(row["image"]),
        "question": row["question"],
        "answer": row["answer"],
        "style": style,
    }


ONLY_LETTER = "only the letter"
"""Part of the instruction of those questions that have options."""


@dataset(
    "real_world_qa",
    {"test": "test"},
    files=("RealworldQA",),
    media=("RealworldQA",),
    sources=(
        HubFiles("xai-org/RealworldQA", "RealworldQA", table=(("test", "data/test-*.parquet"),)),
    ),
    groups=(SINGLE_IMAGE,),
    home=IMAGE_HOME,
)
def real_world_qa(disk: Disk, split: str) -> TableRecords:
    return TableRecords.single(disk.table("RealworldQA", split), _real_world)


# --- PixMo: tables with addresses of images ----------------------------------------------------


def pixmo_sources(repo: str, splits: tuple[str, ...] = ("train",)) -> tuple[HubFiles, LinkedImages]:
    """The table of a PixMo set, and its images."""
    folder = repo.rpartition("/")[2]
    table = HubFiles(repo, folder, table=tuple((s, f"data/{s}-*.parquet") for s in splits))
    return table, LinkedImages(folder, PIXMO_IMAGES)


def _captions(rows: list[Row]) -> Record:
    messages = [{"text": row["caption"], "style": "long_caption"} for row in rows]
    return {"message_list": messages}


@dataset(
    "pixmo_cap",
    {"train": "train"},
    files=("pixmo-cap",),
    media=(PIXMO_IMAGES,),
    sources=pixmo_sources("allenai/pixmo-cap"),
    groups=(DEMO,),
    home=IMAGE_HOME,
)
def pixmo_cap(disk: Disk, split: str) -> TableRecords:
    return TableRecords.by_address(disk.table("pixmo-cap", split), _captions, PIXMO_IMAGES)


def _user_questions(rows: list[Row]) -> Record:
    """Questions may be wrapped as ``[USER] ... [ASSISTANT]``."""
    messages = []
    for row in rows:
        question = row["question"].replace("[USER]", "").replace("[ASSISTANT]", "").strip()
        messages.append({"question": question, "answer": row["answer"], "style": USER_QA})
    return {"message_list": messages}


@dataset(
    "pixmo_ask_model_anything",
    {"train": "train"},
    files=("pixmo-ask-model-anything",),
    media=(PIXMO_IMAGES,),
    sources=pixmo_sources("allenai/pixmo-ask-model-anything"),
    groups=(DEMO,),
    home=IMAGE_HOME,
)
def pixmo_ask_model_anything(disk: Disk, split: str) -> TableRecords:
    rows = disk.table("pixmo-ask-model-anything", split)
    return TableRecords.by_address(rows, _user_questions, PIXMO_IMAGES)


@dataset(
    "pixmo_cap_qa_as_user_qa",
    {"train": "train"},
    files=("pixmo-cap-qa",),
    media=(PIXMO_IMAGES,),
    sources=pixmo_sources("allenai/pixmo-cap-qa"),
    groups=(DEMO,),
    home=IMAGE_HOME,
)
def pixmo_cap_qa(disk: Disk, split: str) -> TableRecords:
    rows = disk.table("pixmo-cap-qa", split)
    return TableRecords.by_address(rows, _user_questions, PIXMO_IMAGES)
