"""A user's own data: one JSON object per line, checked in full before training starts.

    {"video": "clips/a.mp4", "question": "What happens?", "answer": "A door opens."}
    {"video": "clips/a.mp4", "question": "Which?", "options": ["a cup", "a book"],
     "answer": "a book", "start": 2.0, "end": 9.5,
     "subtitle": [{"start": 2.5, "end": 4.0, "text": "Look!"}]}

(each on one line). ``docs/datasets.md`` describes the keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olmo.config import nearest
from olmo.data.datasets.declare import DeclaredDataset, PackedRecords
from olmo.preprocessing.styles import KNOWN_STYLES

STYLE_ANSWER = "user_qa"
STYLE_VIDEO_CHOICE = "video_multiple_choice"
STYLE_VIDEO_CHOICE_SUBTITLE = "video_multiple_choice_w_subtitle"
STYLE_IMAGE_CHOICE = "a_okvqa_mc"
MAX_SHOWN = 20
MAX_OPTIONS = 26

Line = dict[str, Any]


class CustomDataError(ValueError):
    """A file of own data with mistakes; the message has them with their line numbers."""


@dataclass
class CustomDataset:
    """Examples of a jsonl file. Paths in it are relative to its own folder."""

    path: Path
    data: DeclaredDataset

    @classmethod
    def open(cls, path: str | Path) -> CustomDataset:
        """Read and check every line. All mistakes come in one ``CustomDataError``."""
        path = Path(path).absolute()
        if not path.is_file():
            raise CustomDataError(f"{path}: no such file (own data, one JSON object per line)")
        records, mistakes = [], []
        for number, text in enumerate(_lines(path), 1):
            if not text.strip():
                continue
            try:
                records.append(_record(text, path, number))
            except CustomDataError as e:
                mistakes.append(f"line {number}: {e}")
        if mistakes:
            shown = "".join(f"\n  {m}" for m in mistakes[:MAX_SHOWN])
            more = len(mistakes) - MAX_SHOWN
            shown += f"\n  ... and {more} more" if more > 0 else ""
            raise CustomDataError(f"{path}: {len(mistakes)} lines cannot be used:{shown}")
        if not records:
            raise CustomDataError(f"{path}: it is empty")
        packed = PackedRecords.pack(records)
        return cls(path, DeclaredDataset(path.name, "train", path.parent, packed))

    def __len__(self) -> int:
        return len(self.data)

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        return self.data.get(idx, rng)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as e:
        raise CustomDataError(f"{path}: not a text file in UTF-8: {e}") from e


def _record(text: str, path: Path, number: int) -> Line:
    """The record of one line."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError as e:
        raise CustomDataError(f"not valid JSON: {e.msg} at column {e.colno}") from e
    if not isinstance(line, dict):
        raise CustomDataError(f"expected an object in braces, got {text.strip()[:40]!r}")
    line = {key: value for key, value in line.items() if value is not None}
    mistakes = list(_mistakes(line, path.parent))
    if len(mistakes) > 1:
        mistakes = [f"({chr(ord('a') + i)}) {m}" for i, m in enumerate(mistakes)]
    if mistakes:
        raise CustomDataError("; ".join(mistakes))
    record: Line = {k: line[k] for k in ("video", "image") if k in line}
    record |= {"question": line["question"], "style": line.get("style") or _style(line)}
    record |= _answer(line)
    subtitle = line.get("subtitle")
    if isinstance(subtitle, list):
        subtitle = [[s["start"], s["end"], s["text"]] for s in subtitle]
    if subtitle:
        record["subtitle"] = subtitle
    record["metadata"] = {"example_id": f"{path.name}:{number}"}
    if "start" in line or "end" in line:
        clip = {"clip_start_time": line.get("start") or 0.0, "clip_end_time": line.get("end")}
        record["metadata"] |= clip
    if "frame_rate" in line:
        record["metadata"]["frame_rate"] = line["frame_rate"]
    return record


