"""QA on charts, tables and diagrams, in the layout that each set is published in."""

from __future__ import annotations

from olmo.data.datasets.declare import SINGLE_IMAGE
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.image_qa import TRAIN_VAL, Pairs, image_qa
from olmo.data.datasets.sources import Manual, WebFile


@image_qa(
    "tabwmp_da",
    {"train": "train", "validation": "dev", "test": "test"},
    ("tabmwp/problems_{split}.json",),
    ("tabmwp/tables",),
    Manual(
        "problems_train.json, ... and tables/ of data/tabmwp go to tabmwp",
        "https://github.com/lupantech/PromptPG",
    ),
)
def tabmwp(disk: Disk, split: str) -> Pairs:
    for name, row in disk.items(f"tabmwp/problems_{split}.json"):
        message = {"question": row["question"], "answer": row["answer"], "style": "tabwmp_da"}
        yield f"tabmwp/tables/{name}.png", message


@image_qa(
    "dv_qa",
    {"train": "train", "validation": "val_easy"},
    ("dvqa/{split}_qa.json",),
    ("dvqa/images",),
    Manual("train_qa.json, val_easy_qa.json and images/ go to dvqa", "https://kushalkafle.com"),
)
def dv_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"dvqa/{split}_qa.json"):
        message = {"question": row["question"], "answer": str(row["answer"]), "style": "dv_qa"}
        yield f"dvqa/images/{row['image']}", message


@image_qa(
    "figure_qa",
    {"train": "train1", "validation": "validation1"},
    ("figureqa/{split}/qa_pairs.json",),
    ("figureqa",),
    Manual(
        "unpack train1 and validation1 to figureqa",
        "https://www.microsoft.com/en-us/research/project/figureqa-dataset",
    ),
)
def figure_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"figureqa/{split}/qa_pairs.json", "qa_pairs"):
        answer = ("no", "yes")[int(row["answer"])]
        message = {"question": row["question_string"], "answer": answer, "style": "figure_qa"}
        yield "/".join(["figureqa", split, "png", f"{row['image_index']}.png"]), message


@image_qa(
    "plot_qa",
    TRAIN_VAL,
    ("plotqa/{split}/qa_pairs_V2.json",),
    ("plotqa",),
    Manual(
        "qa_pairs_V2.json and png/ go to plotqa/train and plotqa/val",
        "https://github.com/NiteshMethani/PlotQA",
    ),
)
def plot_qa(disk: Disk, split: str) -> Pairs:
    for row in disk.rows(f"plotqa/{split}/qa_pairs_V2.json", "qa_pairs"):
        answer = str(row["answer"])
        message = {"question": row["question_string"], "answer": answer, "style": "plot_qa"}
        yield "/".join(["plotqa", split, "png", f"{row['image_index']}.png"]), message


AI2D_FILES = ("ai2d/ai2d_test_ids.csv", "ai2d/questions/*.json")
AI2D_MEDIA = ("ai2d/images", "ai2d/abc_images")
AI2D_SOURCES = (
    WebFile("https://ai2-public-datasets.s3.amazonaws.com/diagrams/ai2d-all.zip", "", unpack=True),
    WebFile(
        "https://s3-us-east-2.amazonaws.com/prior-datasets/ai2d_test_ids.csv",
        "ai2d/ai2d_test_ids.csv",
    ),
    Manual("diagrams with their letters drawn in go to ai2d/abc_images, under the same names"),
)
TRAIN, TEST = {"train": "train"}, {"test": "test"}


@image_qa("ai2_diagram", TEST, AI2D_FILES, AI2D_MEDIA, *AI2D_SOURCES, group=SINGLE_IMAGE)
@image_qa("ai2_diagram_v2_mix_transparent", TRAIN, AI2D_FILES, AI2D_MEDIA, *AI2D_SOURCES)
def ai2d(disk: Disk, split: str) -> Pairs:
    """Questions on letters in a diagram take the image from ``abc_images``; their options are
    those letters, so they are not labelled a second time."""
    test = {line.removesuffix(".png") for line in disk.lines("ai2d/ai2d_test_ids.csv")}
    for file in disk.glob("ai2d/questions/*.json"):
        name = file.rpartition("/")[2].removesuffix(".json")
        if (name.removesuffix(".png") in test) != (split == "test"):
            continue
        for question, row in disk.items(file, "questions"):
            message = {"question": question, "answer_idx": int(row["correctAnswer"])}
            if row["abcLabel"]:
                message |= {"unlabelled_options": row["answerTexts"]}
                yield f"ai2d/abc_images/{name}", message | {"style": "ai2_diagram_no_letter"}
            else:
                message |= {"options": row["answerTexts"]}
                yield f"ai2d/images/{name}", message | {"style": "ai2_diagram"}
