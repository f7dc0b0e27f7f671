"""One line of own data: what may stand in it, what is wrong with it, and the record it becomes.

A line has ``question`` and ``answer``, or is in a chat form (``olmo.data.conversations``).
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from olmo.data.conversations import CHAT_KEYS, LINE_KEYS, chat_of, contents, turns_of
from olmo.data.records import CustomDataError, Record
from olmo.preprocessing.prompts import KNOWN_STYLES
from olmo.text import nearest
from olmo.types import MEDIA_KEYS

MAX_OPTIONS = 26
MAX_MISTAKES = 20
UNANSWERED = "(not answered)"
"""Content of the turn that is put behind a conversation that ends with a question."""
MAX_SECONDS = 1e7
"""Latest ``start`` and ``end``: 115 days."""
MAX_RATE = 1e5
"""Frames per second."""
LETTER = re.compile(r"\(?[A-Za-z]([).:]+.*)?", re.DOTALL)
"""The letter of an option, alone or before its text."""


# --- the keys of a line ------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_images(value: Any) -> bool:
    images = value if isinstance(value, list) and value else [value]
    return all(_is_text(image) or (isinstance(image, bytes) and image) for image in images)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _as_text(value: Any) -> Any:
    """A whole number as its text: it has one spelling only. Anything else as it is."""
    return str(value) if type(value) is int else value


def _is_answers(value: Any) -> bool:
    return isinstance(value, list) and _is_texts([*map(_as_text, value)])


def _is_options(value: Any) -> bool:
    return _is_texts(value) and 2 <= len(value) <= MAX_OPTIONS


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Rule = tuple[Callable[[Any], bool], str]
"""A check, and what to say if it fails. Of several rules the first that fails counts."""

TEXT: tuple[Rule, ...] = ((_is_text, "expected text"),)
SECONDS: tuple[Rule, ...] = (
    (lambda v: _is_number(v) and 0 <= v <= MAX_SECONDS, "expected seconds from 0 on"),
)
NAME: tuple[Rule, ...] = (
    (lambda v: isinstance(v, str) or type(v) is int, "expected text or a whole number"),
)
SPOKEN = {"start": SECONDS, "end": SECONDS, "text": TEXT}
"""The keys of one entry of subtitles, all of them required."""
FIELDS: dict[str, tuple[Rule, ...]] = {
    "video": ((_is_text, "expected the path of one video per line"),),
    "image": ((_is_images, "expected a path or a list of paths"),),
    "question": TEXT,
    "answer": (),  # checked together with the options
    "answers": ((_is_answers, "expected a list of texts"),),
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
    "id": NAME,
    "category": NAME,
}
"""Known keys. ``id`` is kept in the metadata, and means nothing else; by ``category`` an evaluation
breaks its scores down."""
OTHER_NAMES = {
    **dict.fromkeys(("prompt", "query", "instruction", "input", "text", "human"), "question"),
    **dict.fromkeys(("response", "output", "label", "target", "completion", "caption"), "answer"),
    **dict.fromkeys(("reference", "ground_truth", "gt", "gpt", "assistant"), "answer"),
    **dict.fromkeys(("choices", "candidates"), "options"),
    **dict.fromkeys(("transcript", "captions", "asr"), "subtitle"),
    **dict.fromkeys(("begin", "from"), "start"),
    **dict.fromkeys(("stop", "to"), "end"),
    **dict.fromkeys(("type", "task", "task_type", "question_type", "topic"), "category"),
    "fps": "frame_rate",
}
"""What other files call a key, where it is not spelt alike."""
ABOUT_TEXT = ("question", "answer", "answers", "options")
CHAT_FIELDS = {k: rules for k, rules in FIELDS.items() if k not in ABOUT_TEXT} | {
    "data_source": NAME
}
"""Known keys of a line in a chat form, beside those of the form."""


# --- from a line to a record -------------------------------------------------------------------

Missing = Callable[[Record, bool], Iterator[str]]
"""What is wrong with the media of a line, as far as the disk tells; whether it has a rate."""


def record_of(line: Any, example_id: str, answered: bool = True) -> Record:
    """The record of a line of any form; without ``answered`` it may lack an answer."""
    line = checked(line, answered=answered)
    record: Record = {k: line[k] for k in MEDIA_KEYS if k in line}
    if "messages" in line:
        record["messages"] = turns_of(line["messages"])
    else:
        record |= {"question": line["question"], **_answer(line)}
    record["style"] = style_of(line)
    if subtitle := line.get("subtitle"):
        is_text = isinstance(subtitle, str)
        record["subtitle"] = subtitle if is_text else [[s[k] for k in SPOKEN] for s in subtitle]
    metadata: Record = {"example_id": example_id}
    metadata |= {k: line[k] for k in ("frame_rate", "id", "data_source") if k in line}
    if line.get("category", "") != "":
        metadata["category"] = line["category"]
    if "start" in line or "end" in line:
        metadata |= {"clip_start_time": line.get("start") or 0.0, "clip_end_time": line.get("end")}
    return record | {"metadata": metadata}


def checked(
    line: Any,
    missing: Missing | None = None,
    unused: set[str] | None = None,
    answered: bool = True,
) -> Record:
    """The line with the keys ``FIELDS``, or of a conversation ``CHAT_FIELDS`` and ``messages``.
    ``CustomDataError`` lists all that is wrong with it; ``missing`` looks for its media. ``unused``
    gets the keys of a conversation that mean nothing here. A line needs an answer if ``answered``;
    else a conversation may end with a question, behind which comes ``UNANSWERED``."""
    if not isinstance(line, dict):
        found = json.dumps(line, ensure_ascii=False, default=str)
        raise CustomDataError(f"expected an object in braces, got {found!r:.42}")
    if None in line.values():
        line = {key: value for key, value in line.items() if value is not None}
    mistakes: list[str] = []
    if "messages" in line or "conversations" in line:
        line = _from_chat(line if answered else _with_last_turn(line), mistakes, unused)
        if mistakes:  # what it shows is then not known
            mistakes += _wrong(line, CHAT_FIELDS).values()
        else:
            mistakes += itertools.islice(_mistakes(line, CHAT_FIELDS, missing), MAX_MISTAKES)
    else:
        if isinstance(image := line.get("image"), (dict, list)):
            images = [*map(contents, image)] if isinstance(image, list) else contents(image)
            line = line | {"image": images}
        wrong = _mistakes(line, FIELDS, missing, answered)
        mistakes += itertools.islice(wrong, MAX_MISTAKES)
    if len(mistakes) > 1:
        mistakes = [f"({chr(ord('a') + i)}) {m}" for i, m in enumerate(mistakes[:MAX_MISTAKES])]
    if mistakes:
        raise CustomDataError("; ".join(mistakes))
    return line


def _from_chat(line: Record, mistakes: list[str], unused: set[str] | None) -> Record:
    plain, others = {}, []
    for key in sorted(line.keys() - LINE_KEYS):
        if key == "category" and not all(is_good(line[key]) for is_good, _ in NAME):
            others.append(key)  # a column of their own
        elif key in CHAT_FIELDS:
            plain[key] = line[key]
        elif hint := _meant(key):
            mistakes.append(f"unknown key {key!r:.80}; {hint}")
        else:
            others.append(key)
    found = chat_of(line, mistakes)
    if unused is not None and others:
        unused.update(others)
    if others and len(found) == 1:  # nothing is shown
        media = [k for k in others if any(kind in k for kind in MEDIA_KEYS)]
        mistakes += [f"unknown key {k!r:.80}, and the line shows nothing" for k in media]
    return plain | found


@functools.lru_cache(1000)
def _meant(key: str) -> str:
    """Files in a chat form have many columns of their own, but none that is nearly a known one."""
    if key in ABOUT_TEXT:
        return "it is for lines without a conversation"
    known = {*CHAT_FIELDS, *LINE_KEYS} - {"category"}  # sub_category is a usual column
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.8)
    return f"did you mean {near[0]!r}?" if near else ""


def style_of(line: Record) -> str:
    """The style of a checked line."""
    if style := line.get("style"):
        return str(style)
    if "options" not in line:
        return "user_qa"
    if "image" in line:
        return "a_okvqa_mc"
    return "video_multiple_choice" + ("_w_subtitle" if line.get("subtitle") else "")


def _answer(line: Record) -> Record:
    """``answer``, or ``options`` with ``answer_idx``. A number counts the options from 0; where it
    could also be the text of another option, the text has to be given. ``answers`` of several
    people, and no answer at all, stay. Without options a whole number is its text."""
    if "answer" not in line:
        known = {k: line[k] for k in ("answers", "options") if k in line}
        return known | {k: [*map(_as_text, known[k])] for k in known if k == "answers"}
    answer, options = line["answer"], line.get("options")
    if options is None:
        if not _is_text(_as_text(answer)):
            instead = ": several go into 'answers'" if isinstance(answer, list) else _quoted(answer)
            raise CustomDataError(f"'answer': expected text, got {answer!r:.80}{instead}")
        return {"answer": _as_text(answer)}
    index = options.index(answer) if answer in options else answer
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        letter = isinstance(answer, str) and LETTER.fullmatch(answer.strip())
        raise CustomDataError(
            f"'answer' {answer!r:.80} is not one of the options {options!r:.200}: give the text of "
            f"one, or its number from 0{'; letters are not read' if letter else ''}"
        )
    meant = [o for i, o in enumerate(options) if index is answer and i != index and _says(o, index)]
    if meant:
        raise CustomDataError(
            f"'answer' {answer} may be the option {meant[0]!r}, or number {answer} counted from 0, "
            f"{options[index]!r}: give the text of the option"
        )
    return {"options": options, "answer_idx": index}


def _quoted(value: Any) -> str:
    """Hint for an error about a value that should be text, or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return ": write numbers in quotes" if any(map(_is_number, values)) else ""


