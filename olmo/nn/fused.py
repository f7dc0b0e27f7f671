"""Small steps between the matrix products, each in one or two kernels on a GPU.

Run one by one, norms, rotations and gates read and write every token some twenty times per block,
and take as long as a third of its products. ``torch.compile`` makes a kernel of each of them.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def fused(widths: int | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function of tensors, compiled for tensors on a GPU, together with its backward pass.

    The last ``widths`` sizes of its arguments are those of the model; they are compiled in. All
    sizes before are made one, the number of tokens, which is left open, and results have those of
    the first argument again. None: all sizes are left open, for functions without gradients.

    In half precision results differ by rounding: what lies between is not rounded there.
    ``TORCH_COMPILE_DISABLE=1`` runs the steps one by one; so does a machine that cannot compile,
    which is logged.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        compiled = functools.cache(functools.partial(_compiled, function))

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            place = next(x.device for x in args if isinstance(x, Tensor))
            if torch.compiler.is_compiling() or not can_compile(place):
                return function(*args, **kwargs)
            assert not kwargs, "a compiled step takes positional arguments"
            with torch.autocast(place.type, enabled=False):  # as in the backward pass
                if widths is None:
                    return cast(R, compiled()(*args))
                shape = cast(Tensor, args[0]).shape[:-widths]
                out = _Compiled.apply(compiled, *(_by_token(x, widths) for x in args))
            if isinstance(out, Tensor):
                return cast(R, out.unflatten(0, shape))
            return cast(R, tuple(x.unflatten(0, shape) for x in out))

        return run

    return decorate


def _by_token(x: Any, widths: int) -> Any:
    """[.., widths] -> [tokens, widths], the widths known to the compiler: such code is faster."""
    if not isinstance(x, Tensor) or x.dim() <= widths:
        return x
    x = x.flatten(0, -1 - widths)
    torch._dynamo.mark_static(x, list(range(1, x.dim())))
    return x


class _Compiled(torch.autograd.Function):
    """Keeps its arguments for the backward pass and nothing else, whatever torch would choose to:
    torch may run another variant where a checkpoint recomputes, and finds other tensors missing."""

    @staticmethod
    def forward(ctx: Any, compiled: Callable[..., Any], *args: Any) -> Any:
        ctx.compiled = compiled
        ctx.others = [None if isinstance(x, Tensor) else x for x in args]
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in args))
        return compiled()(*args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        args = [y if x is None else x for x, y in zip(ctx.saved_tensors, ctx.others, strict=True)]
        learned = tuple(i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed)
        out: list[Tensor | None] = [None] * (1 + len(args))
        for i, grad in zip(learned, ctx.compiled(learned)(grads, *args), strict=True):
            out[1 + i] = grad
        return tuple(out)


def _compiled(function: Callable[..., Any], learned: tuple[int, ...] = ()) -> Callable[..., Any]:
    """``function``, or what gives the gradients of its ``learned`` arguments from those of its
    results and its arguments."""

    def gradients(grads: tuple[Tensor, ...], *args: Any) -> tuple[Tensor, ...]:
        def of_learned(*values: Tensor) -> Any:
            given = list(args)
            for i, value in zip(learned, values, strict=True):
                given[i] = value
            out = function(*given)
            return (out,) if isinstance(out, Tensor) else out

        pull = torch.func.vjp(of_learned, *(args[i] for i in learned))[1]
        return cast("tuple[Tensor, ...]", pull(grads))

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
    if not learned:
        return torch.compile(function, dynamic=True, backend=BACKEND)
    # torch keeps variants by the code: this one's must not be looked for among those of others
    code = gradients.__code__.replace(co_name=f"{function.__name__}_gradients")
    own = FunctionType(code, globals(), code.co_name, None, gradients.__closure__)
    return torch.compile(own, dynamic=True, backend=BACKEND)


BACKEND = "inductor"
VARIANTS = 32
"""Of a function: one for each width, number type and kind of gradient, and for sizes of one. Torch
would run the ninth one step by step."""


@functools.cache
def can_compile(device: torch.device) -> bool:
    """Whether this is a GPU for which ``torch.compile`` works: it needs Triton and a C compiler."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    # about how it compiles a softmax of pieces; nothing that a user could act upon
    warnings.filterwarnings("ignore", r"\s*Online softmax is disabled")
    try:
        with torch.inference_mode():
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as e:  # of torch, of Triton, of the C compiler, of a folder that is full
        reason = str(e).strip().splitlines() or [type(e).__name__]
        log.warning("slower: torch.compile does not work here (%s)", reason[0])
        return False
    return True


@fused(1)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension in float32, cast back, then scaled by ``weight`` [D]."""
    return _normed(x, eps) * weight


@fused(1)
def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + y`` and its ``rms_norm``."""
    x = x + y
    return x, _normed(x, eps) * weight


def _normed(x: Tensor, eps: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # or x would become float32 and stay it
        return F.rms_norm(x, x.shape[-1:], None, eps)


@fused(2)
def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [B, S, H, D] in float32 and cast back, ``(a, b)`` to
    ``(a cos - b sin, b cos + a sin)``; tables as ``rope_tables`` gives them."""
    return _rotated(x, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


@fused(2)
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


@fused(1)
def gated(x: Tensor) -> Tensor:
    """SwiGLU of [.., 2 F], values and then gates: ``values * silu(gates)``."""
    values, gates = x.chunk(2, -1)
    return values * F.silu(gates)


@fused(1)
def add_layer_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``x + y`` and its layer norm over the last dimension, of one type all of them."""
    x = x + y
    with torch.autocast(x.device.type, enabled=False):
        return x, F.layer_norm(x, x.shape[-1:], weight, bias, eps)


@fused(3)
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


@fused()
def merged_pieces(out: Tensor, lse: Tensor, empty: Tensor) -> Tensor:
    """Attention over all keys [B, KV, G, D], from that over pieces of them: ``out`` [B, KV, pieces,
    G, D] and its log-sum-exp [B, KV, pieces, G]; what ``empty`` pieces hold does not count."""
    shares = lse.masked_fill(empty, -torch.inf).softmax(2)
    return (out * shares[..., None]).sum(2).to(out.dtype)


@fused()
def merge_part(out: Tensor, lse: Tensor, new: Tensor, new_lse: Tensor, places: Tensor) -> None:
    """Take more keys into an attention, in place: into ``out`` [T, H, D] with its log-sum-exp
    [H, T] the result over those keys, ``new`` [n, H, D] with its own. ``places`` int64 [T]: which
    of the n each token is, -1 for one that has no more keys."""
    at, some = places.clamp(min=0), places >= 0
    there = new_lse[:, at]
    share = (torch.sigmoid(there - lse) * some).T[..., None]
    out.addcmul_(new[at] - out, share)
    lse.copy_(torch.where(some, torch.logaddexp(lse, there), lse))


@fused()
def store(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, rows: Tensor, places: Tensor) -> None:
    """Write ``k`` and ``v`` [B, KV, D] into buffers [B, KV, capacity, D], at ``places`` int64 [B]
    of ``rows`` 0 to B - 1."""
    keys[rows, :, places] = k.to(keys.dtype)
    values[rows, :, places] = v.to(values.dtype)
