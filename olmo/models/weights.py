"""The weights of a checkpoint folder, whatever file form and layout they have.

Shapes are known before anything is read, tensors are read one at a time, and a model is written
to only after every name and shape has been checked.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from olmo.models.dcp_files import CheckpointReader
from olmo.models.hf_layout.keys import EMBEDDING, HEAD, Group, Rule, find_group, rules_of

SHARDED = "model_and_optim"
SAFETENSORS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_FILE = "model.pt"
WEIGHT_FILES = (SAFETENSORS, TORCH_FILE, INDEX)

Shape = tuple[int, ...]


class CheckpointError(ValueError):
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

    def read(self, key: str) -> Tensor:
        out = torch.empty(self.shapes[key], dtype=self.dtypes[key])
        self.copy_into({key: out})
        return out

    def copy_into(self, params: dict[str, Tensor]) -> None:
        """Fill ``params`` in place; each rank reads what its shards need."""
        state = {f"model.{k}": v for k, v in params.items()}
        alone = not torch.distributed.is_initialized()
        try:
            dcp.load(state, storage_reader=self.reader, no_dist=alone)
        except CheckpointException as e:  # not an Exception: it would pass every handler
            cause = next(iter(e.failures.values()))[0]
            raise CheckpointError(f"{self.where}: not readable: {cause!r}") from e


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a stored tensor."""

    key: str
    start: int
    stop: int


def cut_rows(wanted: Sequence[int], given: dict[str, int]) -> list[list[Piece]]:
    """Which rows of the ``given`` tensors (name -> rows), one under the other, make up each of
    the ``wanted`` numbers of rows. Both must have the same sum."""
    pieces, start = [], 0
    for rows in wanted:
        stop, first, mine = start + rows, 0, []
        for key, size in given.items():
            a, b = max(start, first), min(stop, first + size)
            if a < b:
                mine.append(Piece(key, a - first, b - first))
            first += size
        pieces.append(mine)
        start = stop
    return pieces


def has_tied_head(source: WeightSource) -> bool:
    """Whether the output head of a folder in a Hugging Face layout is its embedding table.

    Such folders store the head even then, so the two tensors are compared.
    """
    if HEAD not in source.shapes:
        return True
    group = find_group(EMBEDDING, rules_of(source.shapes.keys()))
    assert group is not None
    given = {key: source.shapes[key][0] for key in group.other if key in source.shapes}
    head, start = source.read(HEAD), 0
    for piece in cut_rows([len(head)], given)[0]:
        rows = source.read(piece.key)[piece.start : piece.stop]
        if not torch.equal(head[start : start + len(rows)], rows):
            return False
        start += len(rows)
    return start == len(head)


def missing_keys(names: Sequence[str], source: WeightSource, rules: Sequence[Rule]) -> list[str]:
    """Those native ``names`` that ``source`` does not hold."""
    groups = ((name, find_group(name, rules)) for name in names)
    return [n for n, g in groups if g is None or any(k not in source.shapes for k in g.other)]


def plan_reading(
    params: dict[str, Tensor], source: WeightSource, rules: Sequence[Rule]
) -> dict[str, list[Piece]]:
    """Where each parameter's rows lie in ``source``; every shape is checked.

    ``CheckpointError`` for a missing name or a shape that does not fit.
    """
    lost = missing_keys(list(params), source, rules)
    if lost:
        group = find_group(lost[0], rules)
        names = (lost[0],) if group is None else group.other
        first = next(n for n in names if n not in source.shapes)
        raise CheckpointError(f"{source.where}: {len(lost)} missing keys, first {first!r}")
    plan: dict[str, list[Piece]] = {}
    for name, param in params.items():
        group = find_group(name, rules)
        assert group is not None
        together = [n for n in group.native if n in params]
        if together != list(group.native):
            raise CheckpointError(f"{source.where}: {name!r} is only read with {group.native}")
        wanted = [params[n].shape[0] for n in group.native]
        _check_shapes(param, wanted, group, source)
        rows = {k: source.shapes[k][0] for k in group.other}
        plan[name] = cut_rows(wanted, rows)[group.native.index(name)]
    return plan


def _check_shapes(param: Tensor, wanted: Sequence[int], group: Group, source: WeightSource) -> None:
    """``wanted``: rows of the native tensors of ``group``, one of which is ``param``."""
    rest, total = tuple(param.shape[1:]), 0
    one = len(group.other) == len(wanted) == 1
    for key in group.other:
        stored = source.shapes[key]
        if group.rule.is_convolution and len(stored) == 4:
            stored = (stored[0], math.prod(stored[1:]))
        if len(stored) != 1 + len(rest) or stored[1:] != rest or (one and stored[0] != wanted[0]):
            expected = (wanted[0], *rest) if one else ("any", *rest)
            raise CheckpointError(
                f"{source.where}: {key!r} has shape {source.shapes[key]}, "
                f"the model expects {expected}"
            )
        total += stored[0]
    if total != sum(wanted):
        raise CheckpointError(
            f"{source.where}: {' + '.join(map(repr, group.other))} have {total} rows in all, the "
            f"model expects {sum(wanted)}"
        )


@torch.no_grad()
def copy_weights(params: dict[str, Tensor], source: WeightSource, rules: Sequence[Rule]) -> None:
    """Fill ``params`` (native names) in place; nothing is written if a name or shape is wrong."""
    plan = plan_reading(params, source, rules)
    if isinstance(source, DcpSource):
        source.copy_into(params)
        return
    for name, pieces in plan.items():
        group = find_group(name, rules)
        assert group is not None
        parts = [source.read(p.key) for p in pieces]
        if group.rule.is_convolution:
            parts = [p.permute(0, 2, 3, 1).flatten(1) for p in parts]
        assign(params[name], [t[p.start : p.stop] for t, p in zip(parts, pieces, strict=True)])


def assign(param: Tensor, parts: list[Tensor]) -> None:
    """Write ``parts``, one under the other, into a plain or a sharded parameter."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(param, DTensor):
        value = torch.cat(parts).to(param.device, param.dtype)
        param.copy_(distribute_tensor(value, param.device_mesh, param.placements))
        return
    start = 0
    for part in parts:
        param[start : start + len(part)].copy_(part)
        start += len(part)
