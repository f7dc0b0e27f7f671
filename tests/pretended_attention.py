"""Attention of the pretended device, on the CPU: FlashAttention-2's variable-length kernel with
its rules, and ``scaled_dot_product_attention``.

Legend: Q queries of all segments together, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.attention import _cur_sdpa_kernel_backends

from tests.pretended_cuda import line

MAX_GRID = 65_535
"""Most blocks in the second and third direction of a CUDA launch."""


def _require(condition: bool, rule: str, *found: object) -> None:
    if not condition:
        raise RuntimeError(f"flash attention: {rule}, got {', '.join(map(str, found))}")


def _segments(a: dict[str, Any]) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each segment."""
    ends_q, ends_k = a["cum_seq_q"].tolist(), a["cum_seq_k"].tolist()
    used = a.get("seqused_k")
    stops = (
        ends_k[1:] if used is None else [s + n for s, n in zip(ends_k, used.tolist(), strict=False)]
    )
    for i, stop in enumerate(stops):
        yield slice(ends_q[i], ends_q[i + 1]), slice(ends_k[i], stop)


def check_flash(a: dict[str, Any]) -> None:
    """``RuntimeError`` for arguments that the kernel refuses, or with which it would read or write
    in a wrong place. ``a``: the arguments of either operator by name, tensors on the CPU."""
    q, k, v = a["query"], a["key"], a["value"]
    rows = {n: a[n] for n in ("query", "key", "value")}
    for name in ("grad_out", "out"):
        if name in a:
            _require(a[name].shape == q.shape, f"{name} must be like the query", a[name].shape)
            rows[name] = a[name].contiguous()  # as torch does before it calls the kernel
    for name, x in rows.items():
        _require(x.dim() == 3, f"{name} must be [tokens, heads, size]", x.shape)
        _require(x.dtype in (torch.float16, torch.bfloat16), "only half precision", name, x.dtype)
        _require(x.dtype == q.dtype, f"{name} must have the query's dtype", x.dtype, q.dtype)
        _require(x.shape[-1] == q.shape[-1], "one head size", name, x.shape, q.shape)
        _require(x.stride(-1) == 1, f"{name}'s last dimension must be contiguous", x.stride())
        steps = [s for s, n in zip(x.stride()[:2], x.shape[:2], strict=True) if n > 1]
        aligned = all(s % 8 == 0 for s in (*steps, x.storage_offset()))
        _require(aligned, f"{name} must be aligned to 16 bytes", x.stride(), x.storage_offset())
    _require(q.shape[-1] % 8 == 0 and 0 < q.shape[-1] <= 256, "head size 8, 16 ... 256", q.shape)
    _require(k.shape == v.shape, "keys and values of one shape", k.shape, v.shape)
    _require(q.shape[1] % k.shape[1] == 0, "query heads in groups", q.shape[1], k.shape[1])
    _require(a["dropout_p"] == 0, "pretended without dropout", a["dropout_p"])
    left, right = a.get("window_size_left"), a.get("window_size_right")
    full = left in (None, -1) and right in ((None, -1, 0) if a["is_causal"] else (None, -1))
    _require(full and a.get("alibi_slopes") is None, "pretended without windows", left, right)
    _require(a.get("block_table") is None, "pretended without pages")
    _check_segments(a)
    if "logsumexp" in a:
        lse = a["logsumexp"]
        fits = lse.dtype == torch.float32 and lse.shape == (q.shape[1], q.shape[0])
        _require(fits and lse.is_contiguous(), "logsumexp float32 [heads, tokens]", lse.shape)


