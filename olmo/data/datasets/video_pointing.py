"""Pointing and counting in videos. Points are in per cent of width and height, by time. Videos are
copies with two frames per second; of one longer than ``MAX_S`` seconds a clip is shown."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from functools import partial

from olmo.data.datasets.disk import Disk, Row, structs
from olmo.data.datasets.draws import CONVERSATION, COUNT_QUESTION, ONE_STYLE
from olmo.data.datasets.masks import rle_mask
from olmo.data.datasets.messages import clip_times
from olmo.data.datasets.tables import of_rows
from olmo.data.datasets.web_videos import slow_video
from olmo.data.records import Flaw, LeftOut, PackedRecords, Record

log = logging.getLogger(__name__)

STYLES = ["video_point", "video_point_count"]
HOW_MANY = 'How many "{}" are there in the video?'
MAX_S = 63.0
FPS = 2.0
KINDS = (
    *("action_or_event", "animal", "anomaly", "comparative reference", "indirect reference"),
    *("object", "referring expression", "spatial reference"),
)
ACADEMIC_MAX_POINTS = 60
ACADEMIC_VIDEOS = {
    "lvvis": "LV-VIS/{split}/videos-2fps/{video_name}.mp4",
    "ovis": "OVIS/videos-2fps/{video_name}.mp4",
    "burst": "TAO-Amodal/{split}/videos-2fps/{dataset}/{video_name}.mp4",
    "refdavis17": "Ref-DAVIS17/{split}/videos-2fps/{video_name}",
    "mevis": "mevis/MeViS_release/{split}/videos-2fps/{video_name}",
    "refyoutube": "Ref-YT-VOS/{split}/videos-2fps/{video_name}",
}
"""Subset -> video."""


def _message(row: Row, label: str, times: list[float], draws: list[str]) -> Record:
    """Where, or where and how many. ``points``: ``[x, y]`` at each of ``times``."""
    points = [sorted([float(p["x"]), float(p["y"])] for p in structs(at)) for at in row["points"]]
    Flaw.when(len(times) != len(points), "another number of timestamps than of lists of points")
    message = {"label": label, "count": int(row["count"]), "points": points, "timestamps": times}
    return message | {"styles": STYLES, "draw": draws}


def web_points(disk: Disk, split: str, fewest: int, most: int) -> Iterator[Record]:
    """``Molmo2-VideoPoint/{kind}``: video_id, video_source, label, count, question,
    video_duration, clip_start, clip_end, two_fps_timestamps, points. Rows of ``fewest`` to
    ``most`` points; all on one video that is shown whole are one example."""

    def example(numbered: tuple[int, Row]) -> Record:
        number, row = numbered
        times, duration = [float(t) for t in row["two_fps_timestamps"]], row["video_duration"]
        bounds = [row["clip_start"], row["clip_end"]]
        LeftOut.when(None not in bounds and bounds[1] - bounds[0] > MAX_S, "the clip is too long")
        LeftOut.when(not fewest <= row["count"] <= most, "another number of points")
        whole = duration <= MAX_S
        bounds = [0.0, duration] if whole else bounds
        LeftOut.when(None in bounds, "a long video without a clip")
        clip, (start, end) = clip_times(*bounds), bounds
        needed = times or [0.0, min(duration, MAX_S)]
        inside = 0 <= start <= min(needed) and max(needed) <= end <= duration
        LeftOut.when(not inside, "the clip is not in the video, or the points not in the clip")
        shown = [round((t - start) * FPS) / FPS for t in times]
        message = _message(row, row["label"], shown, [ONE_STYLE, COUNT_QUESTION])
        name = row["video_id"] if whole else f"{row['video_id']}#{number}"
        return {
            "video": slow_video(disk, row),
            "metadata": clip | {"example_id": name},
            "message_list": [message | {"question": row["question"]}],
            "draw": [CONVERSATION],
        }

    folders = [f"Molmo2-VideoPoint/{kind}" for kind in KINDS]
    there = [folder for folder in folders if disk.exists(folder)]
    if absent := set(folders) - set(there):
        log.warning("%s: absent, and so left out: %s", disk.home, ", ".join(sorted(absent)))
    rows = itertools.chain.from_iterable(disk.table_rows(f, split) for f in there or folders)
    return disk.each(enumerate(rows), example)


def academic_points(row: Row) -> Record:
    """``molmo2-academic-video-points-{split}``: subset, video_name, dataset, category, count,
    timestamps, points, video_duration, clip_start_time, clip_end_time."""
    moments = sorted(zip(row["timestamps"], row["points"], strict=True), key=lambda m: m[0])
    times = [float(time) for time, _ in moments]
    LeftOut.when(row["count"] > ACADEMIC_MAX_POINTS, "too many points")
    LeftOut.when(times and times[-1] - times[0] > MAX_S, "the points lie too far apart")
    clip = clip_times(row["clip_start_time"], row["clip_end_time"])
    shown = [time - clip["clip_start_time"] for time in times]
    label = row["category"].lower()
    found = _message(row | {"points": [p for _, p in moments]}, label, shown, [ONE_STYLE])
    if row["split"] != "train":
        found["question"] = HOW_MANY.format(label)
    return {"video": ACADEMIC_VIDEOS[row["subset"]].format_map(row), "metadata": clip} | found


# --- benchmarks --------------------------------------------------------------------------------


def count_eval(row: Row) -> Record:
    """``Molmo2-VideoCountEval``: video_id, video_source, label, category, count, question,
    clip_start, clip_end."""
    metadata = {"example_id": f"{row['video_id']}_{row['row_number']}", "subset": row["category"]}
    metadata |= {"count": int(row["count"])}
    if row["clip_start"] is not None:
        metadata |= clip_times(row["clip_start"], row["clip_end"])
    asked = {"label": row["label"], "question": row["question"], "style": "video_count"}
    return asked | {"answer": str(row["count"]), "metadata": metadata}


def point_eval(disk: Disk, split: str) -> PackedRecords:
    """``Molmo2-VideoPointEval``: video_id, video_source, label, video_duration, width, height,
    two_fps_timestamps, points (in pixels), masks (of each point, by frame)."""
    columns = ("label", "video_duration", "width", "height", "two_fps_timestamps", "masks")
    rows = disk.table("Molmo2-VideoPointEval", split, *columns, "points")
    found = zip(rows.column("video_id"), rows.column("video_source"), strict=True)
    media = (slow_video(disk, {"video_id": str(v), "video_source": s}) for v, s in found)
    packed = ({"video": video, "rows": [i]} for i, video in enumerate(media))
    complete = partial(of_rows, table=rows, messages=_gold_points)
    return PackedRecords.pack(packed, complete=complete)


def _gold_points(row: Row) -> Record:
    """Points (t, x, y) in seconds and pixels, and of each the masks of its object by time."""
    size, times = (row["width"], row["height"]), [float(t) for t in row["two_fps_timestamps"]]
    points = [(float(p["x"]), float(p["y"])) for p in structs(row["points"])]
    masks = [{m["frame_id"] / FPS: rle_mask(m["rle"]) for m in structs(o)} for o in row["masks"]]
    if not len(times) == len(points) == len(masks):
        raise ValueError(f"{len(times)} times, {len(points)} points, masks of {len(masks)} objects")
    return {
        "label": row["label"],
        "question": HOW_MANY.format(row["label"]),
        "style": "video_point_count",
        "timestamps": times,
        "points": [[[round(v / s * 100, 1) for v, s in zip(p, size, strict=True)]] for p in points],
        "metadata": {
            "example_id": f"{row['video_id']}_{row['label']}",
            "gt_abs_triplets": [(t, *p) for t, p in zip(times, points, strict=True)],
            "gt_abs_masks": masks,
            "duration": float(row["video_duration"]),
        },
    }
