"""Actions and events as questions: a video or a clip of one, and its label or description. The
question is one of a few wordings, drawn for every example anew.

Lists of the videos that are there may stand beside the annotations; without one the folders tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.draws import NUMBERS, WORDING
from olmo.data.datasets.messages import MC, SA, as_text, clip_times, short
from olmo.data.records import Flaw, LeftOut, Record

ACTIVITY = [
    "What activity does the video depict?",
    "Which activity can be seen in the video?",
    "What is going on in this video?",
    "Describe in a few words what is done in the video.",
]
ACTION = ACTIVITY[:3]


def label(answer: str, style: str, wordings: list[str]) -> Record:
    """A message that asks for ``answer`` in one of ``wordings``."""
    Flaw.when(not isinstance(answer, str) or not answer, "the label is no text")
    return {"wordings": wordings, "answer": answer, "style": style, "draw": [WORDING]}


def _extensions(disk: Disk, path: str) -> dict[str, str | None]:
    """Name of a video -> its extension (``.mp4``, null for no file); none if the file is absent."""
    return dict(disk.items(path)) if disk.exists(path) else {}


def _names(disk: Disk, path: str) -> set[str] | None:
    """The names that a JSON file lists; None if it is absent."""
    return {n for n in disk.json(path) if isinstance(n, str)} if disk.exists(path) else None


def _parts(disk: Disk, path: str, key: str) -> Iterator[tuple[str, Row, Row]]:
    """Id, entry and part for each of the parts under ``key`` in the entries of a database. One
    that has no list of them fails when its part is looked at."""
    for name, row in disk.items(path, "database"):
        parts = row.get(key) if isinstance(row, dict) else None
        for part in parts if isinstance(parts, list) else [{}]:
            yield name, row, part


def _with_extension(disk: Disk, folder: str, name: str, known: dict[str, str | None]) -> str:
    """The video; see ``_extensions`` for ``known``."""
    if name not in known:
        return disk.first(*(f"{folder}/{name}.{e}" for e in ("mkv", "mp4", "webm")))
    LeftOut.when(not known[name], "its video is listed as missing")
    return f"{folder}/{name}{known[name]}"


# --- whole videos ------------------------------------------------------------------------------


def moments_in_time(row: Row) -> Record:
    """Moments in Time: label, transformed_video_path (in ``{split}-videos-renamed/``) and missing;
    or of the published file video_path (in ``{split}-videos/``) and label."""
    text, renamed = row["label"].replace("+", " "), "transformed_video_path" in row
    LeftOut.when(row.get("missing", "").lower() == "true", "its video is listed as missing")
    person = text != row["label"] and text.startswith(("child ", "adult "))
    LeftOut.when(person, "what a child or an adult does")
    name = row["transformed_video_path" if renamed else "video_path"]
    folder = f"moments_in_time/Moments_in_Time_Raw/{row['split']}-videos{'-renamed' * renamed}"
    return {"video": f"{folder}/{name}"} | label(text, "moments_in_time_label", ACTION)


def kinetics(disk: Disk, split: str) -> Iterator[Record]:
    """``kinetics/kinetics710/k{600,700}_{split}_list_videos.txt``: lines "path number", the number
    is that of a line of ``k710_label_map.txt``; a file that is listed twice has its last label.
    ``kinetics/kinetics_existing_videos.json`` and the column video of ``kinetics_corrupt.parquet``
    list paths below ``kinetics``."""
    lists, corrupt = "kinetics/kinetics710", "kinetics/kinetics_corrupt.parquet"
    labels = dict(enumerate(disk.lines(f"{lists}/k710_label_map.txt")))
    existing = _names(disk, "kinetics/kinetics_existing_videos.json")
    unusable = {r["video"] for r in disk.parquet(corrupt)} if disk.exists(corrupt) else set()

    def message(listed: tuple[str, str]) -> Record:
        release, line = listed
        path, _, number = line.rpartition(" ")
        text = labels.get(int(number), "")
        Flaw.when(not text, "the label map has no such label")
        folder = text if release == "700" else text.replace(" ", "_")
        video = f"kinetics{release}/{split}/{folder}/{path.rpartition('/')[2]}"
        absent = existing is not None and video not in existing
        LeftOut.when(absent, "its video is not listed as existing")
        LeftOut.when(video in unusable, "its video is listed as corrupt")
        return {"video": f"kinetics/{video}"} | label(text, "kinetics_label", ACTIVITY)

    for release in ("700", "600"):
        last = {}
        for line in disk.lines(f"{lists}/k{release}_{split}_list_videos.txt"):
            last[line.rpartition(" ")[0].rpartition("/")[2]] = (release, line), disk.place
        # each with its place in the file, which is named where one is left out
        yield from disk.each((listed for listed, disk.place in last.values()), message)


def countix(disk: Disk, split: str, choice: bool) -> Iterator[Record]:
    """``countix_{split}_mapped.csv``: class, count, video_path (in ``kinetics/kinetics700``), and
    ``class_to_question.json``: class -> questions; in ``Countix`` or ``kinetics/kinetics700``."""
    homes = ("Countix", "kinetics/kinetics700")
    questions = disk.json(disk.first(*(f"{home}/class_to_question.json" for home in homes)))

    def message(row: Row) -> Record:
        count, wordings = int(row["count"]), questions.get(row["class"])
        Flaw.when(not wordings, "no question for the class")
        Flaw.when(choice and count < 1, "no four numbers from 1 on have the count among them")
        found = label(str(count), MC if choice else SA, [as_text(w) for w in wordings])
        draws = [WORDING, NUMBERS] if choice else [WORDING]
        return {"video": f"kinetics/kinetics700/{row['video_path']}"} | found | {"draw": draws}

    rows = disk.csv(disk.first(*(f"{home}/countix_{split}_mapped.csv" for home in homes)))
    return disk.each(rows, message)


EPIC_CORRUPT = {
    *("P01_102_229.910_234.300", "P01_102_90.240_93.490", "P01_104_65.170_92.450"),
    "P02_118_722.700_723.550",
}


def epic_kitchens(row: Row) -> Record:
    """EPIC-KITCHENS-100: participant_id, video_id, start_timestamp, stop_timestamp, narration,
    missing (optional). Clips are ``{video_id}_{start}_{stop}.mp4``, in seconds."""

    def seconds(text: str) -> float:
        hours, minutes, rest = map(float, text.split(":"))
        return 3600 * hours + 60 * minutes + rest

    LeftOut.when(row.get("missing", "").lower() == "true", "its clip is listed as missing")
    start, stop = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
    clip = f"{row['video_id']}_{start:.3f}_{stop:.3f}"
    LeftOut.when(clip in EPIC_CORRUPT, "its clip is known to be corrupt")
    video = "/".join(["epic-kitchens-clips", row["participant_id"], "videos", f"{clip}.mp4"])
    return {"video": video} | label(row["narration"], "epic_kitchens_label", ACTION)


# --- clips -------------------------------------------------------------------------------------


def charades_sta(disk: Disk, split: str) -> Iterator[Record]:
    """``Charades/charades_sta_{split}.txt``: "id start end##caption". ``existing_videos.json``
    lists ids."""
    existing = _names(disk, "Charades/existing_videos.json")

    def message(line: str) -> Record:
        place, _, caption = line.partition("##")
        name, start, end = place.split()
        absent = existing is not None and name not in existing
        LeftOut.when(absent, "its video is not listed as existing")
        video = {"video": f"Charades/Charades_v1/{name}.mp4", "metadata": clip_times(start, end)}
        return video | label(caption, "charades_sta", ACTIVITY)

    return disk.each(disk.lines(f"Charades/charades_sta_{split}.txt"), message)


def coin(disk: Disk, split: str) -> Iterator[Record]:
    """``coin/COIN.json``: database {id: {subset, annotation [{segment, label}]}}.
    ``file_extensions.json``: id -> extension; ``coin_corrupt.parquet``: video_id, metadata
    {clip_start_time, clip_end_time}."""
    known, table = _extensions(disk, "coin/file_extensions.json"), "coin/coin_corrupt.parquet"
    rows = disk.parquet(table) if disk.exists(table) else ()
    corrupt = [(row["video_id"], row["metadata"]) for row in rows]

    def message(found: tuple[str, Row, Row]) -> Iterator[Record]:
        name, row, part = found
        if split in row["subset"]:
            video = _with_extension(disk, "coin/videos", name, known)
            LeftOut.when(part.get("segment") is None, "it has no segment")
            times = clip_times(*part["segment"])
            LeftOut.when((name, times) in corrupt, "the segment is listed as corrupt")
            yield {"video": video, "metadata": times} | label(part["label"], "coin_label", ACTION)

    return disk.each(_parts(disk, "coin/COIN.json", "annotation"), message)


YOUCOOK2_CORRUPT = [("UB1_MNpdvgs", 595, 613), ("UB1_MNpdvgs", 624, 635)]


def youcook2(disk: Disk, split: str) -> Iterator[Record]:
    """``youcook2/youcookii_annotations_trainval.json``: database {id: {subset, annotations
    [{segment, sentence}]}}. ``video_extensions.json``: id -> extension. A question on the clip of
    a step, and for the whole video a caption of it."""
    known = _extensions(disk, "youcook2/video_extensions.json")

    def messages(found: tuple[str, Row, Row]) -> Iterator[Record]:
        name, row, part = found
        if row["subset"] != split:
            return
        video = _with_extension(disk, "youcook2/videos", name, known)
        times, text = clip_times(*part["segment"]), part["sentence"]
        start, end = times.values()
        text = text if text.endswith(".") else f"{text}."
        if (name, start, end) not in YOUCOOK2_CORRUPT:
            yield {"video": video, "metadata": times} | label(text, "youcook2_label", ACTION)
        caption = {"text": text, "start_time": start, "end_time": end}
        yield {"video": video, "style": "video_clip_short_caption_start_end"} | caption

    table = "youcook2/youcookii_annotations_trainval.json"
    return disk.each(_parts(disk, table, "annotations"), messages)


def activitynet(disk: Disk, split: str) -> Iterator[Record]:
    """``ActivityNet/activity_net.v1-3.min.json``: database {id: {annotations [{segment, label}]}},
    clips of all subsets; ``{split}_q.json``: video_name, question, question_id; ``{split}_a.json``:
    question_id, answer. ``missing_videos.json`` lists ids."""
    missing = _names(disk, "ActivityNet/missing_videos.json") or set()
    seen = set()

    def video(name: str) -> Record:
        LeftOut.when(name in missing, "its video is listed as missing")
        folder = f"ActivityNet/all-videos/{name}"
        inside = f"{folder}/{name}.mp4"
        there = disk.exists(folder) and disk.exists(inside)
        return {"video": inside if there else f"{folder}.mp4"}

    def clip(found: tuple[str, Row, Row]) -> Record:
        name, _, part = found
        shown = video(name) | {"metadata": clip_times(*part["segment"])}
        message = label(part["label"], "activitynet_label", ACTIVITY)
        key = str((shown, part["label"]))
        LeftOut.when(key in seen, "the same label of the same clip")
        seen.add(key)
        return shown | message

    database = "ActivityNet/activity_net.v1-3.min.json"
    yield from disk.each(_parts(disk, database, "annotations"), clip)
    rows = disk.rows(f"ActivityNet/{split}_a.json")
    answers = disk.lookup(rows, lambda r: (str(r["question_id"]), r["answer"]))

    def question(row: Row) -> Record:
        shown, text = video(row["video_name"]), row["question"]
        LeftOut.when(str(row["question_id"]) not in answers, "a question without an answer")
        text = text if text.endswith("?") else f"{text.strip()}?"
        return shown | short(text, answers[str(row["question_id"])])

    yield from disk.each(disk.rows(f"ActivityNet/{split}_q.json"), question)
