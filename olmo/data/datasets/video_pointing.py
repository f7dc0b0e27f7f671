"""Pointing and counting in videos. Points are in per cent of width and height, at times on a grid
of half seconds; of a video longer than ``CLIP_S`` seconds a clip is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.declare import VIDEO_POINTING, Record, dataset
from olmo.data.datasets.disk import Disk, pick, structs
from olmo.data.datasets.draws import CLIP, ONE_STYLE
from olmo.data.datasets.masks import rle_mask
from olmo.data.datasets.pointing import coordinates
from olmo.data.datasets.sources import HubFiles, Manual
from olmo.data.datasets.tables import TableRecords
from olmo.data.datasets.video_subtitles import WEB_MANUAL, WEB_MEDIA, web_video

Row = dict[str, Any]
POINT, COUNT = "video_point", "video_count"
STYLES = [POINT, "video_point_count"]
MAX_POINTS = 60
GRID_FPS = 2.0


def hub_table(repo: str, split: str) -> HubFiles:
    """One split of a table of Molmo2."""
    return HubFiles(f"allenai/{repo}", repo, table=((split, f"*{split}*.parquet"),))


def pointing_record(row: Row, video: str) -> Record:
    """A question of one row for training: where, or where and how many."""
    times, points = row["timestamps"], [coordinates(p) for p in row["points"]]
    if len(times) != len(points):
        raise ValueError(f"{len(times)} timestamps, but points at {len(points)} times")
    return {
        "video": video,
        "label": row["label"],
        "points": points,
        "timestamps": [float(t) for t in times],
        "duration": float(row["duration"]),
        "styles": STYLES,
        "draw": [CLIP, ONE_STYLE],
    }


def n_points(row: Row) -> int:
    return sum(len(coordinates(points)) for points in row["points"])


def _declare_vixmo(name: str, fewest: int, most: int) -> None:
    """Rows with ``fewest`` to ``most`` points."""

    @dataset(
        name,
        {"train": "train"},
        files=("Molmo2-VideoPoint",),
        media=WEB_MEDIA,
        sources=(hub_table("Molmo2-VideoPoint", "train"), WEB_MANUAL),
        groups=(VIDEO_POINTING,),
    )
    def read(disk: Disk, split: str) -> Iterator[Record]:
        columns = ("video_id", "label", "duration", "timestamps", "points")
        for row in disk.table_rows("Molmo2-VideoPoint", split, *columns):
            if fewest <= n_points(row) <= most:
                yield pointing_record(row, web_video(disk, row["video_id"]))


_declare_vixmo("vixmo_points_minmax_0_5", 0, 5)
_declare_vixmo("vixmo_points_minmax_6_25", 6, 25)
_declare_vixmo("vixmo_points_minmax_26_60", 26, MAX_POINTS)


@dataset(
    "academic_points_clip_63s_2fps",
    {"train": "train"},
    files=("academic_points/{split}.jsonl",),
    media=("academic_points/videos",),
    sources=(
        Manual(
            "points on videos of academic data sets go to academic_points/train.jsonl, the videos "
            "to academic_points/videos"
        ),
    ),
    groups=(VIDEO_POINTING,),
)
def academic_points(disk: Disk, split: str) -> Iterator[Record]:
    for row in disk.jsonl(f"academic_points/{split}.jsonl"):
        if n_points(row) <= MAX_POINTS:
            yield pointing_record(row, f"academic_points/videos/{row['video']}")


# --- benchmarks --------------------------------------------------------------------------------


@dataset(
    "vixmo_points_count_clip_63s",
    {"validation": "val"},
    files=("Molmo2-VideoCountEval",),
    media=WEB_MEDIA,
    sources=(hub_table("Molmo2-VideoCountEval", "val"), WEB_MANUAL),
    groups=(VIDEO_POINTING,),
)
def video_count(disk: Disk, split: str) -> Iterator[Record]:
    for i, row in enumerate(disk.table_rows("Molmo2-VideoCountEval", split)):
        metadata = {
            "example_id": f"{row['video_id']}_{i}",
            "count": int(row["count"]),
            "subset": pick(row, "subset", "category"),
        }
        if row["clip_start"] is not None:
            metadata |= {"clip_start_time": row["clip_start"], "clip_end_time": row["clip_end"]}
        yield {
            "video": web_video(disk, row["video_id"]),
            "label": row["label"],
            "style": COUNT,
            "metadata": metadata,
        }


def _gold_points(rows: list[Row]) -> Record:
    """Points (t, x, y) in seconds and pixels, and of each object its masks by time."""
    (row,) = rows
    points = [(float(p["t"]), float(p["x"]), float(p["y"])) for p in structs(row["points"])]
    masks = [
        {int(m["frame_id"]) / GRID_FPS: rle_mask(m) for m in structs(one)} for one in row["masks"]
    ]
    if len(masks) != len(points):
        raise ValueError(f"{len(points)} points, but masks of {len(masks)} objects")
    metadata = {
        "example_id": str(row["id"]),
        "gt_abs_triplets": points,
        "gt_abs_masks": masks,
        "duration": float(row["duration"]),
    }
    return {"label": row["label"], "style": POINT, "metadata": metadata}


@dataset(
    "vixmo_points_point_eval",
    {"validation": "val"},
    files=("Molmo2-VideoPointEval",),
    media=WEB_MEDIA,
    sources=(hub_table("Molmo2-VideoPointEval", "val"), WEB_MANUAL),
    groups=(VIDEO_POINTING,),
)
def video_point_eval(disk: Disk, split: str) -> TableRecords:
    columns = ("id", "video_id", "label", "duration", "points", "masks")
    rows = disk.table("Molmo2-VideoPointEval", split, *columns)
    media = [web_video(disk, name) for name in rows.column("video_id")]
    return TableRecords.single(rows, _gold_points, media=media, kind="video")