def _mistakes(line: Line, folder: Path) -> Iterator[str]:
    """All that is wrong with a line: unknown keys, single values, then values together."""
    for key in line:
        if key not in CHECKS:
            yield f"unknown key {key!r}; {nearest(key, CHECKS)}"
    good: Line = {}
    for key, check in CHECKS.items():
        try:
            if key in line:
                check(key, line[key])
                good[key] = line[key]
        except CustomDataError as e:
            yield str(e)
    for key in ("question", "answer"):
        if key not in line:
            yield f"no {key!r}"
    if len({"video", "image"} & set(line)) != 1:
        yield "expected either 'video' or 'image'"
    for key in ("subtitle", "start", "end", "frame_rate"):
        if key in line and "video" not in line:
            yield f"{key!r} needs a 'video'"
    if "video" not in line and str(good.get("style", "")).startswith("video_"):
        yield f"style {good['style']!r} needs a 'video'"
    if {"start", "end"} <= set(good) and not good["start"] < good["end"]:
        yield f"'start' {good['start']} is not before 'end' {good['end']}"
    yield from _missing_media(good, folder, "frame_rate" in line)
    if "answer" in line and ("options" in good or "options" not in line):
        try:
            _answer(line)
        except CustomDataError as e:
            yield str(e)


def _missing_media(line: Line, folder: Path, has_rate: bool) -> Iterator[str]:
    """Absent files; a video may be a folder of pictures, which needs its rate."""
    for media in _media(line):
        path = folder / media
        if media == line.get("video") and path.is_dir():
            if not has_rate:
                yield f"{path} is a folder of pictures: give its 'frame_rate'"
        elif not path.is_file():
            yield f"no file {path}"
        elif has_rate:
            yield f"'frame_rate' is for a folder of pictures, {path} is a file"


def _answer(line: Line) -> Line:
    """``answer``, or ``options`` with ``answer_idx``. A number counts the options from 0."""
    answer, options = line["answer"], line.get("options")
    if options is None:
        if not isinstance(answer, str) or not answer.strip():
            raise CustomDataError(f"'answer': expected text, got {answer!r}")
        return {"answer": answer}
    index = options.index(answer) if answer in options else answer
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise CustomDataError(f"'answer' {answer!r} is not one of the options {options}")
    return {"options": options, "answer_idx": index}


def _style(line: Line) -> str:
    if line.get("options") is None:
        return STYLE_ANSWER
    if "image" in line:
        return STYLE_IMAGE_CHOICE
    return STYLE_VIDEO_CHOICE_SUBTITLE if line.get("subtitle") else STYLE_VIDEO_CHOICE


def _media(line: Line) -> list[str]:
    media = [line[k] for k in ("video", "image") if k in line]
    return [p for m in media for p in (m if isinstance(m, list) else [m])]


# --- checks of single keys ---------------------------------------------------------------------


def _text(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise CustomDataError(f"{key!r}: expected text, got {value!r}")


def _texts(key: str, value: Any) -> None:
    good = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
    if not good or not 2 <= len(value) <= MAX_OPTIONS:
        raise CustomDataError(f"{key!r}: expected 2 to {MAX_OPTIONS} texts, got {value!r}")
    if len(set(value)) < len(value):
        raise CustomDataError(f"{key!r}: the same text twice in {value}")


def _images(key: str, value: Any) -> None:
    for path in value if isinstance(value, list) and value else [value]:
        _text(key, path)


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _seconds(key: str, value: Any) -> None:
    if not _is_number(value) or value < 0:
        raise CustomDataError(f"{key!r}: expected seconds from 0 on, got {value!r}")


def _rate(key: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise CustomDataError(f"{key!r}: expected frames per second above 0, got {value!r}")


def _subtitle(key: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise CustomDataError(f"{key!r}: expected text or a list of start, end, text")
    for i, line in enumerate(value):
        where = f"{key}[{i}]"
        if not isinstance(line, dict) or set(line) != {"start", "end", "text"}:
            raise CustomDataError(f"{where!r}: expected the keys start, end, text, got {line!r}")
        _seconds(f"{where}.start", line["start"])
        _seconds(f"{where}.end", line["end"])
        _text(f"{where}.text", line["text"])
        if line["start"] > line["end"]:
            raise CustomDataError(f"{where!r}: it starts after its end: {line!r}")


def _known_style(key: str, value: Any) -> None:
    _text(key, value)
    if value not in KNOWN_STYLES:
        raise CustomDataError(f"{key!r}: unknown style {value!r}; {nearest(value, KNOWN_STYLES)}")


def _any(key: str, value: Any) -> None:
    """Checked together with other keys."""


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "video": _text,
    "image": _images,
    "question": _text,
    "answer": _any,
    "options": _texts,
    "subtitle": _subtitle,
    "start": _seconds,
    "end": _seconds,
    "frame_rate": _rate,
    "style": _known_style,
}
"""Known keys, each with the check of its value."""
