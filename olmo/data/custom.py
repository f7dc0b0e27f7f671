"""A user's own data: one JSON object per line, checked in full before training starts.

    {"video": "clips/a.mp4", "question": "What happens?", "answer": "A door opens."}
    {"video": "clips/a.mp4", "question": "Which?", "options": ["a cup", "a book"],
     "answer": "a book", "start": 2.0, "end": 9.5,
     "subtitle": [{"start": 2.5, "end": 4.0, "text": "Look!"}]}

(each on one line). ``docs/datasets.md`` describes the keys.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmo.data.custom_line import CustomDataError, record_of, try_out
from olmo.data.records import PackedRecords, Record, RecordDataset
from olmo.outside import foreign
from olmo.preprocessing.chat import DataFormatterConfig

MAX_SHOWN = 20
"""Mistakes that a message lists."""
MAX_LINE_BYTES = 4 << 20
"""Longest line; subtitles within it keep ``Limits.max_subtitle_bytes``."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass
class CustomDataset(RecordDataset):
    """Examples of the jsonl file ``path``. Paths in it are relative to its own folder."""

    path: Path

    @classmethod
    def open(cls, path: str | Path, max_line_bytes: int = MAX_LINE_BYTES) -> CustomDataset:
        """Read and check every line. All mistakes come in one ``CustomDataError``.

        A line that passes gives a prompt and an answer: it has been through the formatter.
        """
        path = Path(path).absolute()
        mistakes: list[str] = []
        with foreign(lambda reason: CustomDataError(f"{path}: {reason}")):
            if not path.is_file():
                raise CustomDataError(f"{path}: no such file (own data, one JSON object per line)")
            records = PackedRecords.pack(_records(path, max_line_bytes, mistakes))
        if mistakes:
            shown = "\n  ".join(["", *mistakes[:MAX_SHOWN]])
            more = len(mistakes) - MAX_SHOWN
            shown += f"\n  ... and {more} more" if more > 0 else ""
            raise CustomDataError(f"{path}: {len(mistakes)} lines cannot be used:{shown}")
        if not len(records):
            raise CustomDataError(f"{path}: it is empty")
        return cls(path.name, "train", path.parent, records, path)

    def where(self, idx: int) -> str:
        """File and line of an example."""
        number = self.records[idx]["metadata"]["example_id"].rpartition(":")[2]
        return f"{self.path}:{number}"


def _records(path: Path, max_line_bytes: int, mistakes: list[str]) -> Iterator[Record]:
    """The records of the lines without a mistake; ``mistakes`` gets one text for each other line,
    an empty one after the first ``MAX_SHOWN``."""
    formatter = DataFormatterConfig().build()
    for number, data in enumerate(_lines(path, max_line_bytes), 1):
        try:
            with foreign(lambda reason: CustomDataError(f"it cannot be used: {reason}")):
                if data is None:
                    raise CustomDataError(f"longer than data.max_line_bytes={max_line_bytes}")
                text = _decoded(data, number)
                if not text.strip():
                    continue
                record = record_of(_parsed(text), path, number)
                try_out(record, formatter)
            yield record
        except CustomDataError as e:
            shown = UNPRINTABLE.sub(lambda m: ascii(m[0])[1:-1], str(e))
            mistakes.append(f"line {number}: {shown}" if len(mistakes) < MAX_SHOWN else "")


def _lines(path: Path, max_bytes: int) -> Iterator[bytes | None]:
    """Lines of at most ``max_bytes``; None for a longer one, which is passed over."""
    with path.open("rb") as file:
        while line := file.readline(max_bytes + 1):
            if len(line) <= max_bytes or line.endswith(b"\n"):
                yield line
                continue
            yield None
            while line and not line.endswith(b"\n"):
                line = file.readline(max_bytes)


def _decoded(data: bytes, number: int) -> str:
    if number == 1 and data.startswith(UTF16_MARKS):
        raise CustomDataError("the file is in UTF-16, save it as UTF-8")
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        wrong = e.object[e.start]
        raise CustomDataError(f"not in UTF-8: byte 0x{wrong:02x} at {e.start + 1}") from e


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as e:
        raise CustomDataError(f"not valid JSON: {e.msg} at column {e.colno}") from e
    except RecursionError as e:
        raise CustomDataError("not usable JSON: brackets within brackets, far too deep") from e


def _without_doubles(pairs: list[tuple[str, Any]]) -> Record:
    line = dict(pairs)
    if len(line) < len(pairs):
        ((double, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise CustomDataError(f"the key {double!r:.80} stands there twice")
    return line
