"""Read ``torch.distributed.checkpoint`` folders without trusting them.

Only tensors are read. Pickled objects, such as the settings of an optimizer, stay on the disk.
A shard may be a symbolic link; a name may not lead out of the folder.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from olmo.models.dcp_metadata import METADATA, Chunk, Entry, read_entries
from olmo.models.errors import CheckpointError
from olmo.models.tensors import check_finite, check_plain, torch_load
from olmo.outside import foreign


def check_files(folder: Path) -> dict[str, Entry]:
    """All that ``folder`` holds, by name; no tensor is read.

    ``CheckpointError`` if a file that ``.metadata`` lists is missing or cut, or if its chunks do
    not make up whole tensors.
    """
    entries = read_entries(folder)
    spans: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for name, entry in entries.items():
        for chunk in entry.chunks:
            spans[chunk.file].append((chunk.start, chunk.start + chunk.length, name))
    for file, parts in sorted(spans.items()):
        path, needed = folder / file, max(end for _, end, _ in parts)
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, but {METADATA} lists it")
        if (size := path.stat().st_size) < needed:
            raise CheckpointError(f"{path}: cut off: {size} bytes, {METADATA} lists {needed}")
        for (_, end, one), (start, _, other) in pairwise(sorted(parts)):
            if start < end:
                raise CheckpointError(f"{path}: {one!r} and {other!r} share bytes")
    return entries


def read_into(reader: CheckpointReader, state: dict[str, Any], what: str = "not readable") -> None:
    """Fill the tensors of the nested dicts ``state`` in place; each rank reads what its shards
    need. Whatever else ``state`` holds stays as it is.

    ``CheckpointError`` for a tensor that is missing, damaged or not finite; ``state`` may then be
    half filled.
    """
    where, alone = reader.folder, not torch.distributed.is_initialized()
    try:
        with (
            foreign(lambda reason: CheckpointError(f"{where}: {what}: {reason}")),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as intended
            dcp.load(state, storage_reader=reader, planner=TensorPlanner(), no_dist=alone)
    except CheckpointException as e:  # not an Exception: it would pass every handler
        cause = next((error for error, _ in e.failures.values() if error), e)
        if isinstance(cause, CheckpointError):
            raise cause from e
        raise CheckpointError(f"{where}: {what}: {cause!r}") from e


class TensorPlanner(DefaultLoadPlanner):
    """torch's planner for tensors alone: it would unpickle anything else."""

    def create_local_plan(self) -> LoadPlan:
        self.state_dict = {k: v for k, v in self.state_dict.items() if isinstance(v, Tensor)}
        return super().create_local_plan()

    def load_bytes(self, read_item: ReadItem, value: object) -> None:
        raise CheckpointError(f"{read_item.dest_index.fqn!r} is a pickled object, not a tensor")


class CheckpointReader(FileSystemReader):
    """torch's reader over ``entries``, which have been checked, and with checks of each tensor.

    ``.metadata`` is read once, as a reader may be used for one tensor after the other.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.folder = folder
        self.entries = check_files(folder)
        self.chunks: dict[MetadataIndex, tuple[Entry, Chunk]] = {
            MetadataIndex(name, chunk.offsets): (entry, chunk)
            for name, entry in self.entries.items()
            for chunk in entry.chunks
            if entry.dtype is not None and chunk.numel
        }

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """torch's form of the tensors in ``entries``; the pickled objects are left out."""
        return self._metadata

    @cached_property
    def _metadata(self) -> Metadata:
        tensors = {
            name: TensorStorageMetadata(
                TensorProperties(dtype=entry.dtype),
                torch.Size(entry.shape),
                [
                    ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes))
                    for c in entry.chunks
                    if c.numel
                ],
            )
            for name, entry in self.entries.items()
            if entry.dtype is not None
        }
        stored = {index: _storage(chunk) for index, (_, chunk) in self.chunks.items()}
        meta = StorageMeta(load_id=self.load_id)
        return Metadata(cast(Any, tensors), storage_data=stored, storage_meta=meta)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """As torch's, but what a file holds must be what ``.metadata`` says of it."""
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self.chunks[item.storage_index][1].file].append(item)
        for name, items in by_file.items():
            with (self.folder / name).open("rb") as stream:
                for item in items:
                    stored = self.read_chunk(stream, item.storage_index)
                    for dim, (start, n) in enumerate(
                        zip(item.storage_offsets, item.lengths, strict=True)
                    ):
                        stored = stored.narrow(dim, start, n)
                    target = planner.resolve_tensor(item).detach()
                    where = self.folder / name
                    target.copy_(check_finite(stored, where, item.storage_index.fqn, target.dtype))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def read_chunk(self, stream: IO[bytes], index: MetadataIndex) -> Tensor:
        """One chunk from its open file, finite; ``CheckpointError`` if it is not what
        ``.metadata`` says."""
        entry, chunk = self.chunks[index]
        where = self.folder / chunk.file
        stored = torch_load(self._slice_file(stream, _storage(chunk)), f"{where}: {index.fqn!r}")
        stored = check_plain(stored, where, index.fqn)
        if (stored.dtype, tuple(stored.shape)) != (entry.dtype, chunk.sizes):
            raise CheckpointError(
                f"{where}: {index.fqn!r} is {stored.dtype} of shape {tuple(stored.shape)}, "
                f"{METADATA} lists {entry.dtype} of {chunk.sizes}"
            )
        return check_finite(stored, where, index.fqn)


def _storage(chunk: Chunk) -> _StorageInfo:
    return _StorageInfo(chunk.file, chunk.start, chunk.length)
