"""Writes a data set of a few rows in its exact layout on disk, and reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.registry import get_dataset

VIDEOS, IMAGES = "video_datasets", "torch_datasets"


class First(np.random.RandomState):
    """A generator that always takes the first choice, so that expectations can be written out."""

    def randint(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def permutation(self, x: Any) -> np.ndarray:
        return np.arange(x)


@dataclass(frozen=True)
class Miniature:
    """``files`` are annotations by path (rows, content or text), ``media`` are empty files."""

    name: str
    files: Mapping[str, Any]
    media: Sequence[str]
    expected: Sequence[Mapping[str, Any]] = ()
    split: str = "train"
    home: str = VIDEOS

    def __str__(self) -> str:
        return f"{self.name}:{self.split}"

    def write(self, root: Path) -> Path:
        """Write it under ``root`` (a ``MOLMO_DATA_DIR``) and return its home."""
        home = root / self.home
        for path, content in self.files.items():
            write_file(home / path, content)
        for path in self.media:
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).touch()
        return home

    def read(self, rng: np.random.RandomState | None = None) -> list[dict[str, Any]]:
        """All examples, with the first choice of every draw."""
        data = get_dataset(self.name, self.split)
        return [data.get(i, rng or First()) for i in range(len(data))]


def plain(value: Any) -> Any:
    """Arrays as lists, so that examples can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def write_file(path: Path, content: Any) -> None:
    """A file in the format of its suffix; a path without one is an Arrow folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet
        from pyarrow import Table

        parquet.write_table(Table.from_pylist(content), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == "":
        write_arrow(path, content)
    elif isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".jsonl" or path.parent.name == "qa":  # Social-IQ 2 names it .json
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))


def write_arrow(folder: Path, content: list[Any] | dict[str, list[Any]]) -> None:
    """What ``save_to_disk`` writes for a data set, or (a mapping) for one with several splits."""
    from pyarrow import OSFile, Table, ipc

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(content)}))
        for split, rows in content.items():
            write_arrow(folder / split, rows)
        return
    table = Table.from_pylist(content)
    half = (len(content) + 1) // 2
    parts = [t for t in (table.slice(0, half), table.slice(half)) if t.num_rows]
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with OSFile(str(folder / name), "wb") as sink, ipc.new_stream(sink, table.schema) as out:
            out.write_table(part)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": n} for n in names]})
    )
    (folder / "dataset_info.json").write_text("{}")
