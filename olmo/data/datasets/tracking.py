"""Tracks of objects in videos, from masks: a point per object and second, the pixel of its mask
that is nearest to the mask's centre.

An object is listed where its annotation has an entry, with None where that says that it is hidden.
Videos are folders of pictures at a fixed rate, but for those of Molmo2. There is a reader for each
layout; ``style`` says what is asked, without it they are benchmarks. Where the files of a set go,
and the rate of one that does not tell it (30 per second), are ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.datasets.disk import Disk, Row, file_text, structs
from olmo.data.datasets.draws import CLIP, CLIP_S, ONE_OBJECT
from olmo.data.datasets.masks import file_mask, mask_point, rle_mask
from olmo.data.datasets.tables import of_rows
from olmo.data.datasets.web_videos import web_video
from olmo.data.records import PackedRecords, Record, reading

TRACK, SINGLE = "video_point_track_per_frame", "video_single_point_track_per_frame"
SAMPLING_FPS = 1


def once_a_second(times: Iterable[float]) -> list[int]:
    """Which of ``times`` (in seconds, ascending) are the first of their second."""
    found: dict[int, int] = {}
    for i, t in enumerate(times):
        found.setdefault(int(t * SAMPLING_FPS + 1e-6), i)
    return list(found.values())


def taught(row: Row, times: list[float], points: list[Row], scale: Any, style: str) -> Record:
    """The message of training on ``points`` (object -> ``[x, y]``, or None where it is hidden) at
    ``times``. ``row``: label, duration in seconds, and fps if the video is a folder."""
    seen = {o for one in points for o, point in one.items() if point is not None}
    if style == SINGLE and seen:
        points = [{o: point for o, point in one.items() if o in seen} for one in points]
    elif style == SINGLE:
        style = TRACK  # there is no point to start from
    shown = [i for i, one in enumerate(points) if one]
    message = {
        "label": row["label"],
        "points": [points[i] for i in shown],
        "timestamps": [times[i] for i in shown],
        "point_scale": scale,
        "style": style,
        "sampling_fps": SAMPLING_FPS,
    }
    if "fps" in row:
        message["metadata"] = {"frame_rate": row["fps"]}
    draws = [ONE_OBJECT] if style == SINGLE and len(seen) > 1 else []
    if row["duration"] > CLIP_S:
        message["duration"] = row["duration"]
        draws.append(CLIP)
    return message | ({"draw": draws} if draws else {})


def lazily(
    disk: Disk, rows: Iterable[Row], convert: Callable[[Path, Row], Record]
) -> PackedRecords:
    """Examples that are made of ``rows``, which name their video, when they are asked for."""
    return PackedRecords.pack(rows, disk.lose, partial(convert, disk.home))


# --- from masks to points ----------------------------------------------------------------------


def _masks(home: Path, row: Row) -> dict[int, dict[str, np.ndarray]]:
    """Frame number -> object -> mask. A frame has run lengths by object, or the path of a picture
    in which an object's number is its colour; who is not in that picture is not listed."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for frame, given in row["frames"]:
        if isinstance(given, str):
            seen = {o: file_mask(home / given, int(o)) for o in row["objects"]}
            found[int(frame)] = {o: mask for o, mask in seen.items() if mask.any()}
        else:
            found[int(frame)] = {o: rle_mask(rle) for o, rle in given.items()}
    return found


def _evaluated(home: Path, row: Row) -> Record:
    masks = _masks(home, row)
    seen = {f: {o: m for o, m in one.items() if m.any()} for f, one in masks.items()}
    seen = {frame: one for frame, one in seen.items() if one}
    objects = row.get("objects") or dict.fromkeys(o for one in masks.values() for o in one)
    metadata = {
        "example_id": row["id"],
        "objects": list(objects),  # also those that are never seen
        "points": {f: {o: mask_point(m) for o, m in one.items()} for f, one in seen.items()},
        "masks": seen,
        "video_fps": row["fps"],
    }
    metadata |= {"category": row["category"]} if row.get("category") else {}
    metadata |= {"frame_rate": row["fps"]} if row.get("folder", True) else {}
    question = {"label": row["label"], "style": TRACK, "sampling_fps": SAMPLING_FPS}
    return question | {"metadata": metadata}


def _trained(style: str, home: Path, row: Row) -> Record:
    masks = _masks(home, row)
    points = [{o: mask_point(mask) for o, mask in one.items()} for one in masks.values()]
    sizes = [mask.shape for one in masks.values() for mask in one.values()]
    scale = [sizes[0][1], sizes[0][0]] if sizes else 100
    return taught(row, [frame / row["fps"] for frame in masks], points, scale, style)


