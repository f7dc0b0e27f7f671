"""Whether the tensors of a checkpoint are as they were written, before any of them is used.

Every part of a ``torch.distributed.checkpoint`` file is a zip archive of ``torch.save`` with a
checksum for each of its members; torch's reader does not look at these.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from olmo.models.dcp_files import CheckpointReader
from olmo.models.loading import CheckpointError
from olmo.outside import foreign


def check_tensors(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """Read this rank's share of all parts of the checkpoint data in ``folder``, model and
    optimizer.

    ``CheckpointError``, naming file and tensor, for a wrong checksum, anything but tensors and
    plain values, and a shape or type other than ``.metadata`` has it.
    """
    reader = CheckpointReader(folder)
    with foreign(lambda reason: CheckpointError(f"{folder / '.metadata'}: {reason}")):
        metadata = reader.read_metadata()
        parts = sorted(
            metadata.storage_data.items(), key=lambda part: (part[1].relative_path, part[1].offset)
        )
    start, stop = (len(parts) * r // world_size for r in (rank, rank + 1))
    for index, place in parts[start:stop]:
        path = folder / place.relative_path

        def damaged(reason: str, where: str = f"{path}: {index.fqn}") -> CheckpointError:
            return CheckpointError(f"{where} is damaged: {reason}")

        with foreign(damaged), path.open("rb") as file:
            part = io.BufferedReader(_Part(file, place.offset, place.length))
            _check(_read(part), index, metadata)


class _Part(io.RawIOBase):
    """``length`` bytes of an open file, from ``start`` on, as a file of their own."""

    def __init__(self, file: IO[bytes], start: int, length: int):
        self.file, self.start, self.length, self.place = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.length}[whence]
        if base + offset < 0:
            raise OSError(f"no place {base + offset} in a file")
        self.place = base + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.place)
        data = self.file.read(max(min(len(buffer), self.length - self.place), 0))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def _read(file: IO[bytes]) -> object:
    with zipfile.ZipFile(file) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"wrong checksum of {bad}")
    file.seek(0)
    return load_plain(file)


def load_plain(file: IO[bytes] | Path) -> object:
    """What ``torch.save`` wrote. ``ValueError`` where that is neither tensors nor plain values, in
    place of torch's advice to run whatever a file holds."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ValueError("it holds neither tensors nor plain values") from e


def _check(value: object, index: MetadataIndex, metadata: Metadata) -> None:
    entry = metadata.state_dict_metadata[index.fqn]
    if not isinstance(entry, TensorStorageMetadata):
        return
    sizes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in entry.chunks}
    shape = sizes[tuple(index.offset or (0,) * len(entry.size))]
    dtype = entry.properties.dtype
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{found:.80} in place of {dtype} {shape}")
