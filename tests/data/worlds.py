"""Data sets in miniature: files written from their content, examples read and made comparable."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet

from olmo.data.registry import get_dataset

HOMES = ("video_datasets", "torch_datasets")
VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
CASES = Path(__file__).parents[1] / "cases"
"""A folder for each data set: ``files`` as they are published, below its home, and
``expected.json``. Tables are rows in JSON: ``X.parquet.json``, and ``X.arrow.json`` for the folder
of a table, or of one per split. ``{"base64": ...}`` stands for bytes, ``{"picture": n}`` for the
cell of a picture whose pixels have the red value n; in examples such a picture is n."""


class First(np.random.RandomState):
    """A generator that always takes the first choice, so that expectations can be written out."""

    def randint(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def permutation(self, x: Any) -> np.ndarray:
        return np.arange(x)

    def random(self, size: Any = None) -> Any:
        return 0.0


def write_case(
    name: str, home: Path, content: Mapping[str, bytes] = MappingProxyType({})
) -> dict[str, Any]:
    """Write the files of ``tests/cases/NAME`` under ``home``, the media that its expected examples
    name, and those of its list ``media``. They are empty without ``content``: of a "video" and of
    an "image". Returns the expected examples by split."""
    folder = CASES / name
    for source in sorted((folder / "files").rglob("*")):
        target = home / source.relative_to(folder / "files")
        if source.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.name.endswith((".parquet.json", ".arrow.json")):
            write_table(target.with_suffix(""), json.loads(source.read_text(encoding="utf-8")))
        else:
            shutil.copyfile(source, target)
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    media = expected.pop("media", [])
    shown = [
        e.get(kind) for found in expected.values() for e in found for kind in ("video", "image")
    ]
    for paths in [media, *shown]:
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str):
                write_medium(home / path, content)
    return expected


def write_medium(path: Path, content: Mapping[str, bytes]) -> None:
    """A file, or those of a folder of frames, unless something is in them already."""
    if path.is_dir():
        for frame in path.iterdir():
            write_medium(frame, content)
    elif not path.exists() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "video" if path.suffix in VIDEO_SUFFIXES else "image"
        path.write_bytes(content.get(kind, b""))


def write_table(path: Path, rows: Any) -> None:
    """Rows as a parquet file, or as an Arrow folder (``.arrow`` is not part of its name);
    a mapping has the rows of each split."""
    rows = _with_bytes(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        return
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, dict):
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(rows)}))
        for split, content in rows.items():
            write_arrow(folder / split, content)
    else:
        write_arrow(folder, rows)


def _with_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        if set(value) == {"picture"}:
            return {"bytes": png(value["picture"]), "path": None}
        return {k: _with_bytes(v) for k, v in value.items()}
    return [_with_bytes(v) for v in value] if isinstance(value, list) else value


def png(red: int) -> bytes:
    """A picture file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 1), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_world(root: Path, files: Mapping[str, Any]) -> None:
    """Write files by path: ``{"text": ...}``, ``{"rows": [...]}`` (parquet), ``{"arrow": [...]}``
    (the folder of a table) or None (an empty file)."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.touch()
        elif "text" in content:
            path.write_text(content["text"], encoding="utf-8")
        elif "rows" in content:
            pyarrow.parquet.write_table(pa.Table.from_pylist(content["rows"]), path)
        else:
            write_arrow(path, content["arrow"])


def write_arrow(folder: Path, rows: list[dict[str, Any]]) -> None:
    """What ``save_to_disk`` writes for one split."""
    folder.mkdir(parents=True, exist_ok=True)
    table, file = pa.Table.from_pylist(rows), "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(str(folder / file), table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file}]}))
    (folder / "dataset_info.json").write_text("{}")


def examples(name: str, split: str, root: Path, seed: int | None = 0) -> list[dict[str, Any]]:
    """All examples of a data set, with paths relative to its home, in plain JSON types. Without
    ``seed`` every draw takes the first choice."""
    data = get_dataset(name, split)
    rngs = [First() if seed is None else np.random.RandomState(seed + i) for i in range(len(data))]
    homes = [f"{root / home}/" for home in HOMES]
    return [plain(data.get(i, rng), homes) for i, rng in enumerate(rngs)]


def plain(value: Any, roots: list[str]) -> Any:
    """Arrays as lists, spans of subtitles as ``start - end``, keys as text, pictures in bytes as
    the red value of their first pixel."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        keys = {k: " - ".join(map(str, k)) if isinstance(k, tuple) else str(k) for k in value}
        return {keys[k]: plain(v, roots) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, roots) for v in value]
    if isinstance(value, bytes):
        return int(np.asarray(Image.open(io.BytesIO(value)))[0, 0, 0])
    if isinstance(value, str):
        for root in roots:
            value = value.removeprefix(root)
    return value
