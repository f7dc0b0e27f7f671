"""Names of number types, and seconds on a device that works behind the caller's back."""

from __future__ import annotations

import time

import torch

DTYPES = {
    **{"fp32": torch.float32, "float32": torch.float32},
    **{"bf16": torch.bfloat16, "bfloat16": torch.bfloat16},
    **{"fp16": torch.float16, "float16": torch.float16},
}


def device_seconds(device: torch.device | str) -> float:
    """A clock in seconds that first waits for the work given to ``device``."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
