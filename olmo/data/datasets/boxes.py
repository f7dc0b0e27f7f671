"""Tracking one object from its boxes, as the sets for single-object trackers have them: a point is
the centre of a box. Videos are folders of pictures at a fixed rate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from olmo.data.datasets.declare import TRACKING, dataset
from olmo.data.datasets.disk import Disk, file_text
from olmo.data.datasets.draws import CLIP
from olmo.data.datasets.sources import Manual
from olmo.data.datasets.tables import TableRecords
from olmo.data.datasets.tracking import (
    SAMPLING_FPS,
    SINGLE,
    TRACK,
    frames_per_second,
)
from olmo.data.records import PackedRecords
from olmo.preprocessing.image_files import open_image
from olmo.preprocessing.images import DEFAULT_LIMITS

Row = dict[str, Any]
Record = dict[str, Any]
HIDDEN = ("full_occlusion.txt", "out_of_view.txt", "absence.label")
"""Files that have 1 for each frame in which the object cannot be seen."""


def _numbers(path: Path) -> list[float]:
    """Numbers of a text file, on one line or many, with commas or spaces; none if it is absent."""
    if not path.is_file():
        return []
    return [float(n) for n in file_text(path).replace(",", " ").split()]


def _boxes(home: Path, rows: list[Row]) -> Record:
    (row,) = rows
    folder, fps = home / row["folder"], row["fps"]
    numbers = _numbers(folder / "groundtruth.txt")
    if not numbers or len(numbers) % 4:
        raise ValueError(f"{folder}/groundtruth.txt: expected lines x,y,width,height")
    boxes = [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
    hidden = {i for name in HIDDEN for i, flag in enumerate(_numbers(folder / name)) if flag}
    shown = [
        i for i in frames_per_second(len(boxes), fps) if i not in hidden and min(boxes[i][2:]) > 0
    ]
    with open_image(home / row["frames"] / "00000001.jpg", DEFAULT_LIMITS) as image:
        size = list(image.size)
    return {
        "label": _label(folder),
        "points": [{"1": _centre(boxes[i])} for i in shown],
        "timestamps": [i / fps for i in shown],
        "point_scale": size,
        "duration": len(boxes) / fps,
        "style": SINGLE if shown else TRACK,
        "sampling_fps": SAMPLING_FPS,
        "metadata": {"frame_rate": fps},
        "draw": [CLIP],
    }


def _label(folder: Path) -> str:
    """The description of a sequence of LaSOT, or the class of one of GOT-10k."""
    if (folder / "nlp.txt").is_file():
        return file_text(folder / "nlp.txt").strip()
    for line in file_text(folder / "meta_info.ini").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "object_class":
            return value.strip()
    raise ValueError(f"{folder}/meta_info.ini: no line object_class")


def _centre(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x + width / 2, y + height / 2]


def _records(disk: Disk, sequences: list[tuple[str, str]], fps: int) -> TableRecords:
    """``sequences``: folders, each with that of its frames."""
    rows = [{"folder": f, "frames": frames, "fps": fps} for f, frames in sequences]
    media = [frames for _, frames in sequences]
    packed = PackedRecords.pack(rows)
    return TableRecords.single(packed, partial(_boxes, disk.home), media=media, kind="video")


@dataset(
    "lasot_sot",
    {"train": "training_set"},
    files=("LaSOT/{split}.txt",),
    media=("LaSOT",),
    sources=(
        Manual(
            "training_set.txt and <class>/<class>-<n>/ go to LaSOT",
            "http://vision.cs.stonybrook.edu/~lasot/",
        ),
    ),
    groups=(TRACKING,),
)
def lasot(disk: Disk, split: str) -> TableRecords:
    names = disk.lines(f"LaSOT/{split}.txt")
    folders = ["/".join(["LaSOT", name.rpartition("-")[0], name]) for name in names]
    return _records(disk, [(folder, f"{folder}/img") for folder in folders], fps=30)


@dataset(
    "got10k_sot",
    {"train": "train"},
    files=("GOT-10k/{split}/list.txt",),
    media=("GOT-10k",),
    sources=(Manual("train/ goes to GOT-10k", "http://got-10k.aitestunion.com"),),
    groups=(TRACKING,),
)
def got10k(disk: Disk, split: str) -> TableRecords:
    folders = [f"GOT-10k/{split}/{name}" for name in disk.lines(f"GOT-10k/{split}/list.txt")]
    return _records(disk, [(folder, folder) for folder in folders], fps=10)
