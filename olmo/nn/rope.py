"""Rotary position embedding, half-split layout, plain or with YaRN scaling (arXiv 2309.00071)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class YarnScaling:
    """YaRN parameters; ``attention_factor=None`` means ``0.1 * ln(factor) + 1``."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


def rope_tables(
    position_ids: Tensor, head_dim: int, theta: float, yarn: YarnScaling | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 ``[B, S, 1, head_dim]``, for int64 ``position_ids`` [B, S] (padding
    may be negative). The first half of sin is negated: see ``fused.rotated``."""
    inv_freq, scale = _inverse_frequencies(head_dim, theta, yarn, position_ids.device)
    angles = (position_ids[..., None].float() * inv_freq)[:, :, None]
    cos, sin = angles.cos() * scale, angles.sin() * scale
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


@cache
@torch.inference_mode(False)
def _inverse_frequencies(
    head_dim: int, theta: float, yarn: YarnScaling | None, device: torch.device
) -> tuple[Tensor, float]:
    """Of the first half of the head, on ``device``, and the factor of both tables."""
    index = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    base = 1.0 / theta ** (2 * index / head_dim)
    if yarn is None:
        return base.to(device), 1.0

    def correction(rotations: float) -> float:
        length = yarn.original_max_position_embeddings
        return head_dim * math.log(length / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low = max(math.floor(correction(yarn.beta_fast)), 0)
    high: float = min(math.ceil(correction(yarn.beta_slow)), head_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((index - low) / (high - low)).clamp(0, 1)
    scale = yarn.attention_factor
    if scale is None:
        scale = 0.1 * math.log(yarn.factor) + 1
    return (base / yarn.factor * ramp + base * (1 - ramp)).to(device), scale
