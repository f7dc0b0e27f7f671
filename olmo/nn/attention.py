"""The one entry point for attention.

``attention``          batches of equal length [B, H, S, D]: boolean mask or a bias per key
``segment_attention``  a flat row of segments [K, H, D], each segment attends to itself

A bias per key needs no mask: one head dimension is added, 1 for every query and ``bias / scale``
for every key. A mask would rule out the fast kernels, and the bias stays differentiable.
``force_masked_bias`` lets a test run the plain, masked form instead.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from olmo.nn.token_layout import TokenLayout

SDPA_BACKENDS = {
    "math": [SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
}
"""Kernels that a ``sdpa_backend`` setting allows on a GPU; ``all`` leaves the choice to torch."""

_masked_bias = False


@contextlib.contextmanager
def force_masked_bias() -> Iterator[None]:
    """Add key biases through an additive mask: the slow, obvious form, for tests."""
    global _masked_bias
    _masked_bias, before = True, _masked_bias
    try:
        yield
    finally:
        _masked_bias = before


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    key_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    float32: bool = False,
    backend: str = "all",
) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q: ``[B, H, Sq, D]``; k, v: ``[B, Hkv, Sk, D]``, ``H`` a multiple of ``Hkv``.
        mask: bool, broadcastable to ``[B, H, Sq, Sk]``, True = may attend. A row without any
            True gives zeros.
        key_bias: ``[B, Sk]``, added to the logits of every query for that key.
        float32: compute in float32 and cast back (undone by autocast, as in the reference).

    Returns:
        ``[B, H, Sq, D]`` in the dtype of ``q``.
    """
    dtype = q.dtype
    if float32 and not torch.is_autocast_enabled(q.device.type):
        q, k, v = q.float(), k.float(), v.float()
    scale, head_dim = q.shape[-1] ** -0.5, q.shape[-1]
    if key_bias is not None:
        if mask is not None:
            raise ValueError("key_bias and mask together are not supported")
        if _masked_bias:
            mask = key_bias[:, None, None, :].to(q.dtype).expand(-1, 1, q.shape[2], -1)
        else:
            q, k, v = _append_bias(q, k, v, key_bias / scale)
    gqa = q.shape[1] != k.shape[1]
    if q.is_cuda and backend != "all":
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            out = F.scaled_dot_product_attention(
                q, k, v, mask, dropout_p, scale=scale, enable_gqa=gqa
            )
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale, enable_gqa=gqa)
    return out[..., :head_dim].to(dtype)


def _append_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two extra head dimensions that carry the bias (high and low part), padded to a multiple
    of 8. The split keeps the error of a half-precision bias at float32 level."""
    high = bias.to(k.dtype)
    low = (bias - high.to(bias.dtype)).to(k.dtype)
    extra_k = torch.stack((high, low), -1)[:, None].expand(-1, k.shape[1], -1, -1)
    extra_q = q.new_ones(*q.shape[:-1], 2)
    fill = -(q.shape[-1] + 2) % 8
    q = F.pad(torch.cat((q, extra_q), -1), (0, fill))
    k = F.pad(torch.cat((k, extra_k), -1), (0, fill))
    return q, k, F.pad(v, (0, fill + 2))


def segment_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, *, float32: bool = False
) -> Tensor:
    """Attention inside each segment of a flat row; q, k, v and the result are ``[K, H, D]``.

    Half precision on a GPU goes to a variable-length kernel in one call. Elsewhere segments of
    equal length that lie side by side form a plain batch, seen through a view. Nothing is padded
    or masked in either.
    """
    float32 = float32 and not torch.is_autocast_enabled(q.device.type)
    if q.is_cuda and not float32 and q.dtype in (torch.float16, torch.bfloat16):
        kernel = varlen_kernel(torch.cuda.get_device_capability(q.device))
        if kernel is not None:
            return kernel(q, k, v, layout.cu_seqlens, max(layout.lengths))
    out, start = [], 0
    for n_segments, length in layout.groups:
        stop = start + n_segments * length
        group = [
            t[start:stop].unflatten(0, (n_segments, length)).transpose(1, 2) for t in (q, k, v)
        ]
        out.append(attention(*group, float32=float32).transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(out) if out else torch.zeros_like(q)


VarlenKernel = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(q, k, v [K, H, D], cu_seqlens int32 [segments + 1], longest segment) -> [K, H, D]."""


@cache
def varlen_kernel(capability: tuple[int, int]) -> VarlenKernel | None:
    """flash-attn's kernel if installed, else torch's (2.10 or later); both from Ampere on.

    None if there is neither: then ``segment_attention`` calls the usual kernel once per length.
    """
    if capability < (8, 0):
        return None
    try:
        flash_attn = importlib.import_module("flash_attn")
    except ImportError:
        pass
    else:
        return lambda q, k, v, ends, longest: flash_attn.flash_attn_varlen_func(
            q, k, v, ends, ends, longest, longest
        )
    try:
        varlen = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:
        return None
    return lambda q, k, v, ends, longest: varlen.varlen_attn(q, k, v, ends, ends, longest, longest)
