"""Steps that are one kernel on a GPU: compiled they give what they give one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from olmo.nn import fused
from olmo.nn.attention import attention
from olmo.nn.image_vit import ViTBlock, VitConfig
from olmo.nn.llm import LlmBlock, LlmConfig
from olmo.nn.llm_mask import DenseMask
from olmo.nn.recompute import recomputed
from olmo.nn.rope import rope_tables

HEADS, KV, D, WIDTH = 4, 2, 16, 24


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def rope(n: int) -> tuple[Tensor, Tensor]:
    return rope_tables(torch.arange(2 * n).view(2, n), D, 1e4)


def window_mask(n: int) -> Tensor:
    mask = torch.rand(n, 1, 1, 9) < 0.7
    mask[0] = False
    return mask


def window_heads(n: int) -> list[Tensor]:
    """As the ViT's attention has them: views of [R, S, H, D]."""
    return [draw(n, s, HEADS, D).transpose(1, 2) for s in (1, 9, 9)]


STEPS: dict[str, tuple[int, Callable[[int], list[Any]]]] = {
    "rms_norm": (1, lambda n: [draw(2, n, WIDTH), draw(WIDTH), 1e-6]),
    "add_rms_norm": (1, lambda n: [draw(2, n, WIDTH), draw(2, n, WIDTH), draw(WIDTH), 1e-6]),
    "add_layer_norm": (
        1,
        lambda n: [draw(n, WIDTH), draw(n, WIDTH), draw(WIDTH), draw(WIDTH), 1e-6],
    ),
    "rotated": (2, lambda n: [draw(2, n, HEADS, D), *rope(n)]),
    "rotated_norm": (
        2,
        lambda n: [draw(2, n, HEADS + KV, D), draw(D), draw(D), (HEADS, KV), 1e-6, *rope(n)],
    ),
    "gated": (1, lambda n: [draw(2, n, WIDTH)]),
    "window_attention": (3, lambda n: [*window_heads(n), window_mask(n)]),
}
"""Sizes at the end that are the model's, and arguments for n tokens."""
OF_A_KIND = {"rms_norm", "rotated_norm", "window_attention"}
"""One result, several, and a mask; the others are compiled in the slow tests only."""


def results(step: Callable[..., Any], args: list[Any], learned: list[bool]) -> list[Tensor]:
    """What ``step`` gives, and the gradients of the ``learned`` arguments."""
    pairs = list(zip(args, learned, strict=True))
    args = [x.detach().clone().requires_grad_() if grad else x for x, grad in pairs]
    out = step(*args)
    outs = [out] if isinstance(out, Tensor) else list(out)
    sum((x * x.detach().cos()).sum() for x in outs).backward()
    gradients = [x.grad for x, grad in zip(args, learned, strict=True) if grad]
    return [x.detach() for x in (*outs, *gradients)]


def is_learned(args: list[Any]) -> list[bool]:
    return [isinstance(x, Tensor) and x.dtype == torch.float64 for x in args]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Steps are compiled on the CPU, for torch to run one by one; the graphs, as they are made."""
    found: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        found.append(graph)
        return graph

    torch.compiler.reset()
    monkeypatch.setattr(fused, "can_compile", lambda device: True)
    monkeypatch.setattr(fused, "BACKEND", backend)
    return found


@pytest.mark.parametrize(
    "name",
    [name if name in OF_A_KIND else pytest.param(name, marks=pytest.mark.slow) for name in STEPS],
)
def test_a_step_is_compiled_once_for_all_sizes(name: str, graphs: list[Any]) -> None:
    """Forward and backward: a second size needs no graph of its own."""
    widths, inputs = STEPS[name]
    plain = getattr(fused, name).__wrapped__
    step = fused.fused(widths)(plain)
    torch.manual_seed(0)
    for n in (5, 8, 3):
        args = inputs(n)
        found, expected = (results(f, args, is_learned(args)) for f in (step, plain))
        torch.testing.assert_close(found, expected)
    assert len(graphs) == 2


@pytest.mark.parametrize("kind", ["llm", pytest.param("vit", marks=pytest.mark.slow)])
def test_blocks_of_many_sizes_are_recomputed(kind: str, graphs: list[Any]) -> None:
    """A checkpoint finds the tensors again that it had kept, whichever graphs were made since."""
    torch.manual_seed(0)
    vit = VitConfig((28, 28), 14, 16, 2, 2, 1, 8, 32, 4)
    llm = LlmConfig(16, 2, 1, 8, 1, mlp_hidden_size=32, vocab_size=8)
    block = LlmBlock(llm, 0) if kind == "llm" else ViTBlock(vit)
    block.reset_parameters()

    def run() -> list[Tensor]:
        block.zero_grad()
        losses = []
        for n, rows in ((7, 2), (2, 7), (16, 16), (7, 2), (5, 1), (1, 1)):
            x = torch.linspace(-1, 1, rows * n * 16).view(rows, n, 16).sin()
            mask = DenseMask(torch.ones(rows, 1, n, n, dtype=torch.bool).tril())
            tables = rope_tables(torch.arange(n).expand(rows, n), 8, 1e4)
            x = recomputed(block, x, *((tables, mask) if kind == "llm" else ()))
            losses.append(x.square().mean())
        torch.stack(losses).sum().backward()
        grads = [p.grad for p in block.parameters()]
        return [g.clone() for g in grads if g is not None] + [x.detach() for x in losses]

    compiled = run()
    assert graphs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "can_compile", lambda device: False)
        torch.testing.assert_close(compiled, run(), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", STEPS)
def test_steps_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    step, inputs = getattr(fused, name), STEPS[name][1]
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


def test_a_machine_that_cannot_compile_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C compiler\nlong trace")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "compile", broken)
    assert not fused.can_compile.__wrapped__(torch.device("cuda"))
    assert "torch.compile does not work here (no C compiler)" in caplog.text
