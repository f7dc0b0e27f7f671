"""Pointing and counting in images. Coordinates are in units of ``point_scale`` (100: per cent of
width and height), or in pixels without it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.draws import ONE_STYLE
from olmo.data.datasets.masks import file_mask
from olmo.data.datasets.tables import TableRecords, address_name, picture
from olmo.data.records import Record

Row = dict[str, Any]
STYLES = ["pointing", "point_count"]
PERCENT = 100.0
PIXMO_IMAGES = "pixmo_images"


def coordinates(points: Any) -> list[list[float]]:
    """``[[x, y], ...]`` of a list of ``{x, y}`` or of lists ``{x: [...], y: [...]}``."""
    if isinstance(points, dict):
        return [[float(x), float(y)] for x, y in zip(points["x"], points["y"], strict=True)]
    return [[float(p["x"]), float(p["y"])] for p in points]


def asked(message: Record, styles: list[str], scale: float | None = PERCENT) -> Record:
    """A message whose style is drawn from ``styles``."""
    scaled = {} if scale is None else {"point_scale": scale}
    return message | scaled | {"styles": styles, "draw": [ONE_STYLE]}


def pixmo_points(
    disk: Disk, split: str, folder: str, scale: float | None, method: str | None = None
) -> TableRecords:
    """``folder``: image_url, label, points (``{x, y}``); with ``method`` only rows of that
    collection_method. All on one image are one example."""
    rows = disk.table(folder, split, "image_url", "label", "points")
    keep = None if method is None else np.asarray(rows.column("collection_method")) == method
    return TableRecords.by_address(rows, partial(_points, scale), PIXMO_IMAGES, keep)


def _points(scale: float | None, rows: list[Row]) -> Record:
    shown = [{"label": row["label"], "points": coordinates(row["points"])} for row in rows]
    return {"message_list": [asked(message, STYLES, scale) for message in shown]}


def cosyn_point(disk: Disk, split: str) -> TableRecords:
    """``CoSyn-point``: image, and lists questions, names, answer_points (in per cent)."""
    rows = disk.table("CoSyn-point", split, "image", "questions", "names", "answer_points")
    return TableRecords.single(rows, _cosyn_point)


def _cosyn_point(rows: list[Row]) -> Record:
    (row,) = rows
    asked = zip(row["questions"], row["names"], row["answer_points"], strict=True)
    messages = [
        {"question": question, "label": name, "points": coordinates(points)}
        | {"point_scale": PERCENT, "style": "cosyn_point"}
        for question, name, points in asked
    ]
    return {"image": picture(row["image"]), "message_list": messages}


# --- benchmarks: the points of the answer are counted, or looked for in masks -------------------


def pixmo_count(disk: Disk, split: str) -> TableRecords:
    """``pixmo-count``: image_url, label, count."""
    return _linked(disk.table("pixmo-count", split, "image_url", "label", "count"), _count)


def pointing_eval(disk: Disk, split: str) -> TableRecords:
    """``pixmo-points-eval``: image_url, label, points (``{x, y}`` in per cent) and masks, one for
    each point, [height][width]."""
    columns = ("image_url", "label", "points", "masks")
    return _linked(disk.table("pixmo-points-eval", split, *columns), _pointing_eval)


def _linked(rows: Any, convert: Any) -> TableRecords:
    """An example for each row on a linked image."""
    media = [f"{PIXMO_IMAGES}/{address_name(a)}" for a in rows.column("image_url")]
    return TableRecords.single(rows, convert, media=media)


def _count(rows: list[Row]) -> Record:
    (row,) = rows
    return _counted(f"How many {row['label'].lower()} are there?", row["count"])


def _counted(question: str, count: int) -> Record:
    return {"question": question, "style": STYLES[1], "metadata": {"count": int(count)}}


def countbench(disk: Disk, split: str) -> TableRecords:
    """``CountBenchQA``: image, question, number."""
    rows = disk.table("CountBenchQA", split, "image", "question", "number")
    return TableRecords.single(rows, _countbench)


def _countbench(rows: list[Row]) -> Record:
    (row,) = rows
    return {"image": picture(row["image"])} | _counted(row["question"], row["number"])


def _pointing_eval(rows: list[Row]) -> Record:
    """Points in per cent become pixels of the masks."""
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


POINT_BENCH = ("image_filename", "mask_filename", "category", "user_input")


def point_bench(disk: Disk, split: str) -> TableRecords:
    """``PointBench/{split}.json``: image_filename, mask_filename, category, user_input; the files
    are in ``selected_images/{category}`` and ``selected_masks/{category}``."""
    rows = disk.each(
        disk.rows(f"PointBench/{split}.json"), lambda row: {k: row[k] for k in POINT_BENCH}
    )
    kept = list(rows)
    media = [f"PointBench/selected_images/{r['category']}/{r['image_filename']}" for r in kept]
    return TableRecords.single(kept, partial(_point_bench, disk.home), media=media)


def _point_bench(home: Path, rows: list[Row]) -> Record:
    (row,) = rows
    mask = file_mask(home / "PointBench/selected_masks" / row["category"] / row["mask_filename"])
    metadata = {"example_id": row["image_filename"], "category": row["category"], "mask": mask}
    return {"question": row["user_input"], "style": STYLES[0], "metadata": metadata}