def _check_segments(a: dict[str, Any]) -> None:
    for name, total, longest in (("cum_seq_q", "query", "max_q"), ("cum_seq_k", "key", "max_k")):
        ends = a[name]
        _require(ends is not None and ends.dtype == torch.int32, f"{name} must be int32", ends)
        _require(ends.dim() == 1 and ends.is_contiguous(), f"{name} must be a row", ends.stride())
        _require(1 <= len(ends) - 1 <= MAX_GRID, "1 to 65,535 segments", len(ends) - 1)
        sizes = ends.diff()
        bounds = [int(ends[0]), int(ends[-1]), int(sizes.min())]
        inside = bounds[0] == 0 and bounds[1] == len(a[total]) and bounds[2] >= 0
        _require(inside, f"{name} must rise from 0 to {len(a[total])}", ends.tolist())
        _require(int(sizes.max()) <= a[longest], f"{longest} is too small", a[longest], sizes.max())
    _require(len(a["cum_seq_q"]) == len(a["cum_seq_k"]), "as many segments of queries as of keys")
    if (used := a.get("seqused_k")) is not None:
        fits = used.dtype == torch.int32 and len(used) == len(a["cum_seq_k"]) - 1
        _require(fits and used.is_contiguous(), "seqused_k int32, one per segment", used)
        _require(bool((used <= a["cum_seq_k"].diff()).all()), "seqused_k is too large", used)


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    """float32 [H, q, k]. Causal: the last query sees all keys (aligned bottom-right)."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * scale
    if causal:
        unseen = torch.ones(scores.shape[1:], dtype=torch.bool)
        scores = scores.masked_fill(unseen.triu(1 + k.shape[0] - q.shape[0]), -torch.inf)
    return scores


def flash_forward(a: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out like the query, logsumexp float32 [H, Q], random state, unused, debug mask. A query
    without keys gives 0 and a logsumexp of +inf."""
    q, k, v = a["query"], a["key"], a["value"]
    scale = q.shape[-1] ** -0.5 if a.get("scale") is None else a["scale"]
    out = torch.zeros(q.shape, dtype=q.dtype)
    lse = torch.full((q.shape[1], q.shape[0]), torch.inf)
    for own, keys in _segments(a):
        scores = _scores(q[own], k[keys], scale, a["is_causal"])
        total = scores.logsumexp(-1)
        lse[:, own] = total.masked_fill(total == -torch.inf, torch.inf)
        values = v[keys].float().repeat_interleave(q.shape[1] // v.shape[1], 1)
        probs = (scores - lse[:, own, None]).exp()
        out[own] = torch.einsum("hqk,khd->qhd", probs, values).to(q.dtype)
    state = torch.zeros(2, dtype=torch.uint64)
    return out, lse, state, torch.zeros((), dtype=torch.uint64), torch.zeros(0, dtype=q.dtype)


def flash_backward(a: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from the logsumexp that is given."""
    q, k, v = a["query"], a["key"], a["value"]
    scale = q.shape[-1] ** -0.5 if a.get("scale") is None else a["scale"]
    group = q.shape[1] // k.shape[1]
    grad_q, grad_k, grad_v = (torch.zeros(x.shape, dtype=torch.float32) for x in (q, k, v))
    for own, keys in _segments(a):
        scores = _scores(q[own], k[keys], scale, a["is_causal"])
        probs = (scores - a["logsumexp"][:, own, None]).exp()
        grad, wide_k = a["grad_out"][own].float(), k[keys].float().repeat_interleave(group, 1)
        wide_v = v[keys].float().repeat_interleave(group, 1)
        own_part = (grad * a["out"][own].float()).sum(-1).T[..., None]
        slope = probs * (torch.einsum("qhd,khd->hqk", grad, wide_v) - own_part) * scale
        grad_q[own] = torch.einsum("hqk,khd->qhd", slope, wide_k)
        for total, part in (
            (grad_k, torch.einsum("hqk,qhd->khd", slope, q[own].float())),
            (grad_v, torch.einsum("hqk,qhd->khd", probs, grad)),
        ):
            total[keys] = part.unflatten(1, (-1, group)).sum(2)
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


def cudnn_forward(a: dict[str, Any]) -> tuple[Any, ...]:
    """cuDNN's attention of one row [1, H, L, D] with its log-sum-exp [1, H, L, 1], causal."""
    rows = _one_segment(a)
    out, lse, *_ = flash_forward(rows)
    seed = torch.zeros((), dtype=torch.int64)
    length = a["query"].shape[2]
    lse = lse[None, ..., None]
    return (_as_rows(out), lse, None, None, length, length, seed, seed, torch.zeros(0))


def cudnn_backward(a: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(map(_as_rows, flash_backward(_one_segment(a))))


def _as_rows(x: Tensor) -> Tensor:
    return x.transpose(0, 1)[None]


def _one_segment(a: dict[str, Any]) -> dict[str, Any]:
    q = a["query"]
    _require(len(q) == 1 and q.shape[2] == a["key"].shape[2], "one row of one length", q.shape)
    _require(q.shape[-1] % 8 == 0 and q.shape[-1] <= 128, "head size 8, 16 ... 128", q.shape)
    _require(a["is_causal"] and a.get("attn_bias") is None, "causal without a mask", a["is_causal"])
    names = ("query", "key", "value", "out", "grad_out")
    rows = {n: a[n][0].transpose(0, 1) for n in names if n in a}
    if "logsumexp" in a:
        lse = a["logsumexp"]
        fits = lse.dtype == torch.float32 and lse.shape == (*q.shape[:3], 1)
        _require(fits and lse.is_contiguous(), "logsumexp float32 [1, H, L, 1]", lse.shape)
        rows["logsumexp"] = lse[0, ..., 0]
    ends = torch.tensor([0, q.shape[2]], dtype=torch.int32)
    return a | rows | {"cum_seq_q": ends, "cum_seq_k": ends}


@dataclass(frozen=True)
class SdpaCall:
    """One call of ``scaled_dot_product_attention``; ``backends``: names of those allowed."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    dtype: torch.dtype
    mask: tuple[torch.dtype, tuple[int, ...]] | None
    backends: frozenset[str]
    line: str


class Device(Protocol):
    """What ``sdpa`` asks of the device."""

    sdpa_calls: list[SdpaCall]

    def call(self, name: str, function: Callable[..., Any], *tensors: Tensor | None) -> Any: ...


def sdpa(gpu: Device, real: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """``scaled_dot_product_attention`` on ``gpu``, where ``real`` is torch's."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    given = dict(zip(names, args, strict=False)) | kwargs
    q, k, v, mask = (given.pop(name, None) for name in names[:4])
    tensors = [t for t in (q, k, v, mask) if t is not None]
    if not any(t.is_cuda for t in tensors):
        return real(q, k, v, mask, **given)
    if not all(t.is_cuda for t in tensors):
        raise RuntimeError(f"scaled_dot_product_attention: tensors of two devices, {line()}")
    if torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")
        q, k, v = (t.to(half) for t in (q, k, v))
        mask = mask.to(half) if mask is not None and mask.is_floating_point() else mask
    if not q.dtype == k.dtype == v.dtype or (mask is not None and mask.requires_grad):
        raise RuntimeError(f"sdpa: {q.dtype}, {k.dtype}, {v.dtype}, or a mask with gradients")
    if max(q.shape[:2]) > MAX_GRID:
        raise RuntimeError(f"CUDA error: invalid configuration argument, {tuple(q.shape)}")
    kind = None if mask is None else (mask.dtype, tuple(mask.shape))
    allowed = frozenset(b.name for b in _cur_sdpa_kernel_backends())
    gpu.sdpa_calls.append(SdpaCall(tuple(q.shape), tuple(k.shape), q.dtype, kind, allowed, line()))
    return cast(Tensor, _Sdpa.apply(gpu, partial(real, **given), q, k, v, mask))


class _Sdpa(torch.autograd.Function):
    """Computed in float32 whatever the type, as the kernels do inside."""

    @staticmethod
    def forward(ctx: Any, gpu: Device, real: Callable[..., Tensor], *tensors: Tensor | None) -> Any:
        ctx.gpu, ctx.real = gpu, real
        ctx.save_for_backward(*tensors)

        def kernel(*host: Any) -> Tensor:
            return real(*(_float(t) for t in host)).to(host[0].dtype)

        return gpu.call("sdpa", kernel, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        def kernel(grad: Tensor, *host: Any) -> list[Tensor]:
            with torch.enable_grad():
                inputs = [t.float().detach().requires_grad_() for t in host[:3]]
                out = ctx.real(*inputs, _float(host[3]))
            slopes = torch.autograd.grad(out, inputs, grad.float())
            return [slope.to(grad.dtype) for slope in slopes]

        return None, None, *ctx.gpu.call("sdpa_backward", kernel, *grads, *ctx.saved_tensors), None


def _float(t: Tensor | None) -> Tensor | None:
    return t.float() if t is not None and t.is_floating_point() else t
