"""One line of own data: what may stand in it, what is wrong with it, and the record it becomes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from olmo.config import nearest
from olmo.outside import OutsideError, describe
from olmo.preprocessing.chat import DataFormatter
from olmo.preprocessing.styles import KNOWN_STYLES

STYLE_ANSWER = "user_qa"
STYLE_VIDEO_CHOICE = "video_multiple_choice"
STYLE_VIDEO_CHOICE_SUBTITLE = "video_multiple_choice_w_subtitle"
STYLE_IMAGE_CHOICE = "a_okvqa_mc"
MAX_OPTIONS = 26
MAX_MISTAKES = 20
MAX_SECONDS = 1e7
"""Latest ``start`` and ``end``: 115 days."""
MAX_RATE = 1e5
"""Frames per second."""

Line = dict[str, Any]


class CustomDataError(OutsideError):
    """A file of own data with mistakes; the message has them with their line numbers."""


def record_of(line: Any, path: Path, number: int) -> Line:
    """The record of one line."""
    if not isinstance(line, dict):
        found = json.dumps(line, ensure_ascii=False)
        raise CustomDataError(f"expected an object in braces, got {found!r:.42}")
    line = {key: value for key, value in line.items() if value is not None}
    mistakes = list(itertools.islice(_mistakes(line, path.parent), MAX_MISTAKES))
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
    name = os.fsencode(path.name).decode(errors="replace")
    record["metadata"] = {"example_id": f"{name}:{number}"}
    if "start" in line or "end" in line:
        clip = {"clip_start_time": line.get("start") or 0.0, "clip_end_time": line.get("end")}
        record["metadata"] |= clip
    if "frame_rate" in line:
        record["metadata"]["frame_rate"] = line["frame_rate"]
    return record


def try_out(record: Line, formatter: DataFormatter) -> None:
    """Whether the record gives a prompt and an answer; what training draws changes their words."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise CustomDataError("half of a character, such as \\ud800 without its second half") from e
    try:
        formatter(record)
    except ValueError as e:
        given = "with 'options'" if "options" in record else "without 'options'"
        raise CustomDataError(f"the style {record['style']!r} is of no use {given}: {e}") from e


def _mistakes(line: Line, folder: Path) -> Iterator[str]:
    """All that is wrong with a line: unknown keys, single values, then values together."""
    for key in line:
        if key not in CHECKS:
            yield f"unknown key {key!r:.80}; {nearest(key, CHECKS)}"
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
    if "end" in good and not (start := good.get("start", 0)) < good["end"]:
        yield f"'start' {start} is not before 'end' {good['end']}"
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
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except (ValueError, OSError) as e:  # a zero byte, too long a name, no rights
            yield f"{media!r:.80} is no path that can be used: {describe(e)}"
            continue
        if is_folder and media == line.get("video"):
            if not has_rate:
                yield f"{path} is a folder of pictures: give its 'frame_rate'"
        elif not is_file:
            yield f"no file {path}" + (", it is a folder" if is_folder else "")
        elif has_rate:
            yield f"'frame_rate' is for a folder of pictures, {path} is a file"
        elif not os.access(path, os.R_OK):
            yield f"no rights to read {path}"


def _answer(line: Line) -> Line:
    """``answer``, or ``options`` with ``answer_idx``. A number counts the options from 0; where it
    could also be the text of another option, the text has to be given."""
    answer, options = line["answer"], line.get("options")
    if options is None:
        if not isinstance(answer, str) or not answer.strip():
            raise CustomDataError(f"'answer': expected text, got {answer!r:.80}")
        return {"answer": answer}
    index = options.index(answer) if answer in options else answer
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise CustomDataError(f"'answer' {answer!r:.80} is not one of the options {options!r:.200}")
    meant = [o for i, o in enumerate(options) if index is answer and i != index and _says(o, index)]
    if meant:
        raise CustomDataError(
            f"'answer' {answer} may be the option {meant[0]!r}, or number {answer} counted from 0, "
            f"{options[index]!r}: give the text of the option"
        )
    return {"options": options, "answer_idx": index}


def _says(option: str, number: int) -> bool:
    """Whether the text of an option is this number."""
    try:
        return float(option) == number
    except ValueError:
        return False


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
        raise CustomDataError(f"{key!r}: expected text, got {value!r:.80}")


def _texts(key: str, value: Any) -> None:
    good = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
    if not good or not 2 <= len(value) <= MAX_OPTIONS:
        raise CustomDataError(f"{key!r}: expected 2 to {MAX_OPTIONS} texts, got {value!r:.80}")
    if len(set(value)) < len(value):
        raise CustomDataError(f"{key!r}: the same text twice in {value!r:.200}")


def _images(key: str, value: Any) -> None:
    for path in value if isinstance(value, list) and value else [value]:
        _text(key, path)


def _is_number(value: Any, most: float) -> bool:
    """From 0 to ``most``; not-a-number is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most


def _seconds(key: str, value: Any) -> None:
    if not _is_number(value, MAX_SECONDS):
        raise CustomDataError(f"{key!r}: expected seconds from 0 on, got {value!r:.80}")


def _rate(key: str, value: Any) -> None:
    if not _is_number(value, MAX_RATE) or not value:
        raise CustomDataError(f"{key!r}: expected frames per second above 0, got {value!r:.80}")


def _subtitle(key: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise CustomDataError(f"{key!r}: expected text or a list of start, end, text")
    for i, line in enumerate(value):
        where = f"{key}[{i}]"
        if not isinstance(line, dict) or set(line) != {"start", "end", "text"}:
            raise CustomDataError(
                f"{where!r}: expected the keys start, end, text, got {line!r:.80}"
            )
        _seconds(f"{where}.start", line["start"])
        _seconds(f"{where}.end", line["end"])
        _text(f"{where}.text", line["text"])
        if line["start"] > line["end"]:
            raise CustomDataError(f"{where!r}: it starts after its end: {line!r:.80}")


def _known_style(key: str, value: Any) -> None:
    _text(key, value)
    if value not in KNOWN_STYLES:
        raise CustomDataError(
            f"{key!r}: unknown style {value!r:.80}; {nearest(value, KNOWN_STYLES)}"
        )


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
