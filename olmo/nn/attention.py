"""The one entry point for attention, and the one table of kernels (``KERNELS``).

``attention``          batches of equal length [B, H, S, D]: boolean mask or a bias per key
``segment_attention``  a flat row of segments [K, H, D], each attends to itself or to its frame
``parts_attention``    a flat row whose mask is a union of parts: see ``attention_parts``
``token_attention``    one query per row over the filled part of a cache

A bias per key needs no mask: one head dimension is added, 1 for every query and ``bias / scale``
for every key. A mask would rule out the fast kernels, and the bias stays differentiable.
``force_masks`` lets a test run the plain, masked form instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from olmo.nn.attention_parts import (
    AttentionPart,
    Segments,
    has_flash,
    parts_attention,
    product_dtype,
)
from olmo.nn.fused import merged_pieces

if TYPE_CHECKING:
    from olmo.nn.token_layout import TokenLayout

SDPA_BACKENDS = {
    "all": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
}
"""Kernels that a ``sdpa_backend`` setting allows on a GPU. ``all`` leaves cuDNN out: it builds a
plan for every new shape, and the shapes of videos are always new."""

LARGEST_LAUNCH = 65_535
"""Rows of a batch that a kernel takes in one launch on a GPU: the limit of a grid's z."""

KERNELS = {
    "whole frames": ("flash", "efficient", "torch's"),
    "pooling windows (masked)": ("compiled", "compiled", "torch's"),
    "surviving patches": ("flash, variable length", "efficient, by length", "torch's, by length"),
    "LLM prompt and training": (
        "flash or (Hopper, long rows) cuDNN, parts",
        "efficient, masked",
        "torch's, masked or parts",
    ),
    "LLM decoding": ("flash, split keys", "efficient, masked", "torch's"),
}
"""Case -> kernel in half precision on a GPU from Ampere on, on any other GPU, on the CPU."""

_masks = False


def masks_forced() -> bool:
    """Whether this runs under ``force_masks``."""
    return _masks


def kernel_table(device: torch.device, dtype: torch.dtype) -> list[tuple[str, str]]:
    """Which kernel each kind of attention runs, for products in ``dtype``."""
    column = 2 if device.type == "cpu" else 0 if has_flash(device, dtype) else 1
    return [(case, names[column]) for case, names in KERNELS.items()]


@contextlib.contextmanager
def force_masks() -> Iterator[None]:
    """Give every kernel a mask, for key biases and whole rows: the slow form, for tests."""
    global _masks
    _masks, before = True, _masks
    try:
        yield
    finally:
        _masks = before


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
        float32: compute in float32 and cast back. Autocast undoes it, as in the reference, and
            where FlashAttention runs it means nothing: that sums in float32 by itself.

    Returns:
        ``[B, H, Sq, D]`` in the dtype of ``q``.
    """
    dtype = q.dtype
    if float32 and not (torch.is_autocast_enabled(q.device.type) or has_flash(q.device, q.dtype)):
        q, k, v = q.float(), k.float(), v.float()
    scale, head_dim = q.shape[-1] ** -0.5, q.shape[-1]
    if key_bias is not None:
        if mask is not None:
            raise ValueError("key_bias and mask together are not supported")
        if _masks:
            mask = key_bias[:, None, None, :].to(q.dtype).expand(-1, 1, q.shape[2], -1)
        else:
            q, k, v = _append_bias(q, k, v, key_bias[:, None] / scale)
    gqa = bool(q.shape[1] != k.shape[1])  # a symbol where sizes are traced
    if gqa and mask is not None and q.is_cuda:  # the kernels that take a mask share no heads
        repeat = q.shape[1] // k.shape[1]
        k, v, gqa = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1), False

    given = [q, k, v] if mask is None else [q, k, v, mask]

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale, enable_gqa=gqa)

    if not q.is_cuda:
        return run(*given)[..., :head_dim].to(dtype)
    with sdpa_kernel(SDPA_BACKENDS[backend]):
        if len(q) <= LARGEST_LAUNCH:  # a loop alone would tie compiled code to len(q)
            out = run(*given)
        else:
            # split, not slices: the gradient of a slice is as large as the whole
            pieces = [x.expand(len(q), *x.shape[1:]).split(LARGEST_LAUNCH) for x in given]
            out = torch.cat([run(*piece) for piece in zip(*pieces, strict=True)])
    return out[..., :head_dim].to(dtype)


def _append_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values whose products have ``bias`` in them; it broadcasts to ``k`` without
    its last dimension.

    A kernel without masks can do nothing but multiply queries with keys. So the bias becomes a
    part of each key, which meets a 1 in each query: two more head dimensions, since the high and
    the low half of the bias together keep float32's accuracy in half precision. Zeros fill the
    head up to a multiple of 8, which the kernels ask for.
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
    dropout_p: float = 0.0,
    float32: bool = False,
    project: Callable[[Tensor], Tensor],
) -> Tensor:
    """Attention of a flat row of segments, q ``[K, H, D]``; gives ``project(out [K, H * D])``.

    With k and v ``[K, H, D]`` each segment attends to itself; with ``[F, N, H, D]`` it attends to
    all patches of its frame, ``key_bias`` [F, N] added to the logits. Half precision on a GPU
    goes to a variable-length kernel in one call. Elsewhere, and with dropout, segments of equal
    length that lie side by side form a plain batch. Nothing is padded or masked in either. Batches
    are projected one by one: joined first, both they and the joined row would be kept for the
    backward pass. Not compiled: the segments differ from batch to batch, and a compiled block
    would be compiled anew for each.
    """
    if has_flash(q.device, product_dtype(q)) and not dropout_p:
        return project(_flat_attention(q, k, v, layout, key_bias).flatten(1))
    groups = layout.groups
    sizes = [len(frames) * length for frames, length in groups]
    if k.dim() == 4:
        k, v = k[layout.frame_index], v[layout.frame_index]
        key_sizes = [len(frames) for frames, _ in groups]
    else:
        key_sizes = sizes
    if key_bias is not None:
        key_bias = key_bias[layout.frame_index]
    biases = [None] * len(groups) if key_bias is None else key_bias.split(key_sizes)
    # split, not slices: the gradient of a slice is as large as the whole
    parts = zip(groups, q.split(sizes), k.split(key_sizes), v.split(key_sizes), biases, strict=True)
    out = []
    for (frames, _), q_part, k_part, v_part, bias in parts:
        batch = (len(frames), -1, *q.shape[1:])
        heads = (x.reshape(batch).transpose(1, 2) for x in (q_part, k_part, v_part))
        y = attention(*heads, key_bias=bias, dropout_p=dropout_p, float32=float32)
        out.append(project(y.transpose(1, 2).flatten(2)).flatten(0, 1))
    return torch.cat(out) if out else project(q.flatten(1))


def _flat_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, key_bias: Tensor | None
) -> Tensor:
    """``segment_attention`` in one call of the variable-length kernel, before the projection."""
    scale, head_dim = q.shape[-1] ** -0.5, q.shape[-1]
    if key_bias is not None:
        q, k, v = _append_bias(q, k, v, key_bias[..., None] / scale)
    if fill := -q.shape[-1] % 8:  # a pad by nothing would copy
        q, k, v = (F.pad(x, (0, fill)) for x in (q, k, v))
    ends, longest = layout.cu_seqlens, max(layout.lengths)
    key_ends, most_keys = ends, longest
    if k.dim() == 4:
        most_keys = k.shape[1]
        key_ends = torch.arange(len(ends), device=q.device, dtype=torch.int32) * most_keys
        k, v = (x[layout.frame_index].flatten(0, 1) for x in (k, v))
    part = AttentionPart(Segments(ends, longest), Segments(key_ends, most_keys))
    return parts_attention(q, k, v, (part,), scale)[..., :head_dim]


SPLIT = 256
"""Keys of one piece when a single query's keys are shared out among the processors of a GPU."""


