"""Write the weights of a native checkpoint under other names, one file at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from olmo.files import write_json
from olmo.models.hf_layout.keys import EMBEDDING, HEAD, HF_RULES, find_group
from olmo.models.weight_files import INDEX, SAFETENSORS
from olmo.models.weights import NativeWeights, Piece, cut_rows
from olmo.nn.llm import LlmConfig

MAX_FILE_BYTES = 5 * 10**9


@dataclass(frozen=True)
class OutTensor:
    """A tensor to write: its name and shape, and the native rows it is made of."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def plan_writing(params: dict[str, Tensor], llm: LlmConfig, layout: str) -> list[OutTensor]:
    """The tensors of ``layout`` that hold the native ``params``, in the order of ``params``.

    The head of a tied model is written as a copy of its embedding table: the classes of both
    layouts have a head of their own.
    """
    out: dict[str, OutTensor] = {}
    for key in params:
        group = find_group(key, HF_RULES[layout])
        assert group is not None, key
        native = {k: params[k].shape[0] for k in group.native}
        rows = group.other_rows(list(native.values()), llm)
        rest = tuple(params[key].shape[1:])
        for name, n, pieces in zip(group.other, rows, cut_rows(rows, native), strict=True):
            out[name] = OutTensor(name, (n, *rest), tuple(pieces))
    if llm.weight_tying:
        shape = tuple(params[EMBEDDING].shape)
        out[HEAD] = OutTensor(HEAD, shape, (Piece(EMBEDDING, 0, shape[0]),))
    return list(out.values())


def split_into_files(
    tensors: Sequence[OutTensor], bytes_of: Callable[[OutTensor], int], max_bytes: int
) -> list[list[OutTensor]]:
    """In order, files of at most ``max_bytes``; a larger tensor has a file of its own."""
    files: list[list[OutTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if files[-1] and size + bytes_of(tensor) > max_bytes:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += bytes_of(tensor)
    return files


def write_weights(
    weights: NativeWeights,
    tensors: Sequence[OutTensor],
    folder: Path,
    dtype: torch.dtype | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> None:
    """``model.safetensors``, or numbered files with an index. One file is in memory at a time.

    ``dtype`` None keeps the stored types.
    """

    def bytes_of(tensor: OutTensor) -> int:
        stored = weights.dtype(tensor.pieces[0].key)
        return tensor.numel * (dtype or stored).itemsize

    files = split_into_files(tensors, bytes_of, max_bytes)
    names = [
        SAFETENSORS if len(files) == 1 else f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        for i in range(len(files))
    ]
    reader = _Reader(weights, dtype)
    for name, members in zip(names, files, strict=True):
        data = {tensor.name: reader.read(tensor) for tensor in members}
        save_file(data, str(folder / name), {"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors lets only the owner read
    if len(files) > 1:
        weight_map = {
            t.name: name for name, members in zip(names, files, strict=True) for t in members
        }
        total = sum(map(bytes_of, tensors))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / INDEX, index, sort_keys=True)


class _Reader:
    """Puts output tensors together. The last native tensor is kept: the next output is often
    another part of it."""

    def __init__(self, weights: NativeWeights, dtype: torch.dtype | None):
        self.weights, self.dtype = weights, dtype
        self.key, self.tensor = "", torch.empty(0)

    def read(self, tensor: OutTensor) -> Tensor:
        out = torch.cat([self._native(p.key)[p.start : p.stop] for p in tensor.pieces])
        return out.to(self.dtype or out.dtype)

    def _native(self, key: str) -> Tensor:
        if key != self.key:
            self.key, self.tensor = key, torch.cat(list(self.weights.parts(key, self.dtype)))
        return self.tensor
