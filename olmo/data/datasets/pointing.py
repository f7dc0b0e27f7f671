"""Pointing and counting in images. Coordinates are in units of ``point_scale`` (100: per cent of
width and height), or in pixels without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.draws import ONE_STYLE
from olmo.data.datasets.masks import file_mask
from olmo.data.datasets.tables import LazyTable, TableRecords
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


def points(row: Row, scale: float | None = PERCENT) -> Record:
    """PixMo: label, points (``{x, y}``)."""
    message = {"label": row["label"], "points": coordinates(row["points"])}
    return asked(message, STYLES, scale)


def pixmo_points(disk: Disk, split: str, method: str) -> TableRecords:
    """``pixmo-points``: image_url, label, points (in per cent), collection_method: only ``method``.
    All on one image are one example."""
    columns = ("label", "points", "collection_method")
    table = LazyTable("pixmo-points", split, columns, points, "image_url", PIXMO_IMAGES, True)
    records, methods = table.open(disk), disk.table("pixmo-points", split).column(columns[2])
    groups = [[row for row in group if methods[row] == method] for group in records.groups]
    kept = records.at([i for i, group in enumerate(groups) if group])
    return dataclasses.replace(kept, groups=[group for group in groups if group])


def cosyn_point(row: Row) -> Iterator[Record]:
    """``CoSyn-point``: lists questions, names, answer_points (in per cent)."""
    columns = (row["questions"], row["names"], row["answer_points"])
    for question, name, found in zip(*columns, strict=True):
        message = {"question": question, "label": name, "points": coordinates(found)}
        yield message | {"point_scale": PERCENT, "style": "cosyn_point"}


# --- benchmarks: the points of the answer are counted, or looked for in masks -------------------


def count(row: Row) -> Record:
    """``pixmo-count``: label, count."""
    return _counted(f"How many {row['label'].lower()} are there?", row["count"])


def countbench(row: Row) -> Record:
    """``CountBenchQA``: question, number."""
    return _counted(row["question"], row["number"])


def _counted(question: str, number: int) -> Record:
    return {"question": question, "style": STYLES[1], "metadata": {"count": int(number)}}


def pointing_eval(row: Row) -> Record:
    """``pixmo-points-eval``: label, points (``{x, y}`` in per cent, which become pixels) and masks,
    one for each point, [height][width]."""
    masks = [np.asarray(mask, dtype=bool) for mask in row["masks"]]
    found = coordinates(row["points"])
    if len(masks) != len(found) or not all(mask.ndim == 2 for mask in masks):
        raise ValueError(f"{len(found)} points and {len(masks)} masks [height, width]")
    pixels = [
        [x / PERCENT * mask.shape[1], y / PERCENT * mask.shape[0]]
        for (x, y), mask in zip(found, masks, strict=True)
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