# --- layouts -----------------------------------------------------------------------------------


def referring(
    disk: Disk, split: str, folders: list[str], fps: float, style: str | None = None
) -> PackedRecords:
    """``folders``: expressions, frames, masks, in which ``{split}`` is filled in.

    Expressions: JSON, ``videos``: name -> ``frames`` (names without extension), ``expressions``:
    key -> ``exp`` and the objects, one or a list. Frames: a folder for each name. Masks: JSON, id
    of ``anno_id`` -> run lengths or null for each frame; or a folder, ``{name}/{frame}.png``, with
    the numbers of ``obj_id`` as colours. In place of expressions ``objects``: number ->
    ``category`` (LVOS); without ``frames`` these are the pictures of masks.
    """
    expressions, frames, masks = (path.format(split=split) for path in folders)
    runs = disk.json(masks) if masks.endswith(".json") else None

    def rows(item: tuple[str, Row]) -> Iterator[Row]:
        name, video = item
        listed = video.get("frames") or [f.partition(".")[0] for f in disk.names(f"{masks}/{name}")]
        numbers = once_a_second(i / fps for i in range(len(listed)))
        said = video["expressions"] if "expressions" in video else _alone(video["objects"])
        for key, one in said.items():
            row = {"video": f"{frames}/{name}", "id": f"{name}_{key}", "label": one["exp"]}
            row |= {"fps": fps, "duration": len(listed) / fps}
            given = one["obj_id" if runs is None else "anno_id"]
            ids = [str(i) for i in (given if isinstance(given, list) else [given])]
            row["objects"] = ids
            if runs is None:
                row["frames"] = [[i, f"{masks}/{name}/{listed[i]}.png"] for i in numbers]
            else:
                mine = {o: runs[o] for o in ids}
                row["frames"] = [[i, {o: m[i] for o, m in mine.items() if m[i]}] for i in numbers]
            yield row

    found = disk.each(disk.items(expressions, "videos"), rows)
    return lazily(disk, found, _evaluated if style is None else partial(_trained, style))


def _alone(objects: Row) -> Row:
    """An expression for each object."""
    return {o: {"exp": of.get("category", "object"), "obj_id": o} for o, of in objects.items()}


def instances(
    disk: Disk, split: str, file: str, frames: str, fps: float, style: str
) -> PackedRecords:
    """``file``: JSON as YouTube-VIS has it: ``videos`` (id, file_names), ``annotations`` (id,
    video_id, category_id, segmentations: run lengths or null for each frame), ``categories`` (id,
    name). Pictures: ``{frames}/{file_name}``. One example per video and category."""
    content = disk.json(file)
    names = _names(disk, file, content)
    tracks: dict[str, list[Row]] = {}
    for track in disk.each(
        disk.numbered(file, content["annotations"], "annotations"),
        lambda t: (
            {"kind": t["category_id"], "video": str(t["video_id"]), "id": str(t["id"])}
            | {"masks": t["segmentations"]}
        ),
    ):
        tracks.setdefault(track["video"], []).append(track)

    def rows(video: Row) -> Iterator[Row]:
        listed, mine = video["file_names"], tracks.get(str(video["id"]), ())
        row = {"video": f"{frames}/{listed[0].rpartition('/')[0]}", "fps": fps}
        row |= {"duration": len(listed) / fps}
        masks = [
            [i, {t["id"]: t["masks"][i] for t in mine if t["masks"][i]}]
            for i in once_a_second(i / fps for i in range(len(listed)))
        ]
        return _by_kind(row, masks, {t["id"]: t["kind"] for t in mine}, names)

    found = disk.each(disk.numbered(file, content["videos"], "videos"), rows)
    return lazily(disk, found, partial(_trained, style))


def burst(disk: Disk, split: str, style: str) -> PackedRecords:
    """``TAO-Amodal/burst/{split}.json``: ``categories`` (id, name), ``sequences``: dataset,
    seq_name, fps, width, height, all_image_paths, annotated_image_paths, track_category_ids
    (track -> id), segmentations (track -> ``rle``, for each annotated picture). Pictures:
    ``TAO-Amodal/frames/{split}/{dataset}/{seq_name}/``. One example per sequence and category."""
    file = f"TAO-Amodal/burst/{split}.json"
    content = disk.json(file)
    names = _names(disk, file, content)

    def rows(video: Row) -> Iterator[Row]:
        fps, size = float(video["fps"]), [video["height"], video["width"]]
        number = {path: i for i, path in enumerate(video["all_image_paths"])}
        at = [number[path] for path in video["annotated_image_paths"]]
        folder = f"TAO-Amodal/frames/{split}/{video['dataset']}/{video['seq_name']}"
        row = {"video": folder, "fps": fps, "duration": len(number) / fps}
        masks = []
        for i in once_a_second(n / fps for n in at):
            seen = video["segmentations"][i].items()
            masks.append([at[i], {o: {"size": size, "counts": m["rle"]} for o, m in seen}])
        return _by_kind(row, masks, video["track_category_ids"], names)

    found = disk.each(disk.numbered(file, content["sequences"], "sequences"), rows)
    return lazily(disk, found, partial(_trained, style))