def _says(option: str, number: int) -> bool:
    """Whether the text of an option is this number."""
    try:
        return float(option) == number
    except ValueError:
        return False


def _with_last_turn(line: Record) -> Record:
    """A conversation that ends with a question, with a turn behind it; any other as it is."""
    key = next(key for key in CHAT_KEYS if line.get(key) is not None)
    turns = line[key]
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, dict):
        return line
    role, content = ("from", "value") if "from" in last else ("role", "content")
    asks = last.get(role) in ("user", "human")
    return line | {key: [*turns, {role: "assistant", content: UNANSWERED}]} if asks else line


# --- what is wrong with a line -----------------------------------------------------------------


def _mistakes(
    line: Record,
    fields: Mapping[str, tuple[Rule, ...]],
    missing: Missing | None,
    answered: bool = True,
) -> Iterator[str]:
    """All that is wrong with a line: unknown keys, single values, then values together."""
    is_chat = fields is CHAT_FIELDS
    for key in line:
        if key not in fields and not (is_chat and key == "messages"):
            word = OTHER_NAMES.get(key.lower(), key)
            yield f"unknown key {key!r:.80}; {nearest(word, {*fields, *CHAT_KEYS})}"
    wrong = _wrong(line, fields)
    good = {k: v for k, v in line.items() if k in fields and k not in wrong} if wrong else line
    yield from wrong.values()
    if isinstance(good.get("subtitle"), list):
        yield from _wrong_subtitle(good["subtitle"])
    style = good.get("style", "user_qa")
    if style not in KNOWN_STYLES:
        yield f"'style': unknown style {style!r:.80}; {nearest(style, _styles('video' in line))}"
    if not is_chat:
        if "question" not in line:
            yield "no 'question'"
        if answered and not line.keys() & {"answer", "answers"}:
            yield "no 'answer'"
        if "answers" in line and (other := line.keys() & {"answer", "options"}):
            yield f"'answers' does not go with {min(other)!r}"
        if ("video" in line) + ("image" in line) != 1:
            yield f"expected either {' or '.join(map(repr, MEDIA_KEYS))}"
    if "video" not in line:
        for key in ("subtitle", "start", "end", "frame_rate"):
            if key in line:
                yield f"{key!r} needs a 'video'"
        if style.startswith("video_"):
            yield f"style {style!r} needs a 'video'"
    if "end" in good and not (start := good.get("start", 0)) < good["end"]:
        yield f"'start' {start} is not before 'end' {good['end']}"
    if missing is not None:
        yield from missing(good, "frame_rate" in line)
    if "answer" in line and ("options" in good or "options" not in line):
        try:
            _answer(line)
        except CustomDataError as e:
            yield str(e)


