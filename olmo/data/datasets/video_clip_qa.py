"""Questions on clips of videos, cut beforehand or named by their times, and on moments."""

from __future__ import annotations

import re
from collections.abc import Iterator

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.draws import SHUFFLE, WORDING
from olmo.data.datasets.messages import among, choice, clip_times, short
from olmo.data.records import LeftOut, Record

HOW2QA_CLIPS = "how2QA/video-clips"
HOW2QA_CORRUPT_ID = "Z1NEMNKgR9U"
HOW2QA_CORRUPT = {"onGTfd-EKrs_89.15_89.44.mp4", "bkl7eK8B6ig_147.73_149.83.mp4"}


def how2qa(disk: Disk, split: str) -> Iterator[Record]:
    """``how2QA/how2QA_{split}_release.csv`` without a header: id, [start:end], three wrong answers,
    question, right answer. Clips ``how2QA/video-clips/{id}_{start}_{end}.{ext}``; the extension is
    that of ``extensions.json``, else of the first clip of the id."""
    known = "how2QA/extensions.json"
    extensions = dict(disk.items(known)) if disk.exists(known) else {}
    for name in disk.names(HOW2QA_CLIPS):
        if found := re.fullmatch(r"(.+)_[\d.]+_[\d.]+\.(\w+)", name):
            extensions.setdefault(found[1], found[2])

    def message(row: list[str]) -> Record:
        start, end = (float(t) if "." in t else int(t) for t in row[1].strip("[]").split(":"))
        LeftOut.when(not start < end, "the segment has no length")
        LeftOut.when(not extensions.get(row[0]), "no clip of the video is there")
        clip = f"{row[0]}_{round(start, 2)}_{round(end, 2)}.{extensions[row[0]]}"
        corrupt = row[0] == HOW2QA_CORRUPT_ID or clip in HOW2QA_CORRUPT
        LeftOut.when(corrupt, "the clip is known to be corrupt")
        return {"video": f"{HOW2QA_CLIPS}/{clip}"} | among(row[2:5], row[5], row[6])

    return disk.each(disk.cells(f"how2QA/how2QA_{split}_release.csv"), message)


PAXION_WORDINGS = [
    "Which of these describes the action in the video?",
    "Which description fits what happens in the video?",
    "What action takes place in the video?",
]
NOT_SURE = "Not sure"
PAXION_EGO4D = "paxion/ego4d/egoclip_subset_action_antonyms_train_val_test_split"
PAXION_CORRUPT_ID = "703d550a-0a84-4bcf-9b45-e25c864ade70"
PAXION_CORRUPT = "1348c9f9-fc8b-40c7-b1ab-5b6281e5d390_978.617_979.098.mp4"


def paxion(disk: Disk, split: str) -> Iterator[Record]:
    """``paxion/ssv2/antonyms/{split}_with_rel_path.json``: rel_vid_path, label,
    label_action_antonym_clip_text; and Ego4D, ``PAXION_EGO4D/{split}.jsonl``: video_uid,
    clip_start, clip_end, clip_text, action_antonym_clip_text. A clip of Ego4D may be cut already,
    ``paxion-ego4d-clips/{video_uid}_{start:.3f}_{end:.3f}.mp4``."""

    def ssv2(row: Row) -> Record:
        video = {"video": f"sth-sth-v2/videos/{row['rel_vid_path']}"}
        return video | _antonyms(row["label"], row["label_action_antonym_clip_text"])

    def ego4d(row: Row) -> Record:
        uid, times = row["video_uid"], clip_times(row["clip_start"], row["clip_end"])
        clip = "{}_{:.3f}_{:.3f}.mp4".format(uid, *times.values())
        corrupt = uid == PAXION_CORRUPT_ID or clip == PAXION_CORRUPT
        LeftOut.when(corrupt, "the clip is known to be corrupt")
        shown: Record = {"video": f"paxion-ego4d-clips/{clip}"}
        if not disk.exists(shown["video"]):
            shown = {"video": f"Ego4d/ego4d_data/v2/full_scale/{uid}.mp4", "metadata": times}
        texts = (_narration(row[k]) for k in ("clip_text", "action_antonym_clip_text"))
        return shown | _antonyms(*texts)

    rows = disk.rows(f"paxion/ssv2/antonyms/{split}_with_rel_path.json")
    yield from disk.each(rows, ssv2)
    yield from disk.each(disk.jsonl(f"{PAXION_EGO4D}/{split}.jsonl"), ego4d)


