"""Names of number types, and times on a device that computes while the caller goes on."""

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