@functools.cache
def _styles(for_video: bool) -> frozenset[str]:
    """Styles that suit a medium: for a video none that has a twin for videos, or is of images."""
    if not for_video:
        return frozenset(s for s in KNOWN_STYLES if not s.startswith("video_"))
    plain = (s for s in KNOWN_STYLES if "image" not in s)
    return frozenset(s for s in plain if f"video_{s}" not in KNOWN_STYLES)


def _wrong(line: Record, fields: Mapping[str, tuple[Rule, ...]], where: str = "") -> dict[str, str]:
    """Keys of ``line`` with a value that their rules refuse, and what is wrong with it."""
    found = {}
    for key, value in line.items():
        for is_good, expected in fields.get(key, ()):
            if not is_good(value):
                hint = _quoted(value) if key in ABOUT_TEXT else ""
                found[key] = f"{where + key!r}: {expected}, got {value!r:.80}{hint}"
                break
    return found if len(found) < 2 else {k: found[k] for k in sorted(found, key=[*fields].index)}


def _wrong_subtitle(entries: list[Any]) -> Iterator[str]:
    for i, entry in enumerate(entries):
        where = f"subtitle[{i}]"
        if not isinstance(entry, dict) or set(entry) != set(SPOKEN):
            yield f"{where!r}: expected the keys {', '.join(SPOKEN)}, got {entry!r:.80}"
        elif wrong := _wrong(entry, SPOKEN, f"{where}."):
            yield from wrong.values()
        elif entry["start"] > entry["end"]:
            yield f"{where!r}: it starts after its end: {entry!r:.80}"
