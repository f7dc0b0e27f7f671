"""Small tensors between host and device: one copy for many, and one wait where there must be one.

On the CPU both functions return what they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def built_on(device: torch.device | str | None) -> AbstractContextManager[object]:
    """Modules that are built meanwhile have their parameters there; None: torch's default."""
    return nullcontext() if device is None else torch.device(device)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Bool and integer tensors on the host; for those of a device, the host waits."""
    away = [t for t in tensors if t.device.type != "cpu"]
    if not away:
        return list(tensors)
    flat = torch.cat([t.flatten().to(torch.int64) for t in away]).cpu()
    back = iter(_shaped(flat, away))
    return [t if t.device.type == "cpu" else next(back) for t in tensors]


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Bool and integer tensors of the host on ``device``; nobody waits for the copy."""
    if device.type == "cpu":
        return list(tensors)
    flat = torch.cat([t.flatten().to(torch.int64) for t in tensors])
    return _shaped(upload(flat, device), tensors)


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host, of any type, on ``device``; nobody waits for the copy."""
    if device.type == "cuda":
        x = x.pin_memory()  # from pageable memory the host would wait
    return x.to(device, non_blocking=True)


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([t.numel() for t in like])
    return [x.view(t.shape).to(t.dtype) for x, t in zip(parts, like, strict=True)]
