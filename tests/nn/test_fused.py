"""Steps that are one kernel on a GPU: compiled they give what they give one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from olmo.nn import fused
from olmo.nn.attention import attention
from olmo.nn.rope import rope_tables

HEADS, KV, D, WIDTH = 4, 2, 16, 24


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def rope(n: int) -> tuple[Tensor, Tensor]:
    return rope_tables(torch.arange(n)[None], D, 1e4)


def window_mask(n: int) -> Tensor:
    mask = torch.rand(n, 1, 1, 9) < 0.7
    mask[0] = False
    return mask


def window_heads(n: int) -> list[Tensor]:
    """As the ViT's attention has them: views of [R, S, H, D]."""
    return [draw(n, s, HEADS, D).transpose(1, 2) for s in (1, 9, 9)]


STEPS: dict[str, tuple[Callable[..., Any], Callable[[int], list[Any]]]] = {
    "rms_norm": (fused.rms_norm, lambda n: [draw(2, n, WIDTH), draw(WIDTH), 1e-6]),
    "add_rms_norm": (
        fused.add_rms_norm,
        lambda n: [draw(2, n, WIDTH), draw(2, n, WIDTH), draw(WIDTH), 1e-6],
    ),
    "add_layer_norm": (
        fused.add_layer_norm,
        lambda n: [draw(n, WIDTH), draw(n, WIDTH), draw(WIDTH), draw(WIDTH), 1e-6],
    ),
    "rotated": (fused.rotated, lambda n: [draw(1, n, HEADS, D), *rope(n)]),
    "rotated_norm": (
        fused.rotated_norm,
        lambda n: [draw(2, n, HEADS + KV, D), draw(D), draw(D), (HEADS, KV), 1e-6, *rope(n)],
    ),
    "gated": (fused.gated, lambda n: [draw(2, n, WIDTH)]),
    "window_attention": (fused.window_attention, lambda n: [*window_heads(n), window_mask(n)]),
}


def results(step: Callable[..., Any], args: list[Any], learned: list[bool]) -> list[Tensor]:
    """What ``step`` gives, and the gradients of the ``learned`` arguments."""
    pairs = list(zip(args, learned, strict=True))
    args = [x.detach().clone().requires_grad_() if grad else x for x, grad in pairs]
    out = step(*args)
    outs = [out] if isinstance(out, Tensor) else list(out)
    sum((x * x.detach().cos()).sum() for x in outs).backward()
    return [*outs, *(x.grad for x, grad in zip(args, learned, strict=True) if grad)]


def is_learned(args: list[Any]) -> list[bool]:
    return [isinstance(x, Tensor) and x.dtype == torch.float64 for x in args]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_can_be_compiled_for_all_sizes(name: str) -> None:
    """In one piece, and once: the second size needs no graph of its own."""
    step, inputs = STEPS[name]
    torch.compiler.reset()
    torch.manual_seed(0)
    graphs = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(step.__wrapped__, dynamic=True, fullgraph=True, backend=backend)
    for n in (5, 8, 3):
        args = inputs(n)
        for a, b in zip(
            *(results(f, args, is_learned(args)) for f in (compiled, step)), strict=True
        ):
            torch.testing.assert_close(a, b)
    assert len(graphs) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", STEPS)
def test_steps_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    step, inputs = STEPS[name]
    torch.manual_seed(0)
    assert fused.can_compile(torch.device("cuda"))
    for n in (1, 5, 40):
        args = inputs(n)
        learned = is_learned(args)
        exact = [x.to(dtype).double() if grad else x for x, grad in zip(args, learned, strict=True)]
        on_gpu = [
            x.to("cuda", dtype if grad else None) if isinstance(x, Tensor) else x
            for x, grad in zip(exact, learned, strict=True)
        ]
        limit = 3e-2 if dtype is torch.bfloat16 else 1e-5
        pairs = zip(results(step, on_gpu, learned), results(step, exact, learned), strict=True)
        for a, b in pairs:
            assert float((a.cpu().double() - b).norm()) <= limit * float(b.norm()) + 1e-6


def test_window_attention_is_attention() -> None:
    q, k, v = window_heads(6)
    mask = window_mask(6)
    expected = attention(q, k, v, mask=mask)
    torch.testing.assert_close(fused.window_attention(q, k, v, mask), expected)
    assert not expected[0].any()
