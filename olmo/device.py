"""Names of number types, the device to run on, and times on one that computes while the caller goes
on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

DTYPES = {
    **{"fp32": torch.float32, "float32": torch.float32},
    **{"bf16": torch.bfloat16, "bfloat16": torch.bfloat16},
    **{"fp16": torch.float16, "float16": torch.float16},
}


def choose_device(device: torch.device | str | None) -> torch.device:
    """``device``, by default the GPU if there is one. ``ValueError`` for one that is not there."""
    has_gpu = torch.cuda.is_available()
    try:
        chosen = torch.device(("cuda" if has_gpu else "cpu") if device is None else device)
    except (RuntimeError, TypeError) as e:
        raise ValueError(f"device {device!r} is none of torch's, such as cpu or cuda:1") from e
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported, only cpu and cuda")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: torch finds {torch.cuda.device_count()} CUDA devices")
    return chosen


@contextmanager
def timed(name: str, seconds: dict[str, float], device: torch.device) -> Iterator[None]:
    """Notes how long the block took, the work given to ``device`` included."""
    start = time.perf_counter()
    yield
    seconds[name] = device_seconds(device) - start


def device_seconds(device: torch.device | str) -> float:
    """A clock in seconds that first waits for the work given to ``device``."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
