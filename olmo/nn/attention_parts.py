"""Attention without a mask where the mask is a union of parts that flash kernels know.

Every part is a set of segments: each query of a segment sees all keys of the segment beside it, or
causally those before. The kernels are torch's FlashAttention in its variable-length form; for long
causal segments on a Hopper GPU cuDNN's, which is 1.8 times as fast there, and on the CPU torch's
flash kernel, both segment by segment.

Legend: T tokens of a flat row, H query and KV key heads, G = H / KV, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from olmo.nn.fused import merge_part

VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
NEW_ENOUGH = VERSION >= (2, 7)
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


CUDNN_FROM, CUDNN_STEP = 4096, 256
"""Tokens of a segment from which on cuDNN's kernel pays: a call keeps the host busy for 0.5 ms. And
a number that they are filled up to a multiple of: it plans anew for each new length, which takes
0.05 s forward and backward each."""


@cache
def has_cudnn(device: torch.device, head_dim: int) -> bool:
    """Whether cuDNN's attention is used: on Hopper, from the versions on with which it was tried.
    ``torch.backends.cuda.enable_cudnn_sdp(False)`` forbids it."""
    if not torch.cuda.is_available() or VERSION < (2, 11) or head_dim > 128:
        return False
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return hopper and (torch.backends.cudnn.version() or 0) >= 91900


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
    name the ``tokens`` of both sides, and in ``places`` int64 [T] which of the queries each token
    of the row is, -1: none."""

    queries: Segments
    keys: Segments
    causal: bool = False
    places: Tensor | None = None


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
        first, *others = parts
        out, lse, *ctx.states = _kernels(q, first)[0]((q, k, v), first, scale)
        for part in others:
            of_q, of_k = part.queries, part.keys
            heads = (of_q.take(q), of_k.take(k), of_k.take(v))
            new, new_lse, state = _kernels(q, part)[0](heads, part, scale)
            ctx.states.append(state)
            merge_part(out, lse, new, new_lse, cast(Tensor, part.places))
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        first, *others = zip(ctx.parts, ctx.states, strict=True)
        result = (out, lse, grads[0].contiguous())
        dq, dk, dv = _kernels(q, first[0])[1]((q, k, v), result, *first, ctx.scale)
        for part, state in others:
            of_q, of_k, rows = part.queries, part.keys, part.queries.tokens
            heads = (of_q.take(q), of_k.take(k), of_k.take(v))
            own = (out[rows], lse[:, rows].contiguous(), result[2][rows])
            found = _kernels(q, part)[1](heads, own, part, state, ctx.scale)
            dq[rows] += found[0]
            dk.index_add_(0, of_k.tokens, found[1])
            dv.index_add_(0, of_k.tokens, found[2])
        return dq, dk, dv, None, None


Three = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values; their gradients; or result [T, H, D], log-sum-exp [H, T] float32 and
the gradient of the result."""


def _kernels(q: Tensor, part: AttentionPart) -> tuple[Callable[..., Any], Callable[..., Three]]:
    """Forward and backward pass of a part."""
    if not q.is_cuda:
        return _cpu_flash, _cpu_flash_backward
    bounds = part.queries.bounds or (0,)
    long = bounds[-1] >= CUDNN_FROM * (len(bounds) - 1)
    wanted = part.causal and long and torch.backends.cuda.cudnn_sdp_enabled()
    if wanted and has_cudnn(q.device, q.shape[-1]):
        return _cudnn, _cudnn_backward
    return _flash, _flash_backward


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


def _cudnn(heads: Three, part: AttentionPart, scale: float) -> tuple[Tensor, Tensor, Any]:
    """As ``_flash``, segment by segment, each filled up behind its end: no query sees that."""
    outs, sums, states = [], [], []
    for at, keys in _bounds(part):
        given = (_filled(x[rows]) for x, rows in zip(heads, (at, keys, keys), strict=True))
        out, lse, *state = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *(*given, None, True, 0.0, True, False), scale=scale
        )
        outs.append(_cut(out, at))
        sums.append(_cut(lse, at)[..., 0])
        states.append(state[:6])
    return _joined(outs), _joined(sums).T.contiguous(), states


def _cudnn_backward(
    heads: Three, result: Three, part: AttentionPart, states: list[Any], scale: float
) -> Three:
    (q, k, v), (out, lse, grad) = heads, result
    found = []
    for (at, keys), (*sizes, seed, offset) in zip(_bounds(part), states, strict=True):
        given = (_filled(x) for x in (grad[at], q[at], k[keys], v[keys], out[at]))
        sums = _filled(lse[:, at].T[..., None]).contiguous()
        grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            *(*given, sums, seed, offset, None, *sizes, 0.0, True), scale=scale
        )
        found.append([_cut(x, rows) for x, rows in zip(grads, (at, keys, keys), strict=True)])
    dq, dk, dv = map(_joined, zip(*found, strict=True))
    return dq, dk, dv


def _filled(x: Tensor) -> Tensor:
    """[L, heads, D] -> [1, heads, L and zeros up to a multiple of ``CUDNN_STEP``, D]."""
    if fill := -len(x) % CUDNN_STEP:
        longer = x.new_empty(len(x) + fill, *x.shape[1:])
        longer[: len(x)], longer[len(x) :] = x, 0
        x = longer
    return x.transpose(0, 1)[None]


def _cut(x: Tensor, rows: slice) -> Tensor:
    """[1, heads, L or more, D] -> [L, heads, D]."""
    return x[0, :, : rows.stop - rows.start].transpose(0, 1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Segments, one behind the other."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


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
