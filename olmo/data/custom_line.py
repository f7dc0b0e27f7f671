"""One line of own data: what may stand in it, what is wrong with it, and the record it becomes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from olmo.data.records import Record, media_of
from olmo.outside import OutsideError, describe
from olmo.preprocessing.chat import DataFormatter
from olmo.preprocessing.prompts import KNOWN_STYLES
from olmo.text import nearest
from olmo.types import MEDIA_KEYS

MAX_OPTIONS = 26
MAX_MISTAKES = 20
MAX_SECONDS = 1e7
"""Latest ``start`` and ``end``: 115 days."""
MAX_RATE = 1e5
"""Frames per second."""


class CustomDataError(OutsideError):
    """A file of own data with mistakes; the message has them with their line numbers."""


# --- the keys of a line ------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_paths(value: Any) -> bool:
    return all(map(_is_text, value if isinstance(value, list) and value else [value]))


def _is_options(value: Any) -> bool:
    is_list = isinstance(value, list) and 2 <= len(value) <= MAX_OPTIONS
    return is_list and all(map(_is_text, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Rule = tuple[Callable[[Any], bool], str]
"""A check, and what to say if it fails. Of several rules the first that fails counts."""

TEXT: tuple[Rule, ...] = ((_is_text, "expected text"),)
SECONDS: tuple[Rule, ...] = (
    (lambda v: _is_number(v) and 0 <= v <= MAX_SECONDS, "expected seconds from 0 on"),
)
SPOKEN = {"start": SECONDS, "end": SECONDS, "text": TEXT}
"""The keys of one entry of subtitles, all of them required."""
FIELDS: dict[str, tuple[Rule, ...]] = {
    "video": TEXT,
    "image": ((_is_paths, "expected a path or a list of paths"),),
    "question": TEXT,
    "answer": (),  # checked together with the options
    "options": (
        (_is_options, f"expected 2 to {MAX_OPTIONS} texts"),
        (lambda v: len(set(v)) == len(v), "the same text twice"),
    ),
    "subtitle": (
        (lambda v: isinstance(v, (str, list)), f"expected text or a list of {', '.join(SPOKEN)}"),
    ),
    "start": SECONDS,
    "end": SECONDS,
    "frame_rate": (
        (lambda v: _is_number(v) and 0 < v <= MAX_RATE, "expected frames per second above 0"),
    ),
    "style": TEXT,
    "id": ((lambda v: isinstance(v, str) or type(v) is int, "expected text or a whole number"),),
}
"""Known keys. ``id`` is kept in the metadata, and means nothing else."""


# --- from a line to a record -------------------------------------------------------------------


def record_of(line: Any, path: Path, number: int) -> Record:
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
    record: Record = {k: line[k] for k in MEDIA_KEYS if k in line}
    record |= {"question": line["question"], "style": line.get("style") or _style(line)}
    record |= _answer(line)
    if subtitle := line.get("subtitle"):
        is_text = isinstance(subtitle, str)
        record["subtitle"] = subtitle if is_text else [[s[k] for k in SPOKEN] for s in subtitle]
    name = os.fsencode(path.name).decode(errors="replace")
    metadata: Record = {"example_id": f"{name}:{number}"}
    metadata |= {k: line[k] for k in ("frame_rate", "id") if k in line}
    if "start" in line or "end" in line:
        metadata |= {"clip_start_time": line.get("start") or 0.0, "clip_end_time": line.get("end")}
    return record | {"metadata": metadata}


def try_out(record: Record, formatter: DataFormatter) -> None:
    """Refuse a record that does not give a prompt and an answer."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise CustomDataError("half of a character, such as \\ud800 without its second half") from e
    try:
        formatter(record)
    except ValueError as e:
        given = "with 'options'" if "options" in record else "without 'options'"
        raise CustomDataError(f"the style {record['style']!r} is of no use {given}: {e}") from e


def _style(line: Record) -> str:
    """The style where a line names none."""
    if "options" not in line:
        return "user_qa"
    if "image" in line:
        return "a_okvqa_mc"
    return "video_multiple_choice" + ("_w_subtitle" if line.get("subtitle") else "")


def _answer(line: Record) -> Record:
    """``answer``, or ``options`` with ``answer_idx``. A number counts the options from 0; where it
    could also be the text of another option, the text has to be given."""
    answer, options = line["answer"], line.get("options")
    if options is None:
        if not _is_text(answer):
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


# --- what is wrong with a line -----------------------------------------------------------------


def _mistakes(line: Record, folder: Path) -> Iterator[str]:
    """All that is wrong with a line: unknown keys, single values, then values together."""
    for key in line:
        if key not in FIELDS:
            yield f"unknown key {key!r:.80}; {nearest(key, FIELDS)}"
    wrong = dict(_wrong(line, FIELDS))
    good = {k: v for k, v in line.items() if k in FIELDS and k not in wrong}
    yield from wrong.values()
    if isinstance(good.get("subtitle"), list):
        yield from _wrong_subtitle(good["subtitle"])
    style = good.get("style", "user_qa")
    if style not in KNOWN_STYLES:
        yield f"'style': unknown style {style!r:.80}; {nearest(style, KNOWN_STYLES)}"
    for key in ("question", "answer"):
        if key not in line:
            yield f"no {key!r}"
    if len(set(MEDIA_KEYS) & set(line)) != 1:
        yield f"expected either {' or '.join(map(repr, MEDIA_KEYS))}"
    for key in ("subtitle", "start", "end", "frame_rate"):
        if key in line and "video" not in line:
            yield f"{key!r} needs a 'video'"
    if "video" not in line and style.startswith("video_"):
        yield f"style {style!r} needs a 'video'"
    if "end" in good and not (start := good.get("start", 0)) < good["end"]:
        yield f"'start' {start} is not before 'end' {good['end']}"
    yield from _missing_media(good, folder, "frame_rate" in line)
    if "answer" in line and ("options" in good or "options" not in line):
        try:
            _answer(line)
        except CustomDataError as e:
            yield str(e)


def _wrong(
    line: Record, fields: Mapping[str, tuple[Rule, ...]], where: str = ""
) -> Iterator[tuple[str, str]]:
    """Keys of ``line`` with a value that their rules refuse, and what is wrong with it."""
    for key, rules in fields.items():
        failed = (expected for good, expected in rules if key in line and not good(line[key]))
        if expected := next(failed, ""):
            yield key, f"{where + key!r}: {expected}, got {line[key]!r:.80}"


def _wrong_subtitle(entries: list[Any]) -> Iterator[str]:
    for i, entry in enumerate(entries):
        where = f"subtitle[{i}]"
        if not isinstance(entry, dict) or set(entry) != set(SPOKEN):
            yield f"{where!r}: expected the keys {', '.join(SPOKEN)}, got {entry!r:.80}"
        elif wrong := dict(_wrong(entry, SPOKEN, f"{where}.")):
            yield from wrong.values()
        elif entry["start"] > entry["end"]:
            yield f"{where!r}: it starts after its end: {entry!r:.80}"


def _missing_media(line: Record, folder: Path, has_rate: bool) -> Iterator[str]:
    """Absent files; a video may be a folder of pictures, which needs its rate."""
    for media in media_of(line):
        path = folder / media
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except (ValueError, OSError) as e:  # a zero byte, too long a name, no rights
            yield f"{media!r:.80} is not a usable path: {describe(e)}"
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
