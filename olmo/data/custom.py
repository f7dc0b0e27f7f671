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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.custom_line import CustomDataError, Line, record_of, try_out
from olmo.data.datasets.declare import DeclaredDataset, PackedRecords
from olmo.outside import foreign
from olmo.preprocessing.chat import DataFormatterConfig

MAX_SHOWN = 20
"""Mistakes that a message lists."""
MAX_LINE_BYTES = 4 << 20
"""Longest line; subtitles within it keep ``Limits.max_subtitle_bytes``."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


@dataclass
class CustomDataset:
    """Examples of a jsonl file. Paths in it are relative to its own folder."""

    path: Path
    data: DeclaredDataset

    @classmethod
    def open(cls, path: str | Path, max_line_bytes: int = MAX_LINE_BYTES) -> CustomDataset:
        """Read and check every line. All mistakes come in one ``CustomDataError``.

        A line that passes gives a prompt and an answer: it has been through the formatter.
        """
        path = Path(path).absolute()
        reader = _Reader(path, max_line_bytes)
        with foreign(lambda reason: CustomDataError(f"{path}: {reason}")):
            if not path.is_file():
                raise CustomDataError(f"{path}: no such file (own data, one JSON object per line)")
            packed = PackedRecords.pack(reader.records())
        reader.complain()
        if not len(packed):
            raise CustomDataError(f"{path}: it is empty")
        return cls(path, DeclaredDataset(path.name, "train", path.parent, packed))

    def __len__(self) -> int:
        return len(self.data)

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        return self.data.get(idx, rng)

    def where(self, idx: int) -> str:
        """File and line of an example."""
        number = self.data.records[idx]["metadata"]["example_id"].rpartition(":")[2]
        return f"{self.path}:{number}"


@dataclass
class _Reader:
    """Goes through a file line by line, and notes the mistakes."""

    path: Path
    max_line_bytes: int
    mistakes: list[str] = field(default_factory=list)
    """The first ``MAX_SHOWN``."""
    n_mistakes: int = 0

    def records(self) -> Iterator[Line]:
        """The records of the lines without a mistake."""
        formatter = DataFormatterConfig().build()
        for number, data in enumerate(self._lines(), 1):
            try:
                with foreign(lambda reason: CustomDataError(f"it cannot be used: {reason}")):
                    text = self._text(data, number)
                    if not text.strip():
                        continue
                    record = record_of(_parsed(text), self.path, number)
                    try_out(record, formatter)
                yield record
            except CustomDataError as e:
                self.n_mistakes += 1
                if len(self.mistakes) < MAX_SHOWN:
                    shown = UNPRINTABLE.sub(lambda m: ascii(m[0])[1:-1], str(e))
                    self.mistakes.append(f"line {number}: {shown}")

    def complain(self) -> None:
        """Raise if there was a mistake."""
        if self.n_mistakes:
            shown = "".join(f"\n  {m}" for m in self.mistakes)
            more = self.n_mistakes - len(self.mistakes)
            shown += f"\n  ... and {more} more" if more else ""
            raise CustomDataError(f"{self.path}: {self.n_mistakes} lines cannot be used:{shown}")

    def _lines(self) -> Iterator[bytes | None]:
        """Lines of at most ``max_line_bytes``; None for a longer one, which is passed over."""
        with self.path.open("rb") as file:
            while line := file.readline(self.max_line_bytes + 1):
                if len(line) <= self.max_line_bytes or line.endswith(b"\n"):
                    yield line
                    continue
                yield None
                while line and not line.endswith(b"\n"):
                    line = file.readline(self.max_line_bytes)

    def _text(self, data: bytes | None, number: int) -> str:
        if data is None:
            raise CustomDataError(f"longer than data.max_line_bytes={self.max_line_bytes}")
        if number == 1 and data.startswith(UTF16_MARKS):
            raise CustomDataError("the file is in UTF-16, save it as UTF-8")
        try:
            return (data.removeprefix(UTF8_MARK) if number == 1 else data).decode()
        except UnicodeDecodeError as e:
            wrong = data[e.start : e.start + 1].hex()
            raise CustomDataError(f"not in UTF-8: byte 0x{wrong} at {e.start + 1}") from e


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as e:
        raise CustomDataError(f"not valid JSON: {e.msg} at column {e.colno}") from e
    except RecursionError as e:
        raise CustomDataError("not usable JSON: brackets within brackets, far too deep") from e


def _without_doubles(pairs: list[tuple[str, Any]]) -> Line:
    line = dict(pairs)
    if len(line) < len(pairs):
        ((double, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise CustomDataError(f"the key {double!r:.80} stands there twice")
    return line
