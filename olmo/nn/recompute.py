"""Less memory in training: activations that the backward pass makes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *args: Any, draws: bool = False) -> Tensor:
    """``function(*args)``, keeping no activations of it; ``draws`` if it draws random numbers."""
    if not torch.is_grad_enabled():
        return function(*args)
    out: Tensor = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=draws)
    return out
