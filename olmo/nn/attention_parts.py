"""Attention without a mask where the mask is a union of parts that flash kernels know.

Every part is a set of segments: each query of a segment sees all keys of the segment beside it, or
causally those before. The kernels are torch's FlashAttention in its variable-length form, and on
the CPU torch's flash kernel, segment by segment.

Legend: T tokens of a flat row, H query and KV key heads, G = H / KV, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NEW_ENOUGH = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)
WIDEST_HEAD = 256
"""Head dim that FlashAttention takes; it must be a multiple of 8, too."""


def has_flash(device: torch.device, dtype: torch.dtype, head_dim: int = 8) -> bool:
    """Whether torch's FlashAttention runs there: half precision, Ampere or newer, torch 2.7 (whose
    log-sum-exp has a flat form) or newer. A GPU that is not there is taken for a new one."""
    half = dtype in (torch.float16, torch.bfloat16)
    fits = head_dim % 8 == 0 and head_dim <= WIDEST_HEAD
    if device.type != "cuda" or not half or not fits or not NEW_ENOUGH:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which products with ``x`` are computed."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@dataclass(frozen=True)
class Segments:
    """Neighbouring stretches of tokens.

    Attributes:
        ends: int32 [segments + 1] on the device, where each starts and the last one ends.
        longest: tokens of the longest, or more. Not 1 with grouped heads: there the kernel turns
            heads into positions, and the order of its log-sum-exp with them.
        tokens: int64 [n] the flat row's tokens that they are made of; None: all, in order.
        bounds: ``ends`` on the host, which the CPU's kernel needs.
    """

    ends: Tensor
    longest: int
    tokens: Tensor | None = None
    bounds: tuple[int, ...] = ()

    def take(self, x: Tensor) -> Tensor:
        return x if self.tokens is None else x[self.tokens]


@dataclass(frozen=True)
class AttentionPart:
    """Segment i of ``queries`` attends to segment i of ``keys``: to all of it, or ``causal``, for
    segments of equal length. A query is in one segment of a part at most. All parts but the first
    name the ``tokens`` of both sides."""

    queries: Segments
    keys: Segments
    causal: bool = False


def parts_attention(
    q: Tensor, k: Tensor, v: Tensor, parts: Sequence[AttentionPart], scale: float | None = None
) -> Tensor:
    """Attention whose mask is the union of disjoint ``parts``, none of which needs a mask.

    The parts' results are merged by their log-sum-exp, as in ring attention (arXiv 2310.01889);
    backward, every part's kernel is given the merged result and log-sum-exp. Memory is linear in
    T. On a GPU half precision only, see ``has_flash``.

    Args:
        q: ``[T, H, D]``; k, v: ``[Tk, KV, D]``, ``H`` a multiple of ``KV``. Under autocast in its
            type.
        parts: the first covers every query.
        scale: of the logits; None is ``D ** -0.5``.

    Returns:
        ``[T, H, D]``.
    """
    dtype = product_dtype(v)
    heads = (x.to(dtype) for x in (q, k, v))
    out = _Parts.apply(*heads, tuple(parts), q.shape[-1] ** -0.5 if scale is None else scale)
    return cast(Tensor, out)


class _Parts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: tuple[AttentionPart, ...], scale: float
    ) -> Tensor:
        kernel = _flash if q.is_cuda else _cpu_flash
        first, *others = parts
        out, lse, *ctx.states = kernel((q, k, v), first, scale)
        for part in others:
            of_q, of_k = part.queries, part.keys
            heads = (of_q.take(q), of_k.take(k), of_k.take(v))
            new, new_lse, state = kernel(heads, part, scale)
            ctx.states.append(state)
            rows = of_q.tokens
            old, before = out[rows], lse[:, rows]
            share = torch.sigmoid(new_lse - before).T[..., None]
            out[rows] = old.addcmul_(new - old, share)
            lse[:, rows] = torch.logaddexp(before, new_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        kernel = _flash_backward if q.is_cuda else _cpu_flash_backward
        first, *others = zip(ctx.parts, ctx.states, strict=True)
        result = (out, lse, grads[0].contiguous())
        dq, dk, dv = kernel((q, k, v), result, *first, ctx.scale)
        for part, state in others:
            of_q, of_k, rows = part.queries, part.keys, part.queries.tokens
            heads = (of_q.take(q), of_k.take(k), of_k.take(v))
            own = (out[rows], lse[:, rows].contiguous(), result[2][rows])
            found = kernel(heads, own, part, state, ctx.scale)
            dq[rows] += found[0]
            dk.index_add_(0, of_k.tokens, found[1])
            dv.index_add_(0, of_k.tokens, found[2])
        return dq, dk, dv, None, None


Three = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values; their gradients; or result [T, H, D], log-sum-exp [H, T] float32 and
the gradient of the result."""


