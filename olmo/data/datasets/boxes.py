"""Tracks of objects from boxes: a point is the centre of a box. Videos are folders of pictures at a
fixed rate."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from olmo.data.animation import IN_FOLDERS
from olmo.data.datasets.disk import Disk, Row, file_text
from olmo.data.datasets.tracking import SINGLE, lazily, once_a_second, taught
from olmo.data.records import PackedRecords, Record
from olmo.preprocessing.image_files import open_image
from olmo.preprocessing.images import DEFAULT_LIMITS

HIDDEN = ("full_occlusion.txt", "out_of_view.txt", "absence.label", "absent.txt")
"""Files that have 1 for each frame in which the object cannot be seen."""
TEXTS = ("nlp.txt", "language.txt")
"""Files with a description of the object."""
CLASS = re.compile(r"^\s*object_class\s*[:=](.*)$", re.MULTILINE)


def sequences(
    disk: Disk,
    split: str,
    boxes: str,
    fps: float,
    frames: str = "{folder}/img",
    listed: str | None = None,
) -> PackedRecords:
    """Sets for trackers of one object. ``boxes``: pattern of text files, a line x,y,width,height
    for each frame, a box without size where the object is hidden. ``frames``: the folder of
    pictures; ``{folder}`` is that of the file, ``{above}`` the one above, ``{name}`` the name of
    the file. ``listed``: names of the folders that count, one per line. Beside the boxes may be
    flags (``HIDDEN``), a description (``TEXTS``) or ``meta_info.ini`` with object_class; without
    these it is an "object"."""
    names = None if listed is None else set(disk.lines(listed))
    files = sorted(str(f.relative_to(disk.home)) for f in disk.home.glob(boxes))
    if not files:
        raise FileNotFoundError(errno.ENOENT, "no such files", boxes)

    def row(path: str) -> Row:
        file = PurePosixPath(path)
        places = {"folder": file.parent, "above": file.parent.parent, "name": file.stem}
        return {"video": frames.format_map(places), "file": path, "fps": fps}

    kept = (f for f in files if names is None or PurePosixPath(f).parent.name in names)
    return lazily(disk, disk.each(kept, row), _sequence)


def _sequence(home: Path, row: Row) -> Record:
    file = home / row["file"]
    boxes = [_numbers(line) for line in file_text(file).strip().splitlines()]
    wrong = next((i for i, box in enumerate(boxes, 1) if len(box) != 4), None if boxes else 1)
    if wrong is not None:
        raise ValueError(f"{file}: line {wrong}: expected x,y,width,height")
    flags = [_numbers(file_text(f)) for n in HIDDEN if (f := file.parent / n).is_file()]
    hidden = {i for found in flags for i, flag in enumerate(found) if flag}
    numbers = once_a_second(i / row["fps"] for i in range(len(boxes)))
    seen = [[i, None if i in hidden else boxes[i]] for i in numbers]
    found = row | {"boxes": seen, "duration": len(boxes) / row["fps"], "label": _label(file.parent)}
    return _boxes(SINGLE, home, found)


def _numbers(text: str) -> list[float]:
    return [float(n) for n in text.replace(",", " ").split()]


def _label(folder: Path) -> str:
    for file in (folder / name for name in TEXTS):
        if file.is_file():
            return file_text(file).strip()
    about = folder / "meta_info.ini"
    found = CLASS.search(file_text(about)) if about.is_file() else None
    return found[1].strip() if found else "object"


def _boxes(style: str, home: Path, row: Row) -> Record:
    """``boxes`` of a row: [[number of the frame, box or None], ...]."""
    times = [number / row["fps"] for number, _ in row["boxes"]]
    points = [{"1": _centre(box)} for _, box in row["boxes"]]
    pictures = (f for f in (home / row["video"]).iterdir() if f.suffix.lower() in IN_FOLDERS)
    picture = next(pictures, None)
    if picture is None:
        raise ValueError(f"{home / row['video']}: a folder without pictures")
    with open_image(picture, DEFAULT_LIMITS) as image:
        size = list(image.size)
    return taught(row, times, points, size, style)


def _centre(box: list[float] | None) -> list[float] | None:
    """None for a box without size, which stands for a hidden object."""
    if box is None or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        return None
    x, y, width, height = box
    return [x + width / 2, y + height / 2]


def moca(disk: Disk, split: str, style: str) -> PackedRecords:
    """``MoCA/Annotations/annotations.csv``: of the VGG image annotator, comments from "#" on;
    second column ``["/{name}/{number}.jpg"]``, fifth ``[2, x, y, width, height]``. Pictures, 24 per
    second: ``MoCA/JPEGImages/{name}/``. The label is the name, without its number."""
    file, fps = "MoCA/Annotations/annotations.csv", 24

    def box(cells: list[str]) -> Iterator[Record]:
        if not cells[0].startswith("#"):
            (path,) = map(PurePosixPath, json.loads(cells[1]))
            _, *numbers = map(float, json.loads(cells[4]))
            yield {"name": path.parent.name, "number": int(path.stem), "box": numbers}

    found: dict[str, dict[int, list[float]]] = {}
    for r in disk.each(disk.cells(file), box):
        found.setdefault(r["name"], {})[r["number"]] = r["box"]

    def row(name: str) -> Row:
        boxes = sorted(found[name].items())
        kept = once_a_second(number / fps for number, _ in boxes)
        return {
            "video": f"MoCA/JPEGImages/{name}",
            "label": re.sub(r"_\d+$", "", name).replace("_", " "),
            "fps": fps,
            "duration": (boxes[-1][0] + 1) / fps,
            "boxes": [boxes[i] for i in kept],
        }

    return lazily(disk, map(row, found), partial(_boxes, style))
