"""Pointing and counting in images. Coordinates are in units of ``point_scale`` (100: percent of
width and height), or in pixels without it. Whether a PixMo example points, or points and counts,
is drawn."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.datasets.declare import IMAGE_HOME, IMAGE_POINTING, SINGLE_IMAGE, dataset
from olmo.data.datasets.disk import Disk
from olmo.data.datasets.draws import ONE_STYLE
from olmo.data.datasets.image_tables import PIXMO_IMAGES, pixmo_sources
from olmo.data.datasets.masks import file_mask
from olmo.data.datasets.sources import HubFiles, Manual
from olmo.data.datasets.tables import TableRecords, address_name, picture

Row = dict[str, Any]
Record = dict[str, Any]
STYLES = ["pointing", "point_count"]
PERCENT = 100.0


def coordinates(points: Any) -> list[list[float]]:
    """``[[x, y], ...]`` of a list of ``{x, y}`` or of lists ``{x: [...], y: [...]}``."""
    if isinstance(points, dict):
        return [[float(x), float(y)] for x, y in zip(points["x"], points["y"], strict=True)]
    return [[float(p["x"]), float(p["y"])] for p in points]


def _points(rows: list[Row], scale: float | None = PERCENT) -> Record:
    messages = []
    for row in rows:
        message = {"label": row["label"], "points": coordinates(row["points"]), "styles": STYLES}
        if scale is not None:
            message["point_scale"] = scale
        messages.append(message | {"draw": [ONE_STYLE]})
    return {"message_list": messages}


def _pixel_points(rows: list[Row]) -> Record:
    return _points(rows, scale=None)


def _declare_pixmo_points(name: str, method: str) -> None:
    """The annotations of ``pixmo-points`` that were collected in one way."""

    @dataset(
        name,
        {"train": "train"},
        files=("pixmo-points",),
        media=(PIXMO_IMAGES,),
        sources=pixmo_sources("allenai/pixmo-points"),
        groups=(IMAGE_POINTING,),
        home=IMAGE_HOME,
    )
    def read(disk: Disk, split: str) -> TableRecords:
        rows = disk.table("pixmo-points", split)
        keep = np.asarray([m == method for m in rows.column("collection_method")])
        return TableRecords.by_address(rows, _points, PIXMO_IMAGES, keep)


_declare_pixmo_points("pixmo_points_train", "pointing")
_declare_pixmo_points("pixmo_points_high_freq_train", "counting")


PIXMO_COUNT = pixmo_sources("allenai/pixmo-count", ("train", "validation", "test"))


@dataset(
    "pixmo_count_train",
    {"train": "train"},
    files=("pixmo-count",),
    media=(PIXMO_IMAGES,),
    sources=PIXMO_COUNT,
    groups=(IMAGE_POINTING,),
    home=IMAGE_HOME,
)
def pixmo_count(disk: Disk, split: str) -> TableRecords:
    rows = disk.table("pixmo-count", split)
    return TableRecords.by_address(rows, _pixel_points, PIXMO_IMAGES)


def _cosyn_points(rows: list[Row]) -> Record:
    (row,) = rows
    messages = [
        {
            "question": question,
            "label": name,
            "points": coordinates(points),
            "point_scale": PERCENT,
            "style": "cosyn_point",
        }
        for question, name, points in zip(
            row["questions"], row["names"], row["answer_points"], strict=True
        )
    ]
    return {"image": picture(row["image"]), "message_list": messages}


@dataset(
    "cosyn_point",
    {"train": "train"},
    files=("CoSyn-point",),
    media=("CoSyn-point",),
    sources=(
        HubFiles("allenai/CoSyn-point", "CoSyn-point", table=(("train", "data/train-*.parquet"),)),
    ),
    groups=(IMAGE_POINTING,),
    home=IMAGE_HOME,
)
def cosyn_point(disk: Disk, split: str) -> TableRecords:
    return TableRecords.single(disk.table("CoSyn-point", split), _cosyn_points)


# --- counting benchmarks: the points of the answer are counted ---------------------------------


def _counted(question: str, count: int) -> Record:
    return {"question": question, "style": STYLES[1], "metadata": {"count": int(count)}}


def _count_question(rows: list[Row]) -> Record:
    (row,) = rows
    return _counted(f"How many {row['label'].lower()} are there?", row["count"])


@dataset(
    "pixmo_count_counting",
    {"validation": "validation", "test": "test"},
    files=("pixmo-count",),
    media=(PIXMO_IMAGES,),
    sources=PIXMO_COUNT,
    groups=(SINGLE_IMAGE,),
    home=IMAGE_HOME,
)
def pixmo_count_counting(disk: Disk, split: str) -> TableRecords:
    rows = disk.table("pixmo-count", split)
    media = [f"{PIXMO_IMAGES}/{address_name(a)}" for a in rows.column("image_url")]
    return TableRecords(rows, _count_question, list(np.arange(len(rows))[:, None]), media)


def _countbench(rows: list[Row]) -> Record:
    (row,) = rows
    return {"image": picture(row["image"])} | _counted(row["question"], row["number"])


@dataset(
    "countbench_qa",
    {"huggingface": "test", "test": "test"},
    files=("CountBenchQA",),
    media=("CountBenchQA",),
    sources=(
        HubFiles("vikhyatk/CountBenchQA", "CountBenchQA", table=(("test", "data/test-*.parquet"),)),
    ),
    groups=(SINGLE_IMAGE,),
    home=IMAGE_HOME,
)
def countbench_qa(disk: Disk, split: str) -> TableRecords:
    return TableRecords.single(disk.table("CountBenchQA", split), _countbench)


# --- pointing benchmarks: the points of the answer are looked for in masks ----------------------


def _pointing_eval(rows: list[Row]) -> Record:
    """Points in per cent, and a mask of each, become pixels of the masks."""
    (row,) = rows
    masks = [np.asarray(mask, dtype=bool) for mask in row["masks"]]
    points = coordinates(row["points"])
    if len(masks) != len(points) or not all(mask.ndim == 2 for mask in masks):
        raise ValueError(f"{len(points)} points and {len(masks)} masks [height, width]")
    pixels = [
        [x / PERCENT * mask.shape[1], y / PERCENT * mask.shape[0]]
        for (x, y), mask in zip(points, masks, strict=True)
    ]
    metadata = {"points": pixels, "masks": masks}
    return {"label": row["label"], "style": STYLES[0], "metadata": metadata}


@dataset(
    "pointing_eval_v2",
    {"test": "test"},
    files=("pixmo-points-eval",),
    media=(PIXMO_IMAGES,),
    sources=pixmo_sources("allenai/pixmo-points-eval", ("test",)),
    groups=(SINGLE_IMAGE,),
    home=IMAGE_HOME,
)
def pointing_eval(disk: Disk, split: str) -> TableRecords:
    rows = disk.table("pixmo-points-eval", split, "image_url", "label", "points", "masks")
    media = [f"{PIXMO_IMAGES}/{address_name(a)}" for a in rows.column("image_url")]
    return TableRecords.single(rows, _pointing_eval, media=media)


def _point_bench(home: Path, rows: list[Row]) -> Record:
    (row,) = rows
    mask = file_mask(home / "PointBench/selected_masks" / row["category"] / row["mask_filename"])
    metadata = {"example_id": row["image_filename"], "category": row["category"], "mask": mask}
    return {"question": row["user_input"], "style": STYLES[0], "metadata": metadata}


@dataset(
    "point_bench",
    {"test": "data"},
    files=("PointBench/{split}.json",),
    media=("PointBench/selected_images",),
    sources=(
        Manual(
            "data.json, selected_images/<category>/ and selected_masks/<category>/ go to "
            "PointBench",
            "https://huggingface.co/datasets/PointArena/pointarena-data",
        ),
    ),
    groups=(SINGLE_IMAGE,),
    home=IMAGE_HOME,
)
def point_bench(disk: Disk, split: str) -> TableRecords:
    names = ("image_filename", "mask_filename", "category", "user_input")
    rows = [{k: row[k] for k in names} for row in disk.rows(f"PointBench/{split}.json")]
    media = [f"PointBench/selected_images/{r['category']}/{r['image_filename']}" for r in rows]
    return TableRecords.single(rows, partial(_point_bench, disk.home), media=media)