def _by_kind(
    row: Row, masks: list[Any], kinds: dict[str, Any], names: dict[str, str]
) -> Iterator[Row]:
    """A row for each of ``kinds`` (object -> kind)."""
    for kind in dict.fromkeys(kinds.values()):
        mine = [[i, {o: m for o, m in seen.items() if kinds[o] == kind}] for i, seen in masks]
        yield row | {"label": names[str(kind)], "frames": mine}


def _names(disk: Disk, file: str, content: Row) -> dict[str, str]:
    kinds = disk.numbered(file, content["categories"], "categories")
    return disk.lookup(kinds, lambda kind: (str(kind["id"]), kind["name"]))


def vicas(disk: Disk, split: str, style: str) -> PackedRecords:
    """``ViCaS/splits/v1.0/{split}.json``: a list of videos (numbers).
    ``ViCaS/annotations/v1.0/{number:06d}.json``: ``segmentations`` (frame_id, object_ids,
    mask_rles), ``object_referrals`` (prompt, track_ids). Pictures, 30 per second:
    ``ViCaS/video_frames/{number:06d}/``. One example per video, whose large file is read last."""

    def row(number: Any) -> Row:
        name = f"{int(number):06d}"
        file = f"ViCaS/annotations/v1.0/{name}.json"
        return {"video": f"ViCaS/video_frames/{name}", "file": file, "fps": 30}

    rows = disk.each(disk.rows(f"ViCaS/splits/v1.0/{split}.json"), row)
    return lazily(disk, rows, partial(_vicas, style))


def _vicas(style: str, home: Path, row: Row) -> Record:
    with reading(lambda: str(home / row["file"])):
        return _vicas_tracks(style, home, row, json.loads(file_text(home / row["file"])))


def _vicas_tracks(style: str, home: Path, row: Row, content: Row) -> Record:
    seen = content["segmentations"]
    seen = [seen[i] for i in once_a_second(f["frame_id"] / row["fps"] for f in seen)]
    messages = []
    for said in content["object_referrals"]:
        frames = []
        for frame in seen:
            masks = dict(zip(frame["object_ids"], frame["mask_rles"], strict=True))
            mine = {str(o): masks[o] for o in said["track_ids"] if o in masks}
            frames.append([frame["frame_id"], mine])
        one = row | {"label": said["prompt"], "frames": frames, "duration": 0.0}  # they are short
        messages.append(_trained(style, home, one))
        del messages[-1]["metadata"]  # is that of the example
    return {"message_list": messages, "metadata": {"frame_rate": row["fps"]}}


# --- videos of Molmo2 --------------------------------------------------------------------------


def molmo2_video(row: Row, style: str) -> Record:
    """``Molmo2-VideoTrack`` (the layout is ours): video_id, label, duration, frames (``{time,
    objects}``, an object ``{id, x, y}`` in per cent, ``occluded`` if it is hidden)."""

    def point(o: Row) -> list[Any] | None:
        return None if o.get("occluded") else [o["x"], o["y"]]

    frames = structs(row["frames"])
    points = [{str(o["id"]): point(o) for o in structs(f["objects"])} for f in frames]
    about = {"label": row["label"], "duration": float(row["duration"])}
    return taught(about, [float(f["time"]) for f in frames], points, 100, style)


def molmo2_video_eval(disk: Disk, split: str) -> PackedRecords:
    """``Molmo2-VideoTrackEval`` (the layout is ours): id, video_id, label, fps, category if there
    is one, frames (``{frame, objects}``, an object ``{id, size, counts}``)."""
    rows = disk.table("Molmo2-VideoTrackEval", split, "id", "video_id", "label", "fps", "frames")
    names = enumerate(rows.column("video_id"))
    found = ({"video": web_video(disk, {"video_id": name}), "rows": [i]} for i, name in names)
    complete = partial(of_rows, table=rows, messages=_table_evaluated)
    return PackedRecords.pack(found, complete=complete)


def _table_evaluated(row: Row) -> Record:
    frames = [
        [f["frame"], {str(o["id"]): o for o in structs(f["objects"])}]
        for f in structs(row["frames"])
    ]
    return _evaluated(Path(), row | {"frames": frames, "folder": False})
