"""The weights of a checkpoint folder, whatever form its files have.

Names and shapes are known before a tensor is read, and tensors are read one at a time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from olmo.models.dcp_files import CheckpointReader
from olmo.models.dcp_metadata import METADATA, is_plain_name
from olmo.models.errors import CheckpointError
from olmo.models.json_files import read_json
from olmo.models.lora import merged
from olmo.models.tensors import Stored, WeightSource, check_plain, torch_load, weight_table
from olmo.outside import foreign

__all__ = ["SHARDED", "CheckpointError", "WeightSource", "has_weights", "open_weights"]

SHARDED = "model_and_optim"
SAFETENSORS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_FILE = "model.pt"


class SafetensorsSource(WeightSource):
    """One safetensors file, or the shards that an index names. All are looked at here.

    A file is mapped anew after each ``REMAP`` bytes: the pages that were read of a file count as
    resident memory while it is open, which would be a second copy of the model.
    """

    def __init__(self, where: Path):
        self.where = where
        files: dict[Path, list[str] | None] = {where: None}
        if where.name.endswith(".json"):
            files = {where.with_name(name): keys for name, keys in _shards(where).items()}
        self._file_of: dict[str, Path] = {}
        self._mapped: tuple[Path, Any, int] | None = None
        """The file that is open, and the bytes that may still be read of it."""
        found: list[Stored] = []
        for path, expected in files.items():
            found += self._open(path, expected)
        self.shapes, self.dtypes = weight_table(where, found)

    def _open(self, path: Path, expected: list[str] | None) -> list[Stored]:
        if not path.is_file():
            raise CheckpointError(f"{self.where}: shard {path.name} is missing")
        with foreign(
            lambda reason: CheckpointError(f"{path}: not a readable weight file: {reason}")
        ):
            file = safe_open(str(path), "pt")
            slices = {key: file.get_slice(key) for key in list(file.keys())}
            found: list[Stored] = [
                (k, tuple(s.get_shape()), SAFETENSORS_DTYPES.get(s.get_dtype(), s.get_dtype()))
                for k, s in slices.items()
            ]
        if expected is not None and (differ := slices.keys() ^ set(expected)):
            key = min(differ)
            does = "holds" if key in slices else "lacks"
            lists = "does not list there" if key in slices else "lists"
            raise CheckpointError(f"{path}: {does} {key!r}, which {self.where.name} {lists}")
        self._file_of |= dict.fromkeys(slices, path)
        return found

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        path = self._file_of[key]
        with foreign(lambda reason: CheckpointError(f"{self.where}: {key!r}: {reason}")):
            if self._mapped is None or self._mapped[0] != path or self._mapped[2] <= 0:
                self._mapped = None  # before the next one: two would be there for a moment
                self._mapped = (path, safe_open(str(path), "pt"), REMAP)
            _, file, left = self._mapped
            tensor: Tensor = file.get_tensor(key)
        self._mapped = (path, file, left - tensor.nbytes)
        return tensor[start:stop]


REMAP = 64 << 20


SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def _shards(index: Path) -> dict[str, list[str]]:
    """File name -> keys, of an index file. The names must be plain: an index is not trusted."""
    weight_map = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: not a readable index: no weight_map from keys to files")
    shards: dict[str, list[str]] = {}
    for key, name in weight_map.items():
        if not isinstance(name, str) or not is_plain_name(name):
            raise CheckpointError(f"{index}: {key!r} is in {name!r}, not a file beside it")
        shards.setdefault(name, []).append(key)
    return shards


class TorchSource(WeightSource):
    """``model.pt``: a flat dict of tensors, read with ``weights_only``."""

    def __init__(self, where: Path):
        self.where = where
        named = f"{where}: not a readable weight file (a zip, as torch.save writes it)"
        with (
            foreign(lambda reason: CheckpointError(f"{named}: {reason}")),
            zipfile.ZipFile(where) as file,
        ):  # its parts are mapped as they are
            if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
                raise ValueError("a compressed archive, which torch.save does not write")
        loaded = torch_load(where, f"{where}", mmap=True)
        if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
            raise CheckpointError(f"{where}: not a flat dict from names to tensors")
        self.tensors = {key: check_plain(value, where, key) for key, value in loaded.items()}
        self.shapes, self.dtypes = weight_table(
            where, [(k, tuple(v.shape), v.dtype) for k, v in self.tensors.items()]
        )

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.tensors[key][start:stop]


class DcpSource(WeightSource):
    """A ``torch.distributed.checkpoint`` folder; keys there carry the prefix ``model.``."""

    def __init__(self, folder: Path):
        self.where = folder / SHARDED
        self.reader = CheckpointReader(self.where)
        found = {k: e for k, e in self.reader.entries.items() if k.startswith("model.")}
        self.shapes, self.dtypes = weight_table(
            self.where,
            [
                (k.removeprefix("model."), e.shape, e.dtype or "a pickled object")
                for k, e in found.items()
            ],
        )

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.reader.read(f"model.{key}", (slice(start, stop),))


FORMS: dict[str, Callable[[Path], WeightSource]] = {
    f"{SHARDED}/{METADATA}": lambda file: DcpSource(file.parents[1]),
    SAFETENSORS: SafetensorsSource,
    INDEX: SafetensorsSource,
    TORCH_FILE: TorchSource,
}
"""The file that tells the form of a folder's weights, the first that is there."""


def has_weights(folder: Path) -> bool:
    """Whether ``folder`` itself holds weights, in any form."""
    return any((folder / name).is_file() for name in FORMS)


def open_weights(folder: Path) -> WeightSource:
    """The weights of ``folder``, adapters merged. ``CheckpointError`` if there are none or they are
    damaged."""
    for name, source in FORMS.items():
        if (folder / name).is_file():
            return merged(source(folder / name), folder / "config.yaml")
    raise CheckpointError(f"{folder}: no {SHARDED}/, {SAFETENSORS}, {INDEX} or {TORCH_FILE}")
