"""The one entry point for attention.

``attention``          batches of equal length [B, H, S, D]: boolean mask or a bias per key
``segment_attention``  a flat row of segments [K, H, D], each attends to itself or to its frame

A bias per key needs no mask: one head dimension is added, 1 for every query and ``bias / scale``
for every key. A mask would rule out the fast kernels, and the bias stays differentiable.
``force_masked_bias`` lets a test run the plain, masked form instead.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

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
    mask: Tensor | BlockMask | None = None,
    key_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    float32: bool = False,
    backend: str = "all",
) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q: ``[B, H, Sq, D]``; k, v: ``[B, Hkv, Sk, D]``, ``H`` a multiple of ``Hkv``.
        mask: bool, broadcastable to ``[B, H, Sq, Sk]``, True = may attend. A row without any
            True gives zeros. A ``BlockMask`` goes to flex attention: a GPU, or no gradients.
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
            q, k, v = _append_bias(q, k, v, key_bias[:, None] / scale)
    gqa = bool(q.shape[1] != k.shape[1])  # a symbol where sizes are traced
    if isinstance(mask, BlockMask):
        return flex_kernel(q.is_cuda)(q, k, v, block_mask=mask, scale=scale, enable_gqa=gqa).to(
            dtype
        )
    if gqa and mask is not None and q.is_cuda:  # the kernels that take a mask share no heads
        repeat = q.shape[1] // k.shape[1]
        k, v, gqa = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1), False
    if q.is_cuda and backend != "all":
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            out = F.scaled_dot_product_attention(
                q, k, v, mask, dropout_p, scale=scale, enable_gqa=gqa
            )
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale, enable_gqa=gqa)
    return out[..., :head_dim].to(dtype)


@cache
def flex_kernel(compiled: bool) -> Callable[..., Tensor]:
    """Flex attention; only when ``compiled`` it skips the empty blocks and keeps no scores."""
    return cast(
        Callable[..., Tensor], torch.compile(flex_attention) if compiled else flex_attention
    )


def _append_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two extra head dimensions that carry the bias (high and low part), padded to a multiple
    of 8. The split keeps the error of a half-precision bias at float32 level.

    ``bias`` broadcasts to ``k`` without its last dimension.
    """
    high = bias.to(k.dtype)
    low = (bias - high.to(bias.dtype)).to(k.dtype)
    extra_k = torch.stack((high, low), -1).expand(*k.shape[:-1], 2)
    extra_q = q.new_ones(*q.shape[:-1], 2)
    fill = -(q.shape[-1] + 2) % 8
    q = F.pad(torch.cat((q, extra_q), -1), (0, fill))
    k = F.pad(torch.cat((k, extra_k), -1), (0, fill))
    return q, k, F.pad(v, (0, fill + 2))


@torch.compiler.disable
def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: TokenLayout,
    *,
    key_bias: Tensor | None = None,
    float32: bool = False,
    project: Callable[[Tensor], Tensor],
) -> Tensor:
    """Attention of a flat row of segments, q ``[K, H, D]``; gives ``project(out [K, H * D])``.

    With k and v ``[K, H, D]`` each segment attends to itself; with ``[F, N, H, D]`` it attends to
    all patches of its frame, ``key_bias`` [F, N] added to the logits. Half precision on a GPU
    goes to a variable-length kernel in one call. Elsewhere segments of equal length that lie side
    by side form a plain batch. Nothing is padded or masked in either. Batches are projected one
    by one: joined first, both they and the joined row would be kept for the backward pass. Not
    compiled: the segments differ from batch to batch, and a compiled block would be compiled anew
    for each.
    """
    float32 = float32 and not torch.is_autocast_enabled(q.device.type)
    if q.is_cuda and not float32 and q.dtype in (torch.float16, torch.bfloat16):
        kernel = varlen_kernel(torch.cuda.get_device_capability(q.device))
        if kernel is not None:
            return project(_varlen_attention(kernel, q, k, v, layout, key_bias).flatten(1))
    groups = layout.groups
    sizes = [len(frames) * length for frames, length in groups]
    if k.dim() == 4:
        k, v = k[list(layout.frames)], v[list(layout.frames)]
        key_sizes = [len(frames) for frames, _ in groups]
    else:
        key_sizes = sizes
    if key_bias is not None:
        key_bias = key_bias[list(layout.frames)]
    biases = [None] * len(groups) if key_bias is None else key_bias.split(key_sizes)
    # split, not slices: the gradient of a slice is as large as the whole
    parts = zip(groups, q.split(sizes), k.split(key_sizes), v.split(key_sizes), biases, strict=True)
    out = []
    for (frames, _), q_part, k_part, v_part, bias in parts:
        batch = (len(frames), -1, *q.shape[1:])
        heads = (x.reshape(batch).transpose(1, 2) for x in (q_part, k_part, v_part))
        y = attention(*heads, key_bias=bias, float32=float32)
        out.append(project(y.transpose(1, 2).flatten(2)).flatten(0, 1))
    return torch.cat(out) if out else project(q.flatten(1))


def _varlen_attention(
    kernel: VarlenKernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: TokenLayout,
    key_bias: Tensor | None,
) -> Tensor:
    scale, head_dim = q.shape[-1] ** -0.5, q.shape[-1]
    ends, longest = layout.cu_seqlens, max(layout.lengths)
    if key_bias is not None:
        q, k, v = _append_bias(q, k, v, key_bias[..., None] / scale)
    q, k, v = (F.pad(x, (0, -x.shape[-1] % 8)) for x in (q, k, v))
    if k.dim() == 3:
        out = kernel(q, k, v, ends, ends, longest, longest, scale)
    else:
        n_patches = k.shape[1]
        key_ends = torch.arange(len(ends), device=q.device, dtype=torch.int32) * n_patches
        frames = list(layout.frames)
        k, v = k[frames].flatten(0, 1), v[frames].flatten(0, 1)
        out = kernel(q, k, v, ends, key_ends, longest, n_patches, scale)
    return out[..., :head_dim]


class VarlenKernel(Protocol):
    """Attention inside segments: q [Kq, H, D], k and v [Kk, H, D] -> [Kq, H, D].

    D is a multiple of 8. ``ends_q`` and ``ends_k`` int32 [segments + 1] say where segments start
    and end, ``longest_*`` how long the longest may be.
    """

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ends_q: Tensor,
        ends_k: Tensor,
        longest_q: int,
        longest_k: int,
        scale: float,
        /,
    ) -> Tensor: ...


@cache
def varlen_kernel(capability: tuple[int, int]) -> VarlenKernel | None:
    """flash-attn's kernel if installed, else torch's if it takes a scale; both from Ampere on.

    None if there is neither: then ``segment_attention`` calls the usual kernel once per length.
    """
    if capability < (8, 0):
        return None
    for module, name in (
        ("flash_attn", "flash_attn_varlen_func"),
        ("torch.nn.attention.varlen", "varlen_attn"),
    ):
        with contextlib.suppress(ImportError, AttributeError):
            function, scale = getattr(importlib.import_module(module), name), SCALE[name]
            if scale in inspect.signature(function).parameters:
                return lambda *args, f=function, scale=scale: f(*args[:-1], **{scale: args[-1]})
    return None


SCALE = {"flash_attn_varlen_func": "softmax_scale", "varlen_attn": "scale"}
"""What each kernel calls the factor of the logits."""
