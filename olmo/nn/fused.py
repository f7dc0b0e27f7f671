"""Small steps between the matrix products, each in one or two kernels on a GPU.

Run one by one, norms, rotations and gates read and write every token some twenty times per block,
and take as long as a third of its products. ``torch.compile`` makes a kernel of each of them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` of tensors, compiled for tensors on a GPU: for all sizes, but for the last of
    three and more, which is a width of the model.

    In half precision results differ by rounding: what lies between is not rounded there.
    ``TORCH_COMPILE_DISABLE=1`` runs the steps one by one; so does a machine that cannot compile,
    which is logged.
    """
    compiled: Callable[P, R] | None = None

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        place = next(x.device for x in args if isinstance(x, Tensor))
        if place.type != "cuda" or torch.compiler.is_compiling() or not can_compile(place):
            return function(*args, **kwargs)
        if compiled is None:
            compiled = torch.compile(function, dynamic=True)
        for x in args:
            if isinstance(x, Tensor) and x.dim() > 2:  # a known width is read twice as fast
                torch._dynamo.mark_static(x, x.dim() - 1)
        return compiled(*args, **kwargs)

    return run


VARIANTS = 32
"""Of a function: one for each width, number type and kind of gradient, and for sizes of one. Torch
would run the ninth one step by step."""


@functools.cache
def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` works on a GPU: it needs Triton and a C compiler."""
    if not torch.cuda.is_available():
        return False
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
    try:
        with torch.inference_mode():
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as e:  # of torch, of Triton, of the C compiler, of a folder that is full
        reason = str(e).strip().splitlines() or [type(e).__name__]
        log.warning("slower: torch.compile does not work here (%s)", reason[0])
        return False
    return True


@fused
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension in float32, cast back, then scaled by ``weight`` [D]."""
    return _normed(x, eps) * weight


@fused
def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + y`` and its ``rms_norm``."""
    x = x + y
    return x, _normed(x, eps) * weight


def _normed(x: Tensor, eps: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # or x would become float32 and stay it
        return F.rms_norm(x, x.shape[-1:], None, eps)


@fused
def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [B, S, H, D] in float32 and cast back, ``(a, b)`` to
    ``(a cos - b sin, b cos + a sin)``; tables as ``rope_tables`` gives them."""
    return _rotated(x, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


@fused
def rotated_norm(
    qk: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    n_heads: tuple[int, int],
    eps: float,
    cos: Tensor,
    sin: Tensor,
) -> Tensor:
    """``rotated`` of the RMS norm of every head: queries [.., H, D] scaled by ``q_weight`` [D] and
    keys [.., KV, D] by ``k_weight``, side by side in ``qk`` [B, S, H + KV, D]."""
    pairs = zip((q_weight, k_weight), n_heads, strict=True)
    weight = torch.cat([w.expand(n, -1) for w, n in pairs])
    return _rotated(_normed(qk, eps) * weight, cos, sin)


@fused
def gated(x: Tensor) -> Tensor:
    """SwiGLU of [.., 2 F], values and then gates: ``values * silu(gates)``."""
    values, gates = x.chunk(2, -1)
    return values * F.silu(gates)


@fused
def add_layer_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``x + y`` and its layer norm over the last dimension, of one type all of them."""
    x = x + y
    with torch.autocast(x.device.type, enabled=False):
        return x, F.layer_norm(x, x.shape[-1:], weight, bias, eps)


@fused
def window_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of one query to a few keys, in float32: for an attention kernel, which makes tiles
    of 64 queries, windows of nine patches are almost empty.

    q ``[R, H, 1, D]``; k, v ``[R, H, S, D]``; mask bool ``[R, 1, 1, S]``, a row without any True
    gives zeros. Gives ``[R, H, 1, D]`` in the dtype of ``q``.
    """
    scale, allowed = q.shape[-1] ** -0.5, mask[:, :, 0]
    logits = (q.float() * k.float()).sum(-1) * scale
    weights = logits.masked_fill(~allowed, -1e30).softmax(-1) * allowed
    return (weights[..., None] * v.float()).sum(2, keepdim=True).to(q.dtype)


@fused
def merged_pieces(out: Tensor, lse: Tensor, empty: Tensor) -> Tensor:
    """Attention over all keys [B, KV, G, D], from that over pieces of them: ``out`` [B, KV, pieces,
    G, D] and its log-sum-exp [B, KV, pieces, G]; what ``empty`` pieces hold does not count."""
    lse = lse.masked_fill(empty, -torch.inf)
    shares = (lse - lse.amax(2, keepdim=True)).exp()
    return ((out * shares[..., None]).sum(2) / shares.sum(2)[..., None]).to(out.dtype)


@fused
def merge_part(out: Tensor, lse: Tensor, new: Tensor, new_lse: Tensor, places: Tensor) -> None:
    """Take more keys into an attention, in place: into ``out`` [T, H, D] with its log-sum-exp
    [H, T] the result over those keys, ``new`` [n, H, D] with its own. ``places`` int64 [T]: which
    of the n each token is, -1 for one that has no more keys."""
    at, some = places.clamp(min=0), places >= 0
    there = new_lse[:, at]
    share = (torch.sigmoid(there - lse) * some).T[..., None]
    out.addcmul_(new[at] - out, share)
    lse.copy_(torch.where(some, torch.logaddexp(lse, there), lse))


@fused
def store(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, rows: Tensor, places: Tensor) -> None:
    """Write ``k`` and ``v`` [B, KV, D] into buffers [B, KV, capacity, D], at ``places`` int64 [B]
    of ``rows`` 0 to B - 1."""
    keys[rows, :, places] = k.to(keys.dtype)
    values[rows, :, places] = v.to(values.dtype)
