"""Weights on disk, whatever form the file has, and what a tensor must be to become one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from olmo.models.errors import CheckpointError
from olmo.models.hf_layout.keys import HF_RULES, MARKERS, NATIVE_RULES, Rule, find_group
from olmo.outside import foreign

Shape = tuple[int, ...]
Stored = tuple[str, Shape, torch.dtype | str]
"""Name, shape and type; a type that torch may not have is its name."""

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Weights are floating-point numbers; a checkpoint with anything else is refused."""

NO_WEIGHT = re.compile(r"(.+\.)?(rotary_emb\.inv_freq|position_ids)")
"""Buffers that older files store beside the weights. They follow from the config."""


def weight_table(
    where: Path, tensors: Iterable[Stored]
) -> tuple[dict[str, Shape], dict[str, torch.dtype]]:
    """Shapes and types of the weights among ``tensors``. ``CheckpointError`` if one is not a
    weight, or is there twice."""
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, torch.dtype] = {}
    for name, shape, dtype in tensors:
        if NO_WEIGHT.fullmatch(name):
            continue
        if name in shapes:
            raise CheckpointError(f"{where}: {name!r} is there twice")
        if not isinstance(dtype, torch.dtype) or dtype not in WEIGHT_DTYPES:
            allowed = ", ".join(str(d).removeprefix("torch.") for d in WEIGHT_DTYPES)
            raise CheckpointError(f"{where}: {name!r} is {dtype}, weights are one of {allowed}")
        shapes[name], dtypes[name] = shape, dtype
    return shapes, dtypes


class WeightSource:
    """Named tensors on disk. ``where`` is the file or folder that errors name."""

    where: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of one tensor on the CPU, in the stored type. It may be a view of the file."""
        raise NotImplementedError

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Rules between the native names and those of this layout; a caller may set others."""
        return NATIVE_RULES if self.layout is None else HF_RULES[self.layout]

    @property
    def layout(self) -> str | None:
        """``transformers``, ``remote``, or None for anything else (the native layout)."""
        return next((layout for key, layout in MARKERS.items() if key in self.shapes), None)

    def stored(self, name: str) -> tuple[str, ...]:
        """Names of the stored tensors that hold the rows of the native ``name``."""
        group = find_group(name, self.rules)
        return (name,) if group is None else group.other


def torch_load(file: Any, named: str, mmap: bool = False) -> Any:
    """``torch.load`` of plain tensors on the CPU. ``CheckpointError`` begins with ``named``.

    torch's own advice for a refused file, to read it unsafely, is left out.
    """

    def damage(reason: str) -> CheckpointError:
        refused = re.search(
            r"(?:WeightsUnpickler error: |(?=Trying to load ))(.*?)(?=\. | Check the doc|$)", reason
        )
        short = refused[1] if refused else reason.partition("weights_only")[0][:300]
        return CheckpointError(f"{named}: not readable: {short}")

    with foreign(damage):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def check_plain(value: object, where: Path, name: str) -> Tensor:
    """``value`` if it is a tensor whose elements the file holds; else ``CheckpointError``: an
    object of another kind, a tensor without data, or a view that repeats its elements."""
    if type(value) not in (Tensor, nn.Parameter):
        raise CheckpointError(f"{where}: {name!r} is a {type(value).__name__}, not a tensor")
    assert isinstance(value, Tensor)
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        kind = f"{value.layout}, {value.device.type}, {value.dtype}"
        raise CheckpointError(f"{where}: {name!r} is not a plain tensor ({kind})")
    needed, held = value.numel() * value.itemsize, value.untyped_storage().nbytes()
    if needed > held:
        raise CheckpointError(
            f"{where}: {name!r} of shape {tuple(value.shape)} has {held} of {needed} bytes"
        )
    if _repeats(value):
        raise CheckpointError(f"{where}: {name!r} repeats elements of the file")
    return value.detach()


def _repeats(tensor: Tensor) -> bool:
    """Whether two places of ``tensor`` may be one of its storage: what stands between two rows,
    columns and so on has no room for the smaller ones."""
    room = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= room:
            return True
        room += stride * max(size - 1, 0)
    return False


def own_part(tensor: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """What this rank holds of a tensor that may be sharded, and where that lies in the whole."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(tensor, DTensor):
        return tensor.detach(), tuple(slice(0, n) for n in tensor.shape)
    sizes, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    part = tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))
    local: Tensor = tensor.to_local()
    return local.detach(), part


def check_finite(
    tensor: Tensor, where: Path, name: str, dtype: torch.dtype | None = None
) -> Tensor:
    """``tensor`` if none of its values is NaN or infinite; else ``CheckpointError``. It becomes
    ``dtype`` if that holds a smaller range, so that no value turns infinite where it is written.

    The sum is fastest, and only if it is not finite itself the extremes are looked at: a sum of
    many values may overflow.
    """
    if not tensor.is_floating_point():
        return tensor
    beyond = "NaN or infinite values"
    if dtype is not None and torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
        tensor, beyond = tensor.to(dtype), f"{beyond}, or values beyond {dtype}"
    if not math.isfinite(tensor.sum().item()):
        if not all(math.isfinite(x.item()) for x in tensor.aminmax()):
            raise CheckpointError(f"{where}: {name!r} holds {beyond}")
    return tensor
