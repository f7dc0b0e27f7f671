"""Files of a data set: annotations row by row, and media looked up in folder listings."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from olmo.data.arrow import ArrowRows, parquet_rows
from olmo.data.records import DatasetFormatError, Flaw, Losses, Record, explained
from olmo.files import open_regular
from olmo.outside import OutsideError, describe

Row = dict[str, Any]
MAX_FILE_BYTES = 16 << 30
"""Size of a file that is read whole."""
MAX_LINE_BYTES = 64 << 20
MAX_ROW_LINES = 100
"""Lines of one row of a table, in whose quoted cells lines may end."""
NO_LINE: tuple[Any, str] = ((), "")
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass
class Disk:
    """Reads below ``home``. A folder is listed once, so that looking for many media files is
    cheap also on a network disk."""

    home: Path
    place: tuple[str | int, ...] = ()
    """File read last, and the kind and number of the row in it."""
    losses: Losses = field(default_factory=Losses)
    """Rows that gave nothing; no single one ends a data set."""
    _listings: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def at(self) -> str:
        """``place`` in words, for error messages."""
        if not self.place:
            return str(self.home)
        path, *row = self.place
        return str(self.home / str(path)) + (f": {row[0]} {row[1]!r}" if row else "")

    def each(
        self, rows: Iterable[Any], convert: Callable[[Any], Record | Iterable[Record]]
    ) -> Iterator[Record]:
        """What ``convert`` makes of each row: one record, or several. Whatever it raises is counted
        in ``losses``, and the next row follows."""
        for row in rows:
            self.losses.n_rows += 1
            try:
                with explained(Flaw):
                    found = convert(row)
                    yield from [found] if isinstance(found, dict) else found
            except OutsideError as e:
                self.lose(e)

    def lookup(self, rows: Iterable[Any], pair: Callable[[Any], tuple[Any, Any]]) -> dict[Any, Any]:
        """The key and value that ``pair`` makes of each row, which may fail as in ``each``."""
        found: dict[Any, Any] = {}
        for _ in self.each(rows, lambda row: found.update([pair(row)]) or ()):
            pass
        return found

    def exists(self, path: str) -> bool:
        """Whether the file or folder ``path`` is there."""
        folder, _, name = path.rpartition("/")
        return name in self.listing(folder)

    def names(self, folder: str) -> list[str]:
        """Sorted names in ``folder``; none if it is absent."""
        return sorted(self.listing(folder))

    def glob(self, pattern: str) -> list[str]:
        """Sorted paths that match; wildcards only in the last part."""
        folder, slash, name = pattern.rpartition("/")
        return [f"{folder}{slash}{n}" for n in self.names(folder) if fnmatchcase(n, name)]

    def listing(self, folder: str) -> frozenset[str]:
        """Names in ``folder``, as they were when it was asked for first; none if it is absent. A
        ``DatasetFormatError`` where the system does not let us see them."""
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(self.home / folder))
            except (OSError, ValueError) as e:  # ValueError: no folder can have that name
                if getattr(e, "errno", errno.ENOENT) not in ABSENT:
                    raise DatasetFormatError(f"{self.home / folder}: {describe(e)}") from e
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def first(self, *paths: str) -> str:
        """The first path that exists, or the first of all."""
        return next((p for p in paths if self.exists(p)), paths[0])

    def json(self, path: str) -> Any:
        """Content of a JSON file."""
        self.place = (path,)
        return _parsed(file_text(self.home / path))

    def rows(self, path: str, key: str = "data") -> Iterator[Row]:
        """Rows of a JSON file: a list, or a mapping that has the list under ``key``."""
        content = self.json(path)
        content = content[key] if isinstance(content, dict) else content
        if not isinstance(content, list):
            raise ValueError(f"expected a list of rows, got {type(content).__name__}")
        yield from self.numbered(path, content)

    def numbered(self, path: str, rows: Iterable[Any], kind: str = "row") -> Iterator[Any]:
        """``rows`` of a file, each named in ``place`` before it is looked at; those that could not
        be read are counted."""
        for i, row in enumerate(rows):
            self.place = (path, kind, i)
            if isinstance(row, OutsideError):
                self._lose(row)
            else:
                yield row

    def items(self, path: str, key: str | None = None) -> Iterator[tuple[str, Any]]:
        """Keys and values of a JSON mapping, or of the mapping under ``key`` in it."""
        content = self.json(path)
        content = content if key is None else content[key]
        if not isinstance(content, dict):
            raise ValueError(f"expected a mapping, got {type(content).__name__}")
        for name, value in content.items():
            self.place = (path, "key", str(name))
            yield str(name), value

    def jsonl(self, path: str) -> Iterator[Any]:
        """Values of a JSON-lines file; empty lines are passed over."""
        for line in self.lines(path):
            try:
                value = _parsed(line)
            except ValueError as e:
                self._lose(e)
            else:
                yield value

    def lines(self, path: str) -> Iterator[str]:
        """Stripped lines of a text file that are not empty."""
        for line in self._raw_lines(path):
            if line.strip():
                yield line.strip()

    def lose(self, error: OutsideError) -> None:
        """Count the row at hand as one that gives nothing."""
        self.losses.add(error, self.at)

    def _lose(self, reason: Exception) -> None:
        """Count the row at hand, which ``each`` does not come to see."""
        self.losses.n_rows += 1
        self.lose(Flaw(str(reason)))

    def _raw_lines(self, path: str) -> Iterator[str]:
        """Lines with their ends, each named in ``place`` before it is looked at."""
        number = 0
        with open_regular(self.home / path) as file:
            while block := file.readline(MAX_LINE_BYTES + 1):
                if len(block) > MAX_LINE_BYTES:
                    number, self.place = number + 1, (path, "line", number + 1)
                    self._lose(ValueError(f"it is longer than {MAX_LINE_BYTES} bytes"))
                    while block and not block.endswith(b"\n"):
                        block = file.readline(MAX_LINE_BYTES)
                    continue
                for line in block.splitlines(keepends=True):  # of old files, which end lines in CR
                    number += 1
                    self.place = (path, "line", number)
                    try:
                        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    except UnicodeDecodeError as e:
                        self._lose(ValueError(f"it is not UTF-8: {e.reason}"))
                    else:
                        yield text

    def csv(self, path: str, delimiter: str = ",") -> Iterator[dict[str, str]]:
        """Rows of a table with a header."""
        cells = self.cells(path, delimiter)
        header = next(cells, [])
        for row in cells:
            if len(row) == len(header):
                yield dict(zip(header, row, strict=True))
            else:
                self._lose(ValueError(f"another number of cells than the {len(header)} columns"))

    def cells(self, path: str, delimiter: str = ",") -> Iterator[list[str]]:
        """Rows of a table without a header. A quote that is never closed costs its own line, not
        those up to the next quote."""
        lines, again, width = self._raw_lines(path), list[tuple[Any, str]](), 0
        while True:
            taken: list[tuple[Any, str]] = []
            supply = csv.reader(self._supply(lines, again, taken), delimiter=delimiter)
            row, error = [], ""
            try:
                row = next(supply, [])
            except csv.Error as e:
                error = str(e)
            if taken[-1] is NO_LINE:
                taken.pop()
                error = "a quote is not closed"
            if not taken:
                return
            if len(taken) > 1 and (error or len(row) != (width or len(row))):
                again[:0] = taken[1:]
                self.place, error = taken[0][0], error or "a quote is not closed"
            if error:
                self._lose(ValueError(error))
            elif row:
                width = width or len(row)
                yield row

    def _supply(
        self, lines: Iterator[str], again: list[tuple[Any, str]], taken: list[tuple[Any, str]]
    ) -> Iterator[str]:
        """Lines for one row: first those to read again. All that it asks for are ``taken``, with
        their places; ``NO_LINE`` stands for the one that it does not get."""
        while len(taken) < MAX_ROW_LINES:
            if again:
                self.place, line = again.pop(0)
            elif not (line := next(lines, "")):
                break
            taken.append((self.place, line))
            yield line
        taken.append(NO_LINE)

    def rows_of(
        self, path: str, split: str, key: str | None = None, suffix: str | None = None
    ) -> Iterator[Row]:
        """Rows of a file, or of all that fit a pattern, by its suffix or that of another format
        (``mapping``: of JSON); a folder is an Arrow table. ``key``: where the rows of a JSON
        file are."""
        for file in self.glob(path):
            match suffix or PurePosixPath(file).suffix:
                case ".csv":
                    yield from self.csv(file)
                case ".tsv":
                    yield from self.csv(file, "\t")
                case "mapping":
                    yield from (row for _, row in self.items(file))
                case ".json":
                    yield from self.rows(file, key or "data")
                case ".jsonl":
                    yield from self.jsonl(file)
                case ".parquet":
                    yield from self.parquet(file)
                case _:
                    yield from self.table_rows(file, split)

    def parquet(self, path: str) -> Iterator[Row]:
        """Rows of a parquet file."""
        self.place = (path,)
        open_regular(self.home / path).close()  # an absent file is named as all others are
        yield from self.numbered(path, parquet_rows(self.home / path))

    def table(self, folder: str, split: str = "train", *columns: str) -> ArrowRows:
        """Rows of an Arrow folder as ``save_to_disk`` writes it, memory-mapped. ``columns`` are
        those that it must have."""
        self.place = (folder,)
        rows = ArrowRows.open(self.home / folder, split)
        rows.need(*columns)
        return rows

    def table_rows(self, folder: str, split: str = "train", *columns: str) -> Iterator[Row]:
        """All rows of an Arrow folder, for small tables."""
        yield from self.numbered(folder, self.table(folder, split, *columns))


def file_text(path: Path) -> str:
    """A whole text file, UTF-8. Where it is not, the ``ValueError`` has the line."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ValueError(f"line {line} is not UTF-8: {e.reason}") from e


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # ValueError: also a number of thousands of digits
        raise ValueError(f"not valid JSON: {e}") from e


def structs(value: Any) -> list[Row]:
    """Rows of a nested column; tables hold them as a list of rows or as a row of lists."""
    if isinstance(value, dict):
        columns = list(value.values())
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(value, list | None):
        raise ValueError(f"expected a list of rows, got {type(value).__name__}")
    return value or []
