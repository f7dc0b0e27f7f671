"""Rotary position embedding, half-split layout, plain or with YaRN scaling (arXiv 2309.00071)."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """cos and sin, float32 ``[B, S, head_dim]``, for int64 ``position_ids`` [B, S] (padding
    may be negative)."""
    inv_freq, scale = _inverse_frequencies(head_dim, theta, yarn)
    angles = position_ids[..., None].float() * inv_freq.to(position_ids.device)
    angles = torch.cat((angles, angles), -1)
    return angles.cos() * scale, angles.sin() * scale


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [B, H, S, D] in float32 and cast back."""
    y = x.float()
    first, second = y.chunk(2, -1)
    rotated = torch.cat((-second, first), -1)
    return (y * cos[:, None] + rotated * sin[:, None]).to(x.dtype)


def _inverse_frequencies(
    head_dim: int, theta: float, yarn: YarnScaling | None
) -> tuple[Tensor, float]:
    index = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    base = 1.0 / theta ** (2 * index / head_dim)
    if yarn is None:
        return base, 1.0

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
    return base / yarn.factor * ramp + base * (1 - ramp), scale
