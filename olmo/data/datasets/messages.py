"""Messages of the catalogue: how plain rows become some, and which of them are one example."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from olmo.data.datasets.disk import Row, structs
from olmo.data.datasets.draws import INSERT
from olmo.data.records import Flaw, LeftOut, Record
from olmo.types import MEDIA_KEYS

MC, SA = "video_multiple_choice", "video_short_answer"
MC_SUBTITLE = "video_multiple_choice_w_subtitle"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EVAL_MC = "video_eval_multiple_choice"
"""Style of a question that holds its lettered options, and is the whole prompt."""
TEXT = (str, int, float)
TEXTS = ("question", "answer", "text")
SHARED = (*MEDIA_KEYS, "subtitle", "metadata")
"""Keys of an example that all its messages have in common."""


# --- messages ----------------------------------------------------------------------------------


def choice(question: str, options: Sequence[str], answer_idx: Any, style: str = MC) -> Record:
    """A multiple-choice message; ``answer_idx``, also as text, counts from 0. Several sets say that
    rows with one past the options are left out."""
    index = int(answer_idx)
    LeftOut.when(index >= len(options), "the answer is not among the options")
    Flaw.when(index < 0, "the answer counts from the end of the options")
    texts = not isinstance(options, str) and all(isinstance(option, TEXT) for option in options)
    Flaw.when(not texts, "the options are no texts")
    shown = {"question": as_text(question), "options": list(options)}
    return shown | {"answer_idx": index, "style": style}


def chosen(question: str, options: Sequence[str], answer: str, style: str = MC) -> Record:
    """A multiple-choice message whose answer is given as the text of an option."""
    Flaw.when(answer not in options, "the answer is not among the options")
    return choice(question, options, options.index(answer), style)


def among(negatives: Sequence[str], question: str, answer: str) -> Record:
    """A multiple-choice message with ``answer`` at a drawn place among wrong ones."""
    texts = {"question": as_text(question), "answer": as_text(answer)}
    return texts | {"negatives": list(map(as_text, negatives)), "style": MC, "draw": [INSERT]}


def short(question: str, answer: Any, style: str = SA) -> Record:
    """A short-answer message."""
    return {"question": as_text(question), "answer": as_text(answer), "style": style}


def as_text(value: Any) -> str:
    """A text, or a number as one. Null is neither, and not the word "None"."""
    Flaw.when(not isinstance(value, TEXT), "a question or answer is no text")
    return str(value)


def clip_times(start: Any, end: Any) -> Record:
    """The ``metadata`` of a part of a video, in seconds. One that does not last is left out by the
    rules of all sets that have some; so is one with a time that is not a number."""
    start, end = float(start), float(end)
    LeftOut.when(not start < end, "the segment has no length")
    return {"clip_start_time": start, "clip_end_time": end}


def subtitle_lines(entries: Any) -> list[list[Any]]:
    """Subtitles, ``[start, end, text]`` with times in seconds, of entries with these three keys.
    Those that lack one, or whose times are no numbers, are left out."""
    return [
        [line["start"], line["end"], line["text"]]
        for line in structs(entries)
        if isinstance(line, dict)
        and all(_is_finite(line.get(key)) for key in ("start", "end"))
        and isinstance(line.get("text"), str)
    ]


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def asked(question: str, options: Iterable[Any], instruction: str, letter: Any = None) -> Record:
    """The question of a benchmark, which is the whole prompt: with its options, which have their
    letters, and the instruction, one per line. ``letter`` is the answer, if that is known."""
    message = {"question": "\n".join([question, *options, instruction]), "style": EVAL_MC}
    return message | ({} if letter is None else {"answer": letter})


def lettered(options: Iterable[Any]) -> list[str]:
    """``A. option`` for each option."""
    texts = map(as_text, options)
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]


def letter_of(answer: Any, options: Sequence[Any]) -> str:
    """The letter of the option that ``answer`` is."""
    return letter_at(chosen("", options, answer)["answer_idx"], options)


def letter_at(index: Any, options: Sequence[Any]) -> str:
    """The letter of the option with this number, also as text, from 0."""
    return LETTERS[choice("", options, index)["answer_idx"]]


def known(row: Row) -> Row:
    """The columns that have a value: null in a file is the same as a column that is not there."""
    return {key: value for key, value in row.items() if value is not None}


def plain_messages(row: Row, fields: dict[str, Any], style: str | None) -> Record:
    """The message of a plain row: ``fields`` names a column for each key, or a list of them."""
    row = known(row)
    found: Record = {
        k: [row[c] for c in v] if isinstance(v, list) else row[v] for k, v in fields.items()
    }
    if "options" in found:
        return choice(found["question"], found["options"], found["answer_idx"], style or MC)
    found |= {k: as_text(found[k]) for k in TEXTS if k in found}
    return found | ({"style": style} if style else {})


# --- examples ----------------------------------------------------------------------------------


def merged(records: Iterable[Record], key: str, at: Callable[[], Any]) -> Iterator[Record]:
    """One record for all that ``key`` (see ``DatasetRow.merge``) holds together, with their
    messages as ``message_list``, in the order of first appearance. ``at`` tells the row that the
    record at hand comes from."""
    if key == "none":
        yield from records
        return
    found: dict[Any, Record] = {}
    for record in records:
        messages = record.pop("message_list", None)
        shared = dict(record)
        if messages is None:
            shared = {k: record.pop(k) for k in SHARED if k in record}
            messages = [record]
        example = found.setdefault(at() if key == "row" else _key(shared, key), {})
        metadata = example.get("metadata", {}) | shared.pop("metadata", {})
        example |= shared | ({"metadata": metadata} if metadata else {})
        example.setdefault("message_list", []).extend(messages)
    yield from found.values()


def in_merged_order(records: Iterable[Record], key: str) -> Iterator[Record]:
    """The records as they are, those together that training would merge. Questions of a benchmark
    stay in the order of its file."""
    if key in ("none", "row"):
        yield from records
        return
    groups: dict[Any, list[Record]] = {}
    for i, record in enumerate(records):
        group = i if record.get("style") == EVAL_MC else _key(record, key)
        groups.setdefault(group, []).append(record)
    yield from itertools.chain.from_iterable(groups.values())


def _key(shared: Record, key: str) -> Any:
    metadata = shared.get("metadata", {})
    if key == "id":
        return metadata["example_id"]
    times = ("clip_start_time", "clip_end_time") if key == "clip" else ()
    return (str([shared.get(k) for k in MEDIA_KEYS]), *map(metadata.get, times))


def even_parts(records: Iterable[Record], most: int | None) -> Iterator[Record]:
    """Examples of at most ``most`` messages, from one with more as few as possible and as even
    as possible, the larger first."""
    for record in records:
        messages = record.get("message_list", ())
        n_parts = -(-len(messages) // most) if most else 1
        if n_parts < 2:
            yield record
            continue
        size, larger = divmod(len(messages), n_parts)
        rest = iter(messages)
        for i in range(n_parts):
            yield record | {"message_list": list(itertools.islice(rest, size + (i < larger)))}


def single_questions(records: Iterable[Record]) -> Iterator[Record]:
    """One record for each message of a list, for evaluation."""
    for record in records:
        messages = record.pop("message_list", [{}])
        yield from (record | message for message in messages)
