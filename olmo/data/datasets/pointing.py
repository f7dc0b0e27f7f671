"""Pointing and counting in images. Coordinates are in units of ``point_scale`` (100: per cent of
width and height), or in pixels without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.draws import ONE_STYLE
from olmo.data.datasets.masks import file_mask
from olmo.data.datasets.tables import LazyTable, address_name
from olmo.data.records import Flaw, LeftOut, PackedRecords, Record

STYLES = ["pointing", "point_count"]
PERCENT = 100.0
PIXMO_IMAGES = "pixmo_images"

MAX_IMAGES = 5
POINT_STYLES = ["multi_image_pointing", "multi_image_point_then_count"]


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


def pixmo_points(disk: Disk, split: str, method: str) -> PackedRecords:
    """``pixmo-points``: image_url, label, points (in per cent), collection_method: only ``method``.
    All on one image are one example."""
    columns = ("label", "points", "collection_method")
    table = LazyTable("pixmo-points", split, columns, points, "image_url", PIXMO_IMAGES, True)
    records, methods = table.open(disk), disk.table("pixmo-points", split).column(columns[2])
    found = map(records.packed, range(len(records)))
    mine = (one | {"rows": [i for i in one["rows"] if methods[i] == method]} for one in found)
    return records.pack(filter(itemgetter("rows"), mine), complete=records.complete)


def cosyn_point(row: Row) -> Iterator[Record]:
    """``CoSyn-point``: lists questions, names, answer_points (in per cent)."""
    columns = (row["questions"], row["names"], row["answer_points"])
    for question, name, found in zip(*columns, strict=True):
        message = {"question": question, "label": name, "points": coordinates(found)}
        yield message | {"point_scale": PERCENT, "style": "cosyn_point"}


# --- several images -----------------------------------------------------------------------------


def linked_images(addresses: Sequence[str]) -> list[str]:
    """Paths of the two to ``MAX_IMAGES`` images that a row links to."""
    used = 2 <= len(addresses) <= MAX_IMAGES
    LeftOut.when(not used, "another number of images than two to five")
    return [f"{PIXMO_IMAGES}/{address_name(a)}" for a in addresses]


def multi_points(row: Row) -> Record:
    """``Molmo2-MultiImagePoint``: image_urls, label, points (of each image, in per cent)."""
    images, found = linked_images(row["image_urls"]), [coordinates(p) for p in row["points"]]
    Flaw.when(len(images) != len(found), "points of another number of images than image_urls")
    return {"image": images} | asked({"label": row["label"], "points": found}, POINT_STYLES)


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


def point_bench(disk: Disk, split: str) -> PackedRecords:
    """``PointBench/{split}.json``: image_filename, mask_filename, category, user_input, and of
    those that count perhaps count; the files are in ``selected_images/{category}`` and
    ``selected_masks/{category}``."""

    def known(row: Row) -> Record:
        image = f"PointBench/selected_images/{row['category']}/{row['image_filename']}"
        count = {k: int(row[k]) for k in ("count",) if row.get(k) is not None}
        return {"image": image, **{k: row[k] for k in POINT_BENCH}, **count}

    rows = disk.each(disk.rows(f"PointBench/{split}.json"), known)
    return PackedRecords.pack(rows, disk.lose, partial(_point_bench, disk.home))


def _point_bench(home: Path, row: Row) -> Record:
    mask = file_mask(home / "PointBench/selected_masks" / row["category"] / row["mask_filename"])
    metadata = {"example_id": row["image_filename"], "category": row["category"], "mask": mask}
    metadata |= {k: row[k] for k in ("count",) if k in row}
    return {"question": row["user_input"], "style": STYLES[0], "metadata": metadata}
