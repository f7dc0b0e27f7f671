"""Files that are written whole or not at all, also when several processes write the same one; and
those that are no files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; at the end it takes the place of ``path``, or goes away
    if there was an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """A file, opened to read; a pipe or a device of that name would never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    return open(path, "rb")


def write_bytes(path: Path, data: bytes) -> None:
    with whole_file(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: object, sort_keys: bool = False) -> None:
    """Indented, in UTF-8. ``ValueError`` for a number that JSON does not have (NaN, infinity)."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys)
    write_text(path, text + "\n")
