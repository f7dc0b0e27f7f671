"""Read ``torch.distributed.checkpoint`` folders without trusting them.

Only tensors are read. Pickled objects, such as the settings of an optimizer, stay on the disk.
A shard may be a symbolic link; a name may not lead out of the folder.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import groupby, pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olmo.models.dcp_metadata import METADATA, Chunk, read_entries
from olmo.models.errors import CheckpointError, everywhere
from olmo.models.tensors import check_finite, check_plain, own_part, torch_load


class CheckpointReader:
    """The tensors of ``folder``; ``entries`` are all that it holds, by name.

    ``CheckpointError`` if a file that ``.metadata`` lists is missing or cut, or if its chunks do
    not make up whole tensors. No tensor is read for that.
    """

    def __init__(self, folder: Path):
        self.folder, self.entries = folder, read_entries(folder)
        chunks = sorted(chunk for entry in self.entries.values() for chunk in entry.chunks)
        for file, parts in groupby(chunks, lambda chunk: chunk.file):
            path, needed = folder / file, max(chunk.start + chunk.length for chunk in parts)
            if not path.is_file():
                raise CheckpointError(f"{path}: missing, but {METADATA} lists it")
            if (size := path.stat().st_size) < needed:
                raise CheckpointError(f"{path}: cut off: {size} bytes, {METADATA} lists {needed}")
        for one, other in pairwise(chunks):
            if one.file == other.file and one.start + one.length > other.start:
                path = folder / one.file
                raise CheckpointError(f"{path}: {one.name!r} and {other.name!r} share bytes")

    def chunks(self) -> list[Chunk]:
        """All parts of tensors, in the order of the files."""
        tensors = (entry for entry in self.entries.values() if entry.dtype is not None)
        return sorted(chunk for entry in tensors for chunk in entry.chunks if prod(chunk.sizes))

    def open(self, chunk: Chunk) -> io.BufferedReader:
        """The bytes of ``chunk``, as a file of their own."""
        return io.BufferedReader(_Part(self.folder / chunk.file, chunk.start, chunk.length))

    def read_chunk(self, chunk: Chunk) -> Tensor:
        """``CheckpointError`` if it is not what ``.metadata`` says, or is not finite."""
        where, dtype = self.folder / chunk.file, self.entries[chunk.name].dtype
        with self.open(chunk) as file:
            stored = torch_load(file, f"{where}: {chunk.name!r}")
        stored = check_plain(stored, where, chunk.name)
        if (stored.dtype, tuple(stored.shape)) != (dtype, chunk.sizes):
            raise CheckpointError(
                f"{where}: {chunk.name!r} is {stored.dtype} of shape {tuple(stored.shape)}, "
                f"{METADATA} lists {dtype} of {chunk.sizes}"
            )
        return check_finite(stored, where, chunk.name)

    def read(self, name: str, part: tuple[slice, ...] = ()) -> Tensor:
        """The ``part`` of a tensor (default: all), in the stored type. Only chunks that hold some
        of it are read."""
        entry = self.entries.get(name)
        if entry is None or entry.dtype is None:
            what = "missing" if entry is None else "a pickled object, not a tensor"
            raise CheckpointError(f"{self.folder}: {name!r} is {what}")
        wanted = [range(n)[s] for n, s in zip(entry.shape, part, strict=False)]
        wanted += map(range, entry.shape[len(wanted) :])
        out = torch.empty([len(r) for r in wanted], dtype=entry.dtype)
        for chunk in entry.chunks:
            spans = [
                (max(r.start, o), min(r.stop, o + n), r.start, o)
                for r, o, n in zip(wanted, chunk.offsets, chunk.sizes, strict=True)
            ]
            if all(a < b for a, b, *_ in spans):
                stored = self.read_chunk(chunk)[tuple(slice(a - o, b - o) for a, b, _, o in spans)]
                if stored.shape == out.shape:
                    return stored
                out[tuple(slice(a - r, b - r) for a, b, r, _ in spans)] = stored
        return out


def read_into(reader: CheckpointReader, state: dict[str, Any]) -> None:
    """Fill the tensors of the nested dicts ``state`` in place; each rank reads what its shards
    need, and every rank calls this. Whatever else ``state`` holds stays as it is.

    ``CheckpointError``, the same on every rank, for a tensor that is missing, damaged or not
    finite, or of another shape; ``state`` may then be half filled.
    """
    everywhere(lambda: _fill(reader, state))


@torch.no_grad()
def _fill(reader: CheckpointReader, state: dict[str, Any]) -> None:
    for name, target in _tensors(state, ""):
        entry = reader.entries.get(name)
        if entry is not None and entry.dtype and entry.shape != tuple(target.shape):
            raise CheckpointError(
                f"{reader.folder}: {name!r} has shape {entry.shape}, expected {tuple(target.shape)}"
            )
        local, part = own_part(target)
        local.copy_(check_finite(reader.read(name, part), reader.folder, name, local.dtype))


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dicts and lists, under the names that torch gives them."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f"{name}.{key}" if name else str(key))


class _Part(io.FileIO):
    """``length`` bytes of a file, from ``start`` on, as a file of their own."""

    read = io.RawIOBase.read  # type: ignore[assignment]  # both call readinto
    readall = io.RawIOBase.readall

    def __init__(self, path: Path, start: int, length: int):
        super().__init__(path)
        self.start, self.length = start, length
        self.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.length}[whence]
        if base + offset < 0:
            raise OSError(f"no place {base + offset} in a file")
        return super().seek(self.start + base + offset) - self.start

    def tell(self) -> int:
        return super().tell() - self.start

    def fileno(self) -> int:
        """None: torch would read by it, past ``seek``, from another place."""
        raise io.UnsupportedOperation("fileno")

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[: max(self.length - self.tell(), 0)])
