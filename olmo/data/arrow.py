"""Parquet files, and Arrow folders in the layout of ``datasets.Dataset.save_to_disk``.

Such a folder holds ``state.json``, whose ``_data_files`` names the Arrow streams; a folder with
one such folder per split holds ``dataset_dict.json``. Rows are read through a memory map.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from olmo.files import open_regular
from olmo.outside import OutsideError, foreign

Row = dict[str, Any]
ROWS_PER_BATCH = 1000
ROWS_CONVERTED = 100
"""Rows that are Python objects at once; each may hold images."""
GROUP_BYTES = 64 << 20
"""Row groups of a parquet file that a process keeps, or one if it is larger."""
PLAIN: dict[str, Any] = {
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}
"""What ``load_from_disk`` wants to find in ``state.json``."""


def _pyarrow(path: Path) -> ModuleType:
    """The library, imported on first use: most data sets do without it."""
    try:
        for part in ("pyarrow.ipc", "pyarrow.parquet"):
            importlib.import_module(part)
    except ImportError as e:
        raise ValueError(f"reading {path} needs pyarrow: pip install pyarrow") from e
    return importlib.import_module("pyarrow")


def _named(path: Path, reason: str) -> OutsideError:
    return OutsideError(f"{path}: {reason}")


def _parquet(path: Path) -> Any:
    return _pyarrow(path).parquet.ParquetFile(path)


def _json(path: Path) -> Any:
    with open_regular(path) as file:
        return json.loads(file.read())


def parquet_rows(path: Path) -> Iterator[Row | OutsideError]:
    """Rows of a parquet file, some at a time, or why one cannot be read."""
    with _parquet(path) as file:
        for batch in file.iter_batches(ROWS_CONVERTED):
            yield from _converted(batch)


def _converted(batch: Any) -> list[Row | OutsideError]:
    """Rows as Python objects. In place of one that cannot be (text that is no UTF-8, a date beyond
    those of Python, damaged offsets) stands the reason."""
    try:
        with foreign(OutsideError):
            batch.validate(full=True)  # damaged offsets would point anywhere in memory
            rows: list[Row | OutsideError] = batch.to_pylist()
            return rows
    except OutsideError as e:
        if batch.num_rows < 2:
            return [e]
        half = batch.num_rows // 2
        return [*_converted(batch.slice(0, half)), *_converted(batch.slice(half))]


@dataclass
class ParquetRows(Sequence[Row]):
    """Rows of a parquet file, read by row groups; a process keeps the last ones that it read."""

    path: Path
    _ends: np.ndarray | None = field(default=None, repr=False)
    """Rows up to the end of each group, once the file was opened."""
    _groups: dict[int, Any] = field(default_factory=dict, repr=False)

    def ends(self) -> np.ndarray:
        if self._ends is None:
            with _parquet(self.path) as file:
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._ends = np.cumsum(sizes, dtype=np.int64)
        return self._ends

    @property
    def files(self) -> list[Path]:
        return [self.path]

    def __len__(self) -> int:
        ends = self.ends()
        return int(ends[-1]) if len(ends) else 0

    def __getitem__(self, idx: Any) -> Any:
        if not 0 <= idx < len(self):
            raise IndexError(f"no row {idx!r} among {len(self)}")
        ends = self.ends()
        number = int(np.searchsorted(ends, idx, side="right"))
        group = self._group(number)
        return group.slice(int(idx) - int(ends[number]) + group.num_rows, 1).to_pylist()[0]

    def __iter__(self) -> Iterator[Any]:
        """All rows in order; in place of one that cannot be read the ``OutsideError``."""
        return parquet_rows(self.path)

    def _group(self, number: int) -> Any:
        if number in self._groups:
            return self._groups[number]
        with _parquet(self.path) as file:
            group = file.read_row_group(number, use_threads=False)
        while self._groups and sum(g.nbytes for g in (*self._groups.values(), group)) > GROUP_BYTES:
            del self._groups[next(iter(self._groups))]
        self._groups[number] = group
        return group

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_ends": self._ends, "_groups": {}}


def splits_of(folder: Path) -> list[str]:
    """Names of the splits of a folder of ``save_to_disk``; none for what is one table."""
    file = folder / "dataset_dict.json"
    return list(_json(file)["splits"]) if file.is_file() else []


@dataclass
class ArrowRows(Sequence[Row]):
    """Rows of Arrow stream files, memory-mapped; another process opens them anew."""

    files: list[Path]
    _tables: list[Any] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, folder: Path, split: str = "train") -> ArrowRows:
        """Open the table in ``folder``, or its split ``split`` when it has several."""
        if known := splits_of(folder):
            if split not in known:
                raise ValueError(f"{folder} has no split {split!r}, only {', '.join(known)}")
            folder = folder / split
        state = _json(folder / "state.json")
        names = [f["filename"] for f in state["_data_files"]]
        outside = [n for n in names if Path(n).name != n]
        if outside:
            raise ValueError(f"{folder}/state.json names {outside[0]!r}, a file elsewhere")
        return cls([folder / n for n in names])

    def __len__(self) -> int:
        return sum(t.num_rows for t in self.tables())

    def __getitem__(self, idx: Any) -> Any:
        rest = int(idx)
        for table in self.tables():
            if 0 <= rest < table.num_rows:
                row = table.slice(rest, 1)
                row.validate(full=True)  # damaged offsets would point anywhere in memory
                return row.to_pylist()[0]
            rest -= table.num_rows
        raise IndexError(f"no row {idx!r} among {len(self)}")

    def __iter__(self) -> Iterator[Any]:
        """All rows in order, converted some at a time; in place of one that cannot be read the
        ``OutsideError``."""
        for table in self.tables():
            for batch in table.to_batches(max_chunksize=ROWS_CONVERTED):
                yield from _converted(batch)

    @property
    def where(self) -> str:
        """The folder, for error messages."""
        return str(self.files[0].parent) if self.files else ""

    def need(self, *names: str) -> None:
        """``ValueError`` unless every file has these columns."""
        for file, table in zip(self.files, self.tables(), strict=True):
            for name in names:
                if name not in table.column_names:
                    raise ValueError(f"{file} has no column {name!r}, only {table.column_names}")

    def has_column(self, name: str) -> bool:
        """Whether every file has this column."""
        return all(name in table.column_names for table in self.tables())

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        self.need(name)
        columns = [t.column(name) for t in self.tables()]
        for column in columns:
            column.validate(full=True)
        return [v for column in columns for v in column.to_pylist()]

    def has_value(self, name: str) -> list[bool]:
        """For every row whether its ``name`` is not null."""
        return [v for t in self.tables() for v in t.column(name).is_valid().to_pylist()]

    def tables(self) -> list[Any]:
        """The mapped ``pyarrow.Table`` of every file."""
        if not self._tables:
            for file in self.files:
                arrow = _pyarrow(file)
                open_regular(file).close()
                with arrow.memory_map(str(file)) as source:
                    self._tables.append(arrow.ipc.open_stream(source).read_all())
        return self._tables

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_tables": []}


def write_table(parquet_files: Sequence[Path], folder: Path, max_bytes: int = 1000 << 30) -> int:
    """Join parquet files into one Arrow folder and return the number of rows. ``state.json`` is
    written last, so that a folder without it is one that was not finished. An ``OutsideError``
    names a file that is damaged, or with which the rows are larger than ``max_bytes``."""
    arrow = _pyarrow(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name, rows = "data-00000-of-00001.arrow", 0
    writer = None
    with open(folder / name, "wb") as sink:
        for path in parquet_files:
            with foreign(partial(_named, path)), _parquet(path) as file:
                schema = file.schema_arrow.remove_metadata()
                writer = writer or arrow.ipc.new_stream(sink, schema)
                for batch in file.iter_batches(ROWS_PER_BATCH):
                    max_bytes -= batch.nbytes
                    if max_bytes < 0:
                        raise ValueError("its rows are larger than allowed")
                    writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)
                    rows += batch.num_rows
        if writer is None:
            raise ValueError(f"no parquet file for {folder}")
        writer.close()
    state = {"_data_files": [{"filename": name}], "_fingerprint": folder.name, **PLAIN}
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps(state))
    return rows


def write_splits(folder: Path, splits: Sequence[str]) -> None:
    """Say that ``folder`` has one table per split."""
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
