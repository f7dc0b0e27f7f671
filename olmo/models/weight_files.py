"""The weights of a checkpoint folder, whatever form its files have.

Names and shapes are known before a tensor is read, and tensors are read one at a time.
"""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from olmo.models.dcp_files import CheckpointReader
from olmo.outside import OutsideError

SHARDED = "model_and_optim"
SAFETENSORS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_FILE = "model.pt"
WEIGHT_FILES = (SAFETENSORS, TORCH_FILE, INDEX)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types of weights that a script can be asked for, by name."""

Shape = tuple[int, ...]


class CheckpointError(OutsideError):
    """A checkpoint that cannot be read; the message names the file and the key."""


UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, EOFError, OSError),
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError),
)
"""What the readers raise for a damaged file, or one that holds something else."""


class WeightSource(Protocol):
    """Named tensors on disk. ``where`` is the file or folder that errors name."""

    where: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]

    def read(self, key: str) -> Tensor:
        """One tensor on the CPU, in the stored type. It may be a view of the file."""


def has_weights(folder: Path) -> bool:
    """Whether ``folder`` itself holds weights, in any form."""
    files = any((folder / name).is_file() for name in WEIGHT_FILES)
    return files or (folder / SHARDED / ".metadata").is_file()


def open_weights(folder: Path) -> WeightSource:
    """The weights of ``folder``. ``CheckpointError`` if there are none or they are damaged."""
    if (folder / SHARDED / ".metadata").is_file():
        return DcpSource(folder)
    if (folder / SAFETENSORS).is_file():
        return SafetensorsSource(folder / SAFETENSORS)
    if (folder / INDEX).is_file():
        return SafetensorsSource(folder / INDEX)
    if (folder / TORCH_FILE).is_file():
        return TorchSource(folder / TORCH_FILE)
    raise CheckpointError(f"{folder}: no {SHARDED}/, {SAFETENSORS}, {INDEX} or {TORCH_FILE}")


class SafetensorsSource:
    """One safetensors file, or the shards that an index names. All are opened here."""

    def __init__(self, where: Path):
        self.where = where
        self._file_of: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        if where.name.endswith(".json"):
            for name, keys in _shards(where).items():
                self._open(where.with_name(name), keys)
        else:
            self._open(where, None)

    def _open(self, path: Path, expected: list[str] | None) -> None:
        if not path.is_file():
            raise CheckpointError(f"{self.where}: shard {path.name} is missing")
        try:
            file = safe_open(str(path), "pt")
            keys = list(file.keys())
            slices = {key: file.get_slice(key) for key in keys}
            self.shapes |= {k: tuple(s.get_shape()) for k, s in slices.items()}
            self.dtypes |= {k: SAFETENSORS_DTYPES[s.get_dtype()] for k, s in slices.items()}
        except UNREADABLE as e:
            raise CheckpointError(f"{path}: not a readable weight file: {e}") from e
        lost = sorted(set(expected or ()) - set(keys))
        if lost:
            raise CheckpointError(f"{path}: lacks {lost[0]!r}, which {self.where.name} lists")
        self._file_of |= dict.fromkeys(keys, file)

    def read(self, key: str) -> Tensor:
        tensor: Tensor = self._file_of[key].get_tensor(key)
        return tensor


SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Weights are floating-point numbers; anything else in a file is an error."""


def _shards(index: Path) -> dict[str, list[str]]:
    """File name -> keys, of an index file. The names must be plain: an index is not trusted."""
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        shards: dict[str, list[str]] = {}
        for key, name in weight_map.items():
            if Path(name).name != name:
                raise CheckpointError(f"{index}: {key!r} is in {name!r}, not a file beside it")
            shards.setdefault(name, []).append(key)
    except CheckpointError:
        raise
    except UNREADABLE as e:
        raise CheckpointError(f"{index}: not a readable index: {e!r}") from e
    return shards


class TorchSource:
    """``model.pt``: a flat dict of tensors, read with ``weights_only``."""

    def __init__(self, where: Path):
        self.where = where
        try:
            self.tensors: dict[str, Tensor] = torch.load(where, weights_only=True, mmap=True)
            self.shapes = {k: tuple(v.shape) for k, v in self.tensors.items()}
            self.dtypes = {k: v.dtype for k, v in self.tensors.items()}
        except UNREADABLE as e:
            raise CheckpointError(f"{where}: not a readable weight file: {e}") from e

    def read(self, key: str) -> Tensor:
        return self.tensors[key]


class DcpSource:
    """A ``torch.distributed.checkpoint`` folder; keys there carry the prefix ``model.``."""

    def __init__(self, folder: Path):
        self.where = folder / SHARDED
        self.reader = CheckpointReader(self.where)
        try:
            entries = self.reader.read_metadata().state_dict_metadata
        except UNREADABLE as e:
            raise CheckpointError(f"{self.where / '.metadata'}: not readable: {e}") from e
        found = {
            key.removeprefix("model."): entry
            for key, entry in entries.items()
            if key.startswith("model.") and isinstance(entry, TensorStorageMetadata)
        }
        self.shapes = {key: tuple(entry.size) for key, entry in found.items()}
        self.dtypes = {key: entry.properties.dtype for key, entry in found.items()}
        self._check_files()

    def _check_files(self) -> None:
        """``CheckpointError`` if a file is missing or cut, also one of the optimizer alone."""
        sizes: dict[str, int] = {}
        for info in (self.reader.read_metadata().storage_data or {}).values():
            end = info.offset + info.length
            sizes[info.relative_path] = max(sizes.get(info.relative_path, 0), end)
        for name, size in sorted(sizes.items()):
            file = self.where / name
            if not file.is_file():
                raise CheckpointError(f"{file}: missing, but .metadata lists it")
            if file.stat().st_size < size:
                raise CheckpointError(
                    f"{file}: cut off: {file.stat().st_size} bytes, .metadata lists {size}"
                )

    def read(self, key: str) -> Tensor:
        out = torch.empty(self.shapes[key], dtype=self.dtypes[key])
        self.copy_into({key: out})
        return out

    def copy_into(self, params: dict[str, Tensor]) -> None:
        """Fill ``params`` in place; each rank reads what its shards need."""
        state = {f"model.{k}": v for k, v in params.items()}
        alone = not torch.distributed.is_initialized()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as intended
                dcp.load(state, storage_reader=self.reader, no_dist=alone)
        except CheckpointException as e:  # not an Exception: it would pass every handler
            cause = next(iter(e.failures.values()))[0]
            raise CheckpointError(f"{self.where}: not readable: {cause!r}") from e
