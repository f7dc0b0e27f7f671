"""Tracking what an expression refers to, from masks in the layouts of MeViS and of the referring
video sets. A track has a point per object and second: the pixel of its mask that is nearest to
the mask's centre. Videos are folders of pictures at a fixed rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.datasets.declare import TRACKING, dataset
from olmo.data.datasets.disk import Disk, structs
from olmo.data.datasets.draws import CLIP, ONE_OBJECT
from olmo.data.datasets.masks import file_mask, mask_point, rle_mask
from olmo.data.datasets.sources import Manual, Source
from olmo.data.datasets.tables import TableRecords
from olmo.data.datasets.video_pointing import hub_table
from olmo.data.datasets.video_subtitles import WEB_MANUAL, WEB_MEDIA, web_video
from olmo.data.records import PackedRecords

Row = dict[str, Any]
Record = dict[str, Any]
Masks = dict[int, dict[str, np.ndarray]]
"""Frame number -> object -> mask."""
SAMPLING_FPS = 1
TRACK, START_END = "video_point_track_per_frame", "video_point_ground_start_end"
SINGLE = "video_single_point_track_per_frame"


def frames_per_second(n_frames: int, fps: float) -> list[int]:
    """Numbers of the frames at 0, 1, 2, ... seconds."""
    seconds = range(int(n_frames / fps) + 1)
    return [i for k in seconds if (i := round(k * fps / SAMPLING_FPS)) < n_frames]


# --- from masks to points ----------------------------------------------------------------------


def _masks(home: Path, row: Row) -> Masks:
    """Masks that are not empty. A frame has run lengths by object, or the path of a picture in
    which the object's number is its colour."""
    found: Masks = {}
    for frame, given in row["frames"]:
        if isinstance(given, str):
            masks = {o: file_mask(home / given, int(o)) for o in row["objects"]}
        else:
            masks = {o: rle_mask(rle) for o, rle in given.items()}
        found[int(frame)] = {o: mask for o, mask in masks.items() if mask.any()}
    return found


def _points(masks: Masks) -> dict[int, dict[str, tuple[float, float]]]:
    found = {
        frame: {o: point for o, mask in one.items() if (point := mask_point(mask))}
        for frame, one in masks.items()
    }
    return {frame: points for frame, points in found.items() if points}


def _evaluated(home: Path, rows: list[Row]) -> Record:
    (row,) = rows
    masks = _masks(home, row)
    metadata = {
        "example_id": row["id"],
        "points": _points(masks),
        "masks": {frame: one for frame, one in masks.items() if one},
        "video_fps": row["fps"],
    }
    metadata |= {k: row[k] for k in ("category", "frame_rate") if row.get(k)}
    question = {"label": row["label"], "style": TRACK, "sampling_fps": SAMPLING_FPS}
    return question | {"metadata": metadata}


def _trained(style: str, home: Path, rows: list[Row]) -> Record:
    (row,) = rows
    masks = _masks(home, row)
    points = _points(masks)
    sizes = [mask.shape for one in masks.values() for mask in one.values()]
    scale = [sizes[0][1], sizes[0][0]] if sizes else 100
    if not points and style == SINGLE:
        style = TRACK  # there is no point to start from
    message = {
        "label": row["label"],
        "points": [{o: list(p) for o, p in one.items()} for one in points.values()],
        "timestamps": [frame / row["fps"] for frame in points],
        "point_scale": scale,
        "style": style,
        "sampling_fps": SAMPLING_FPS,
    }
    message |= {"draw": [ONE_OBJECT]} if style == SINGLE else {}
    return {"message_list": [message], "metadata": {"frame_rate": row["frame_rate"]}}


# --- sets with an expression and masks of the objects it refers to ------------------------------


@dataclass(frozen=True)
class Referring:
    """Where a set has its files; ``{split}`` is filled in. ``masks`` is a file of run lengths by
    object, or a folder with a picture per video and frame."""

    name: str
    fps: int
    expressions: str
    frames: str
    masks: str
    training: str | None
    evaluation: str | None
    url: str

    def rows(self, disk: Disk, split: str) -> Iterator[tuple[str, Row]]:
        """Videos, each with the row of an expression."""
        where = self.masks.format(split=split)
        runs = dict(disk.items(where)) if where.endswith(".json") else None
        frames = self.frames.format(split=split)
        for name, video in disk.items(self.expressions.format(split=split), "videos"):
            numbers = frames_per_second(len(video["frames"]), self.fps)
            for key, said in video["expressions"].items():
                row = {"id": f"{name}_{key}", "label": said["exp"]}
                row |= {"fps": self.fps, "frame_rate": self.fps}
                if runs is None:
                    row["objects"] = _listed(said["obj_id"])
                    row["frames"] = [
                        [i, f"{where}/{name}/{video['frames'][i]}.png"] for i in numbers
                    ]
                else:
                    mine = {o: runs[o] for o in _listed(said["anno_id"])}
                    row["frames"] = [
                        [i, {o: masks[i] for o, masks in mine.items() if masks[i]}] for i in numbers
                    ]
                yield f"{frames}/{name}", row

    def records(
        self, disk: Disk, split: str, convert: Callable[[Path, list[Row]], Record]
    ) -> TableRecords:
        pairs = list(self.rows(disk, split))
        rows = PackedRecords.pack(row for _, row in pairs)
        media = [video for video, _ in pairs]
        return TableRecords.single(rows, partial(convert, disk.home), media=media, kind="video")

    def declare(self, name: str, split: tuple[str, str], style: str | None) -> None:
        """``split``: our name of it and theirs; without ``style`` it is the benchmark."""
        folder = self.expressions.partition("/")[0]
        masks = (self.masks,) if self.masks.endswith(".json") else ()
        convert = _evaluated if style is None else partial(_trained, style)

        @dataset(
            name,
            dict([split]),
            files=(self.expressions, *masks),
            media=(self.frames.format(split=split[1]),),
            sources=(Manual(f"expressions, frames and masks go to {folder}", self.url),),
            groups=(TRACKING,),
        )
        def read(disk: Disk, split: str) -> TableRecords:
            return self.records(disk, split, convert)


