"""Whether the tensors of a checkpoint are as they were written, before any of them is used.

Every part of a ``torch.distributed.checkpoint`` file is a zip archive of ``torch.save`` with a
checksum for each of its members; torch's reader does not look at these.
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import IO, Any

from olmo.models.dcp_files import CheckpointReader
from olmo.models.errors import CheckpointError
from olmo.models.tensors import weight_table
from olmo.outside import foreign


def check_tensors(reader: CheckpointReader, rank: int = 0, world_size: int = 1) -> None:
    """Read this rank's share of all tensors of a checkpoint, model and optimizer.

    ``CheckpointError``, naming file and tensor, for a wrong checksum or type, and for whatever
    ``CheckpointReader.read_chunk`` refuses.
    """
    parts = sorted(
        ((index, chunk) for index, (_, chunk) in reader.chunks.items()),
        key=lambda part: (part[1].file, part[1].start),
    )
    weight_table(  # the optimizer's are numbers of the same kind
        reader.folder, [(k, e.shape, e.dtype) for k, e in reader.entries.items() if e.dtype]
    )
    start, stop = (len(parts) * r // world_size for r in (rank, rank + 1))
    for index, chunk in parts[start:stop]:
        path = reader.folder / chunk.file

        def damaged(reason: str, where: str = f"{path}: {index.fqn}") -> CheckpointError:
            return CheckpointError(f"{where} is damaged: {reason}")

        with foreign(damaged), path.open("rb") as file:
            with zipfile.ZipFile(
                io.BufferedReader(_Part(file, chunk.start, chunk.length))
            ) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise ValueError(f"wrong checksum of {bad}")
            reader.read_chunk(file, index)


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