@dataclass(frozen=True)
class Pieces:
    """Keys of a cache in pieces of ``SPLIT``, each a segment with one head for the kernel.

    Attributes:
        query_ends, key_ends: int32 [pieces + 1].
        used: int32 [pieces], filled keys of each.
        empty: bool [B, KV, pieces of a row, 1].
    """

    query_ends: Tensor
    key_ends: Tensor
    used: Tensor
    empty: Tensor

    @classmethod
    def of(cls, lengths: Tensor, n_groups: int, group: int, capacity: int) -> Pieces:
        """Rows of ``lengths`` [B], each for ``n_groups`` key heads of ``group`` query heads."""
        starts = torch.arange(0, capacity, SPLIT, device=lengths.device)
        used = (lengths[:, None] - starts).clamp(0, SPLIT)[:, None].expand(-1, n_groups, -1)
        order = torch.arange(used.numel() + 1, device=lengths.device, dtype=torch.int32)
        flat = used.flatten().to(torch.int32)
        return cls(order * group, order * SPLIT, flat, (used == 0)[..., None])


def token_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One query per row over the keys that ``mask`` bool [B, 1, 1, S] allows; None: over all.

    q ``[B, H, D]``; k, v ``[B, KV, S, D]``, never repeated: the query heads of a group are query
    positions.
    """
    grouped = q.unflatten(1, (k.shape[1], -1)).to(v.dtype)
    mask = None if mask is None else mask.expand(-1, -1, grouped.shape[2], -1)
    return attention(grouped, k, v, mask=mask).flatten(1, 2)


def split_attention(q: Tensor, k: Tensor, v: Tensor, pieces: Pieces) -> Tensor:
    """``token_attention`` where ``has_flash``, the keys shared out among the processors of a GPU:
    the pieces' results merge by their log-sum-exp. ``S`` is a multiple of ``SPLIT`` and keys are
    contiguous. Nothing is read on the host, so that the step can be captured as a CUDA graph."""
    n_groups, n_pieces = k.shape[1], k.shape[2] // SPLIT
    q = q.unflatten(1, (n_groups, 1, -1)).expand(-1, -1, n_pieces, -1, -1).to(v.dtype)
    group = q.shape[3]
    keys, values = (x.flatten(0, 2)[:, None] for x in (k, v))
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        *(q.flatten(0, 3)[:, None], keys, values, pieces.query_ends, pieces.key_ends),
        *(group, SPLIT, 0.0, False, False),
        seqused_k=pieces.used,
    )
    return merged_pieces(out.view(q.shape), lse.view(q.shape[:4]), pieces.empty).flatten(1, 2)