def _narration(text: str) -> str:
    """Without the mark of who acts ("#C"), and with a capital."""
    text = re.sub(r"^#\S\s*", "", text)
    return text[:1].upper() + text[1:]


def _antonyms(label: str, antonym: str) -> Record:
    drawn = {"wordings": PAXION_WORDINGS, "draw": [WORDING, SHUFFLE]}
    return choice("", [label, antonym, NOT_SURE], 0) | drawn


def star(row: Row, open_ended: bool) -> Iterator[Record]:
    """STAR: video_id, start, end, question, answer, choices (choice). SA, if open_ended, and MC."""
    metadata = {"metadata": clip_times(row["start"], row["end"])}
    question, answer = row["question"], row["answer"]
    if open_ended:
        yield metadata | short(question, answer)
    options = [c["choice"] for c in row["choices"]]
    right = [i for i, option in enumerate(options) if option == answer]
    LeftOut.when(not right, "the answer is not among the options")
    yield metadata | choice(question, options, right[-1])


# --- moments and spans --------------------------------------------------------------------------


QV_QUESTION = (
    "Here is a query: {query}. Where are all the segments for the query? "
    "Report the segments in seconds."
)
QV_MAX_WINDOWS = 5
QV_CLIP_S = 2
QV_TOP_SCORE = 4
QV_METADATA = ("query", "duration", "relevant_windows", "relevant_clip_ids", "saliency_scores")


def qv_highlights(disk: Disk, split: str) -> Iterator[Record]:
    """``QVHighlights/highlight_{split}_release.jsonl``: qid, query, duration, vid,
    relevant_windows, relevant_clip_ids, saliency_scores."""

    def message(row: Row) -> Record:
        windows, query = row["relevant_windows"], row["query"].rstrip(".")
        video = f"QVHighlights/videos/{row['vid']}.mp4"
        LeftOut.when(len(windows) > QV_MAX_WINDOWS, "more windows than the question is about")
        LeftOut.when(not disk.exists(video), "its video is not there")
        answer = "Segments: " + ", ".join(f"[{start}-{end}]" for start, end in windows)
        metadata = {
            "example_id": f"{row['qid']}_{row['vid']}",
            "video_path": str(disk.home / video),
            **{k: row[k] for k in QV_METADATA},
            "scaled_avg_scores": _clip_scores(row),
            "frame_sel_input": query,
        }
        message = short(QV_QUESTION.format(query=query), answer)
        return {"video": video, "metadata": metadata} | message

    return disk.each(disk.jsonl(f"QVHighlights/highlight_{split}_release.jsonl"), message)


def _clip_scores(row: Row) -> list[float]:
    """Mean saliency of every 2 s clip, 0 to 1; clips without a score have 0."""
    scores = [0.0] * (int(row["duration"]) // QV_CLIP_S)
    for i, votes in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
        if i < len(scores):
            scores[i] = sum(votes) / len(votes) / QV_TOP_SCORE
    return scores


def ego4d(row: Row) -> Iterator[Record]:
    """Ego4D: clip, corrupt and metadata (optional), message_list [{question, answer, style}]."""
    LeftOut.when(row.get("corrupt"), "the clip is marked as corrupt")
    metadata = {k: v for k, v in (row.get("metadata") or {}).items() if v is not None}
    shown = {"metadata": metadata} if metadata else {}
    for message in row["message_list"]:
        yield shown | short(message["question"], message["answer"], message["style"])