def _listed(ids: Any) -> list[str]:
    """Ids as a list of text; the sets have one or several, as numbers or as text."""
    return [str(i) for i in (ids if isinstance(ids, list) else [ids])]


REFERRING = (
    Referring(
        *("mevis", 6, "MeViS/{split}/meta_expressions.json", "MeViS/{split}/JPEGImages"),
        *("MeViS/{split}/mask_dict.json", "train", "valid_u"),
        "https://github.com/henghuiding/MeViS",
    ),
    Referring(
        *("ref_yt_vos", 6, "Ref-YT-VOS/meta_expressions/{split}/meta_expressions.json"),
        *("Ref-YT-VOS/{split}/JPEGImages", "Ref-YT-VOS/{split}/Annotations", "train", "valid"),
        "https://youtube-vos.org/dataset/rvos/",
    ),
    Referring(
        *("ref_davis17", 24, "Ref-DAVIS17/meta_expressions/{split}/meta_expressions.json"),
        *("Ref-DAVIS17/{split}/JPEGImages", "Ref-DAVIS17/{split}/Annotations", "train", "valid"),
        "https://davischallenge.org/davis2017/code.html",
    ),
    Referring(
        *("reasonvos", 6, "ReasonVOS/meta_expressions.json", "ReasonVOS/JPEGImages"),
        *("ReasonVOS/Annotations", None, "test"),
        "https://github.com/showlab/VideoLISA",
    ),
)

for _set in REFERRING:
    if _set.evaluation:
        _set.declare(f"{_set.name}_track_eval_1fps", ("test", _set.evaluation), None)
    if _set.training:
        for _kind, _style in (
            ("track", TRACK),
            ("ground", START_END),
            ("single_point_track", SINGLE),
        ):
            _set.declare(f"{_set.name}_{_kind}", ("train", _set.training), _style)
REFERRING[0].declare("mevis_point_track_per_frame_fps_6_sample_fps_1", ("test", "valid_u"), None)


# --- videos of Molmo2 --------------------------------------------------------------------------


def _table_row(row: Row) -> Row:
    frames = [
        [f["frame"], {str(o["id"]): o for o in structs(f["objects"])}]
        for f in structs(row["frames"])
    ]
    return {k: row.get(k) for k in ("id", "label", "fps", "category")} | {"frames": frames}


def _table_evaluated(rows: list[Row]) -> Record:
    return _evaluated(Path(), [_table_row(row) for row in rows])


EVAL_SOURCES: tuple[Source, ...] = (hub_table("Molmo2-VideoTrackEval", "test"), WEB_MANUAL)


@dataset(
    "molmo2_video_track_eval_1fps",
    {"test": "test"},
    files=("Molmo2-VideoTrackEval",),
    media=WEB_MEDIA,
    sources=EVAL_SOURCES,
    groups=(TRACKING,),
)
def molmo2_video_eval(disk: Disk, split: str) -> TableRecords:
    rows = disk.table("Molmo2-VideoTrackEval", split, "id", "video_id", "label", "fps", "frames")
    media = [web_video(disk, name) for name in rows.column("video_id")]
    return TableRecords.single(rows, _table_evaluated, media=media, kind="video")


@dataset(
    "molmo2_video_track",
    {"train": "train"},
    files=("Molmo2-VideoTrack",),
    media=WEB_MEDIA,
    sources=(hub_table("Molmo2-VideoTrack", "train"), WEB_MANUAL),
    groups=(TRACKING,),
)
def molmo2_video(disk: Disk, split: str) -> Iterator[Record]:
    """Points in per cent, at times in seconds."""
    columns = ("video_id", "label", "duration", "frames")
    for row in disk.table_rows("Molmo2-VideoTrack", split, *columns):
        frames = structs(row["frames"])
        objects = [{str(o["id"]): [o["x"], o["y"]] for o in structs(f["objects"])} for f in frames]
        yield {
            "video": web_video(disk, row["video_id"]),
            "label": row["label"],
            "points": objects,
            "timestamps": [float(f["time"]) for f in frames],
            "point_scale": 100,
            "duration": float(row["duration"]),
            "style": TRACK,
            "sampling_fps": SAMPLING_FPS,
            "draw": [CLIP],
        }
