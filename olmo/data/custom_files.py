"""Files of own data: jsonl, JSON lists, parquet and Arrow tables, read again row by row.

What a process keeps of a file is where its rows are, never the rows. A file that changes after it
was checked is not read any more.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from olmo.data.arrow import ArrowRows, ParquetRows, splits_of
from olmo.data.records import CustomDataError, Record
from olmo.outside import OutsideError, foreign

SUFFIXES = (".jsonl", ".json", ".parquet")
OTHER_SUFFIXES = (".csv", ".tsv", ".gz", ".zip", ".tar", ".arrow", ".mp4", ".jpg", ".png", ".yaml")
HF_FILES = ("dataset_dict.json", "state.json")
"""A folder with one of them was written by ``save_to_disk``."""
UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
SPACE = re.compile(r"[ \t\r\n]*")
LIST_START = re.compile(r"(?:\xef\xbb\xbf)?[ \t\r\n]*\[[ \t\r\n]*(\]?)")
ELEMENT_END = re.compile(r"[ \t\r\n]*([,\]]?)")
WINDOW = 1 << 22
"""Bytes of a JSON list that are read at once."""
MAX_WINDOWS = 16
"""So many are read to find the end of one element."""


class RowFile:
    """Rows of ``path``, in ``files``. ``scan`` goes through them once; only then ``line`` knows
    where they are. Messages number ``unit``: lines from 1, rows from 0."""

    unit = "row"

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path, self.files = path, files
        self.n_bytes_done = 0
        """By ``scan``, of all that ``files`` have."""
        self._seen = self._stamps()

    def scan(self) -> Iterator[tuple[int, Any]]:
        """Number of each row, and what ``parse`` takes."""
        raise NotImplementedError

    def parse(self, found: Any, number: int) -> Any:
        """The value of a row; ``OutsideError`` for one that cannot be read."""
        if isinstance(found, OutsideError):
            raise found
        return found

    def number(self, idx: int) -> int:
        """The number of row ``idx``, empty lines counted."""
        return idx

    def line(self, idx: int) -> Any:
        """The value of row ``idx``; ``CustomDataError`` if the file is not what it was."""
        if self._stamps() != self._seen:
            raise CustomDataError("the file has changed since it was checked: start the run again")
        return self._read(idx)

    def _read(self, idx: int) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def _stamps(self) -> list[tuple[int, int]]:
        return [(s.st_size, s.st_mtime_ns) for s in map(os.stat, self.files)]


def chosen_split(path: Path, asked: str, default: str) -> str:
    """The split of own data to read, ``default`` where none is ``asked`` for. ``CustomDataError``
    for one that the data lack: a file, or a folder of files, has none."""
    with foreign(lambda reason: CustomDataError(f"{path}: {reason}")):
        known, split = splits_of(path), asked or default
        if asked and not known:
            raise CustomDataError(
                f"{path} has no split {asked!r}: only a folder of save_to_disk may"
            )
        if known and split not in known:
            raise CustomDataError(f"{path} has no split {split!r}, only {', '.join(known)}")
        return split


def open_files(path: Path, max_bytes: int, split: str) -> list[RowFile]:
    """The files at ``path``: one, those of a folder, or a data set of ``save_to_disk``."""
    if path.is_file():
        if path.suffix.lower() in OTHER_SUFFIXES:
            raise CustomDataError(f"{path}: own data are {', '.join(SUFFIXES)} files")
        return [_open_file(path, max_bytes)]
    if not path.is_dir():
        raise CustomDataError(f"{path}: no such file (own data, one JSON object per line)")
    if any((path / name).is_file() for name in HF_FILES):
        return [TableRows(path, ArrowRows.open(path, split))]
    found = (p for p in sorted(path.iterdir()) if p.suffix in SUFFIXES)
    files = [p for p in found if p.is_file() and not p.name.startswith(".")]
    if not files:
        raise CustomDataError(f"{path}: own data have {', '.join(SUFFIXES)} files, here is none")
    return [_open_file(p, max_bytes) for p in files]


def _open_file(path: Path, max_bytes: int) -> RowFile:
    if path.suffix == ".parquet":
        return TableRows(path, ParquetRows(path))
    is_list = False
    if path.suffix == ".json":  # many such files have a JSON object per line
        with path.open("rb") as file:
            is_list = LIST_START.match(file.read(1000).decode("latin-1")) is not None
    return (ListRows if is_list else LineRows)(path, max_bytes)


class TableRows(RowFile):
    """A parquet file, or an Arrow table."""

    def __init__(self, path: Path, rows: ParquetRows | ArrowRows) -> None:
        super().__init__(path, rows.files)
        self._rows = rows

    def scan(self) -> Iterator[tuple[int, Any]]:
        n_bytes, n_rows = sum(size for size, _ in self._seen), len(self)
        for number, row in enumerate(self._rows):
            self.n_bytes_done = n_bytes * number // n_rows
            yield number, row

    def _read(self, idx: int) -> Any:
        return self._rows[idx]

    def __len__(self) -> int:
        return len(self._rows)


class LineRows(RowFile):
    """A file with one JSON object per line; empty lines are passed over."""

    unit = "line"

    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, [path])
        self.max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._starts = self._ends = self._numbers = np.zeros(0, np.int64)

    def scan(self) -> Iterator[tuple[int, Any]]:
        starts, ends, numbers = array("q"), array("q"), array("q")
        with self.path.open("rb") as file:
            for number, start, data in self._found(file):
                starts.append(start)
                ends.append(start + (len(data) if isinstance(data, bytes) else 0))
                numbers.append(number)
                self.n_bytes_done = start
                yield number, data
        self._starts, self._ends, self._numbers = map(np.asarray, (starts, ends, numbers))

    def _found(self, file: BinaryIO) -> Iterator[tuple[int, int, bytes | CustomDataError]]:
        """Number, start and bytes of each line, or what is wrong with it."""
        start = number = 0
        while line := file.readline(self.max_bytes + 1):
            number += 1
            if len(line) <= self.max_bytes or line.endswith(b"\n"):
                if line.strip() and line.strip() != UTF8_MARK:
                    yield number, start, line
            else:
                yield number, start, self._too_long()
                while line and not line.endswith(b"\n"):
                    start += len(line)
                    line = file.readline(self.max_bytes)
            start += len(line)

    def _too_long(self) -> CustomDataError:
        return CustomDataError(f"longer than data.max_line_bytes={self.max_bytes}")

    def parse(self, found: Any, number: int) -> Any:
        line = super().parse(found, number)
        return parsed(line, is_first=number == 1 and self.unit == "line")

    def number(self, idx: int) -> int:
        return int(self._numbers[idx])

    def _read(self, idx: int) -> Any:
        self._file = self._file or self.path.open("rb")
        start, end = int(self._starts[idx]), int(self._ends[idx])
        return self.parse(os.pread(self._file.fileno(), end - start, start), self.number(idx))

    def __len__(self) -> int:
        return len(self._starts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


class ListRows(LineRows):
    """A file with a JSON list."""

    unit = "row"

    def _found(self, file: BinaryIO) -> Iterator[tuple[int, int, bytes | CustomDataError]]:
        window = _Window(file, max(WINDOW, self.max_bytes))
        mark, number = window.match(LIST_START)[1] or ",", 0
        while mark == ",":
            window.match(SPACE)
            start = window.base + window.at
            try:
                data = window.element()
            except (ValueError, RecursionError) as e:
                reason = f"{str(e).partition(': line')[0]}; all behind it is not read"
                yield number, start, CustomDataError(f"not valid JSON at byte {start}: {reason}")
                return
            yield number, start, data if len(data) <= self.max_bytes else self._too_long()
            mark, number = window.match(ELEMENT_END)[1], number + 1
        if mark != "]" or (window.match(SPACE) and window.text[window.at :]):
            reason = f"at byte {window.base + window.at}"
            reason = f"expected a comma, or the end of the list, {reason}"
            yield number, window.base + window.at, CustomDataError(reason)


class _Window:
    """The part of a file in which a JSON list is read. Read as latin-1, a byte is a character, and
    JSON ends where it ends in UTF-8."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.text, self.base, self.at = "", 0, 0
        self._decode = json.JSONDecoder().raw_decode

    def match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """``pattern``, which may match nothing, from here on; then goes behind it."""
        while not (found := pattern.match(self.text, self.at)) or found.end() == len(self.text):
            if not self._read_on(self.size):
                break
        assert found is not None, "the pattern does not match"
        self.at = found.end()
        return found

    def element(self) -> bytes:
        """The value that begins here; then goes behind it."""
        while True:
            length = len(self.text) - self.at
            try:
                _, end = self._decode(self.text, self.at)
                if end < len(self.text) or not self._read_on(self.size):
                    break
            except (ValueError, RecursionError):  # it may be cut off by the window
                if length > MAX_WINDOWS * self.size or not self._read_on(length + 1):
                    raise
        start, self.at = self.at, end
        return self.text[start:end].encode("latin-1")

    def _read_on(self, size: int) -> bool:
        more = self.file.read(size)
        if more:
            self.text, self.base = (
                self.text[self.at :] + more.decode("latin-1"),
                self.base + self.at,
            )
            self.at = 0
        return bool(more)


def parsed(data: bytes, is_first: bool) -> Any:
    """The value of a line; the first of a file may begin with the mark of UTF-8."""
    if is_first and data.startswith(UTF16_MARKS):
        raise CustomDataError("the file is in UTF-16, save it as UTF-8")
    try:
        text = data.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as e:
        wrong = e.object[e.start]
        raise CustomDataError(f"not in UTF-8: byte 0x{wrong:02x} at {e.start + 1}") from e
    if text.startswith("\ufeff"):
        raise CustomDataError("not valid JSON: it begins with the mark of UTF-8 (BOM)")
    try:
        return DECODER.decode(text)
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


DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)
