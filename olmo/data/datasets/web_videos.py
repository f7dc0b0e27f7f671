"""Where the videos from the web are that the tables of Molmo2 name by their ids."""

from __future__ import annotations

from pathlib import PurePosixPath

from olmo.data.datasets.disk import Disk, Row

EXTENSIONS = ("mp4", "mov", "mkv", "webm")
YOUTUBE = [f"youtube-cc/youtube-cc-{part}" for part in ("exist", "kw", "temporal")]
COPIES = {
    "youtube": [f"{folder}-2fps" for folder in YOUTUBE],
    "MammalNet": ["MammalNet/trimmed_video-2fps"],
    "generated": ["generated_videos"],
}
"""Source -> folders of the copies with two frames per second."""

LLAVA = "LLaVA-Video-178K"
LENGTHS = ("0_30_s", "30_60_s", "1_2_m", "2_3_m")
LLAVA_YOUTUBE = "youtube_v0_1/liwei_youtube_videos/videos/"
CAPTIONED = [
    *("youtube_temporal/batch_1/", "intern/batch_1/", "kw_youtube/batch_1/"),
    *(f"{LLAVA}/{s}_academic_v0_1/academic_source/activitynet/v_" for s in LENGTHS),
    *(f"{LLAVA}/{s}_{LLAVA_YOUTUBE}youtube_video_2024/ytb_" for s in LENGTHS),
    f"{LLAVA}/1_2_m_{LLAVA_YOUTUBE}hdvila/",
]
"""What comes before the id in other places of captioned videos."""


def web_video(disk: Disk, row: Row) -> str:
    """The video in the folder ``video_id``, in whichever place that folder is."""
    video_id = row["video_id"]
    folders = [f"{place}/{video_id}" for place in YOUTUBE]
    for folder in filter(disk.exists, folders):  # a listing per place, not per absent video
        for name in disk.names(folder):
            if name.rpartition(".")[2] in EXTENSIONS:
                return f"{folder}/{name}"
    return f"{folders[0]}/{video_id}.mp4"


def slow_video(disk: Disk, row: Row) -> str:
    """The copy with two frames per second, ``FOLDER/{video_id}_2fps.mp4``; of an id
    ``part/name``, ``FOLDER/part-2fps/name_2fps.mp4``. An unknown video_source may be any folder."""
    part, slash, name = row["video_id"].rpartition("/")
    inside = f"{part}-2fps/{name}" if slash else name
    folders = COPIES.get(row["video_source"]) or [f for found in COPIES.values() for f in found]
    return disk.first(*(f"{folder}/{inside}_2fps.mp4" for folder in folders))


def captioned_video(disk: Disk, row: Row, koala: dict[str, str]) -> str:
    """As ``web_video``, or in one of the other places; ``koala`` is what ``koala_names`` gives."""
    video_id = row["video_id"]
    stems = [f"{start}{video_id}" for start in CAPTIONED]
    if video_id in koala:
        stems.append(f"koala/batch_1/{koala[video_id]}")
    files = (f"{stem}.{extension}" for stem in stems for extension in EXTENSIONS)
    return disk.first(web_video(disk, row), *files)


def koala_names(disk: Disk) -> dict[str, str]:
    """Ids, with which the ``url`` in ``koala_meta/{name}.json`` ends, and the names."""

    def named(path: str) -> tuple[str, str]:
        url: str = disk.json(path)["url"]
        return url.rpartition("v=")[2], PurePosixPath(path).stem

    return disk.lookup(disk.glob("koala_meta/*.json"), named)
