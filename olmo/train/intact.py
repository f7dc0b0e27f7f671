"""Whether the tensors of a checkpoint are as they were written, before any of them is used.

Every part of a ``torch.distributed.checkpoint`` file is a zip archive of ``torch.save`` with a
checksum for each of its members; torch's reader does not look at these.
"""

from __future__ import annotations

import zipfile

from olmo.models.dcp_files import CheckpointReader
from olmo.models.dcp_metadata import Chunk
from olmo.models.errors import CheckpointError
from olmo.models.tensors import weight_table
from olmo.outside import foreign


def check_tensors(reader: CheckpointReader, rank: int = 0, world_size: int = 1) -> None:
    """Read this rank's share of all tensors of a checkpoint, model and optimizer.

    ``CheckpointError``, naming file and tensor, for a wrong checksum or type, and for whatever
    ``CheckpointReader.read_chunk`` refuses.
    """
    weight_table(  # the optimizer's are numbers of the same kind
        reader.folder, [(k, e.shape, e.dtype) for k, e in reader.entries.items() if e.dtype]
    )
    chunks = reader.chunks()
    start, stop = (len(chunks) * r // world_size for r in (rank, rank + 1))
    for chunk in chunks[start:stop]:

        def damaged(reason: str, chunk: Chunk = chunk) -> CheckpointError:
            where = f"{reader.folder / chunk.file}: {chunk.name}"
            return CheckpointError(f"{where} is damaged: {reason}")

        with foreign(damaged):
            with reader.open(chunk) as file, zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise ValueError(f"wrong checksum of {bad}")
            reader.read_chunk(chunk)
