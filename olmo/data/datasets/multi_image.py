"""Training on several images: questions, documents, points and comparisons. Examples with more
than ``MAX_IMAGES`` images are left out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from olmo.data.datasets.declare import (
    DEMO,
    IMAGE_ACADEMIC,
    IMAGE_HOME,
    IMAGE_POINTING,
    Record,
    dataset,
)
from olmo.data.datasets.disk import Disk, structs
from olmo.data.datasets.draws import ONE_STYLE
from olmo.data.datasets.image_benchmarks import numbered
from olmo.data.datasets.image_tables import PIXMO_IMAGES, explained
from olmo.data.datasets.pointing import PERCENT, coordinates
from olmo.data.datasets.sources import HubFiles, LinkedImages
from olmo.data.datasets.tables import TableRecords, address_name, picture

Row = dict[str, Any]
MAX_IMAGES = 5
POINT_STYLES = ["multi_image_pointing", "multi_image_point_then_count"]


def several(images: list[Any]) -> bool:
    return 2 <= len(images) <= MAX_IMAGES


def linked(repo: str) -> tuple[HubFiles, LinkedImages]:
    """A table with lists of addresses of images, and the images."""
    table = HubFiles(f"allenai/{repo}", repo, table=(("train", "*train*.parquet"),))
    return table, LinkedImages(repo, PIXMO_IMAGES, column="image_urls")


def linked_images(addresses: list[str]) -> list[str]:
    return [f"{PIXMO_IMAGES}/{address_name(a)}" for a in addresses]


@dataset(
    "pixmo_multi_image_qa_multi_only_max5",
    {"train": "train"},
    files=("Molmo2-MultiImageQA",),
    media=(PIXMO_IMAGES,),
    sources=linked("Molmo2-MultiImageQA"),
    groups=(DEMO,),
    home=IMAGE_HOME,
)
def multi_image_qa(disk: Disk, split: str) -> Iterator[Record]:
    columns = ("image_urls", "qa_pairs")
    for row in disk.table_rows("Molmo2-MultiImageQA", split, *columns):
        if several(row["image_urls"]):
            messages = [
                {k: qa[k] for k in ("question", "answer")}
                | {"style": "correction_qa", "no_points": True}
                for qa in structs(row["qa_pairs"])
            ]
            yield {"image": linked_images(row["image_urls"]), "message_list": messages}


@dataset(
    "pixmo_multi_points",
    {"train": "train"},
    files=("Molmo2-MultiImagePoint",),
    media=(PIXMO_IMAGES,),
    sources=linked("Molmo2-MultiImagePoint"),
    groups=(IMAGE_POINTING,),
    home=IMAGE_HOME,
)
def multi_points(disk: Disk, split: str) -> Iterator[Record]:
    columns = ("image_urls", "label", "points")
    for row in disk.table_rows("Molmo2-MultiImagePoint", split, *columns):
        images, points = row["image_urls"], [coordinates(p) for p in row["points"]]
        if len(images) != len(points):
            raise ValueError(f"{len(images)} image_urls, but points of {len(points)} images")
        if several(images):
            message = {"label": row["label"], "points": points, "point_scale": PERCENT}
            message |= {"styles": POINT_STYLES, "draw": [ONE_STYLE]}
            yield {"image": linked_images(images), "message_list": [message]}


# --- synthetic documents -----------------------------------------------------------------------


def _multidoc(style: str, rows: list[Row]) -> Record:
    (row,) = rows
    images = [picture(cell) for cell in row["images"]]
    return {"image": images, "message_list": explained(row["qa_pairs"], style)}


def _declare_multidoc(kind: str) -> None:
    folder = f"Molmo2-SynMultiImageQA/{kind}"

    @dataset(
        f"cosyn_multidoc_{kind}_exp",
        {"train": "train"},
        files=(folder,),
        media=("Molmo2-SynMultiImageQA",),
        sources=(
            HubFiles(
                "allenai/Molmo2-SynMultiImageQA",
                folder,
                table=(("train", f"{kind}/train-*.parquet"),),
            ),
        ),
        groups=(IMAGE_ACADEMIC,),
        home=IMAGE_HOME,
    )
    def read(disk: Disk, split: str) -> TableRecords:
        rows = disk.table(folder, split, "images", "qa_pairs")
        return TableRecords.single(rows, partial(_multidoc, f"cosyn_multidoc_{kind}_exp"))


for _kind in ("chart", "chemical", "diagram", "doc", "music", "table"):
    _declare_multidoc(_kind)


# --- Mantis-Instruct ---------------------------------------------------------------------------

MANTIS = "Mantis-Instruct"


def _declare_mantis(name: str, subset: str) -> None:
    """Conversations on two or more images, which lie beside the table."""
    table, images = f"{MANTIS}/{subset}/train-00000-of-00001.parquet", f"{MANTIS}/{subset}"

    @dataset(
        f"mantis_instruct_{name}_multi_only",
        {"train": "train"},
        files=(table,),
        media=(images,),
        sources=(
            HubFiles(
                f"TIGER-Lab/{MANTIS}",
                MANTIS,
                (f"{subset}/train-*.parquet", f"{subset}/train_images.zip"),
                unpack=True,
            ),
        ),
        groups=(IMAGE_ACADEMIC,),
        home=IMAGE_HOME,
    )
    def read(disk: Disk, split: str) -> Iterator[Record]:
        for row in disk.parquet(table):
            paths = [cell["path"] for cell in row["images"]]
            texts = numbered([turn["content"].strip() for turn in row["conversation"]])
            roles = [turn["role"] for turn in row["conversation"]]
            if roles != ["user", "assistant"] * (len(roles) // 2):
                raise ValueError(f"conversation: user and assistant do not alternate: {roles}")
            if several(paths):
                yield {
                    "image": [f"{images}/{path}" for path in paths],
                    "messages": texts,
                    "style": "mantis_instruct_da",
                }


for _name, _subset in (
    ("nlvr2", "nlvr2"),
    ("spot_the_diff", "spot-the-diff"),
    ("birds_to_words", "birds-to-words"),
):
    _declare_mantis(_name, _subset)