def _flash(heads: Three, part: AttentionPart, scale: float) -> tuple[Tensor, Tensor, Any]:
    """Result, log-sum-exp, what the backward pass wants to have back."""
    of_q, of_k = part.queries, part.keys
    out, lse, *state = torch.ops.aten._flash_attention_forward(
        *(*heads, of_q.ends, of_k.ends, of_q.longest, of_k.longest, 0.0, part.causal, False),
        scale=scale,
    )
    return out, lse, state[:2]


def _flash_backward(
    heads: Three, result: Three, part: AttentionPart, state: Any, scale: float
) -> Three:
    of_q, of_k, (out, lse, grad) = part.queries, part.keys, result
    found: Three = torch.ops.aten._flash_attention_backward(
        *(grad, *heads, out, lse, of_q.ends, of_k.ends, of_q.longest, of_k.longest),
        *(0.0, part.causal, *state),
        scale=scale,
    )
    return found


def _cpu_flash(heads: Three, part: AttentionPart, scale: float) -> tuple[Tensor, Tensor, Any]:
    """As ``_flash``, segment by segment."""
    q, k, v = heads
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[1], len(q), dtype=torch.promote_types(q.dtype, torch.float32))
    for at, keys in _bounds(part):
        y, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *_grouped(q[at], k[keys], v[keys]), 0.0, part.causal, scale=scale
        )
        out[at], lse[:, at] = _flat(y), sums.flatten(0, 1)
    return out, lse, None


def _cpu_flash_backward(
    heads: Three, result: Three, part: AttentionPart, state: None, scale: float
) -> Three:
    (q, k, v), (out, lse, grad) = heads, result
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    n_groups = k.shape[1]
    for at, keys in _bounds(part):
        grouped = _grouped(q[at], k[keys], v[keys])
        grad_y, y = (x[at].unflatten(1, (n_groups, -1)).permute(1, 2, 0, 3) for x in (grad, out))
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(grad_y, *grouped, y, lse[:, at].unflatten(0, (n_groups, -1)), 0.0, part.causal),
            scale=scale,
        )
        dq[at] = _flat(found[0])
        dk[keys], dv[keys] = (x.sum(1).transpose(0, 1) for x in found[1:])
    return dq, dk, dv


def _bounds(part: AttentionPart) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each segment, from the host's bounds."""
    bounds = (part.queries.bounds, part.keys.bounds)
    ends = ([slice(a, b) for a, b in pairwise(x)] for x in bounds)
    return zip(*ends, strict=True)


def _grouped(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[L, heads, D] -> [KV, G, L, D]: key heads as rows of a batch, nothing is repeated."""
    n_groups, group = k.shape[1], q.shape[1] // k.shape[1]
    heads = q.unflatten(1, (n_groups, group)).permute(1, 2, 0, 3)
    k, v = (x.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for x in (k, v))
    return heads, k, v


def _flat(x: Tensor) -> Tensor:
    """[KV, G, L, D] -> [L, H, D]."""
    return x.permute(2, 0, 1, 3).flatten(1, 2)
