"""Every kind of attention in bfloat16, pure and under autocast, against float32 without either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from olmo.nn import llm_mask
from olmo.nn.attention import LARGEST_LAUNCH, attention, force_masks, segment_attention
from olmo.nn.llm_mask import RowMask, TokenMask
from olmo.nn.token_layout import CellGrid, TokenLayout
from olmo.tokenizer import special_token_ids
from tests.pretended_gpu import pretended_gpu

FORWARD, BACKWARD = 1e-2, 2e-2
"""Largest norm of a difference relative to the norm. Measured on the CPU and pretended: 2.8e-3,
3.7e-3."""
FRAMES, SIDE, HEADS, WIDTH = 5, 9, 2, 24
IDS = special_token_ids(40)

Inputs = list[Tensor]
Path = tuple[Inputs, Callable[..., Tensor]]


def draw(*shapes: tuple[int, ...]) -> Inputs:
    generator = torch.Generator("cpu").manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def qkv(*shape: int, kv_heads: int = HEADS) -> Inputs:
    """[*, heads, S, D]"""
    key = (shape[0], kv_heads, *shape[2:])
    return draw(tuple(shape), key, key)


def layout(device: torch.device, packed: bool) -> TokenLayout:
    grid = CellGrid.build(SIDE, SIDE, 3, device)
    generator = torch.Generator("cpu").manual_seed(1)
    share = torch.tensor([[1.0], [0.7], [0.6], [0.3], [0.3]])
    keep = (torch.rand(FRAMES, grid.n_cells, generator=generator) < share).to(device)
    return TokenLayout.packed(keep, grid, refill=True) if packed else TokenLayout.ragged(keep, grid)


def among_survivors(packed: bool) -> Path:
    n = len(layout(torch.device("cpu"), packed).source)
    shape = (n, HEADS, WIDTH)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return segment_attention(q, k, v, layout(q.device, packed), project=lambda y: y)

    return draw(shape, shape, shape), run


def to_whole_frames(packed: bool) -> Path:
    n = len(layout(torch.device("cpu"), packed).source)
    whole = (FRAMES, SIDE * SIDE)
    given = draw((n, HEADS, WIDTH), *[(*whole, HEADS, WIDTH)] * 2, whole)
    given[3] = -2 * given[3].abs().clamp(max=1)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        at = layout(q.device, packed)
        return segment_attention(q, k, v, at, key_bias=bias.float(), project=lambda y: y)

    return given, run


def pooled() -> Path:
    mask = torch.arange(9) < torch.arange(1, 31)[:, None] % 9 + 1

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, mask=mask[:, None, None].to(q.device))

    return [draw((30, HEADS, 1, WIDTH))[0], *qkv(30, HEADS, 9, WIDTH)[1:]], run


def llm_rows() -> Path:
    frame = [1, IDS["<frame_start>"], *[IDS["<im_patch>"]] * 9, IDS["<frame_end>"]]
    ids = torch.tensor([frame * 5 + [2] * 20, frame * 4 + [2] * 20 + [-1] * 12])

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = RowMask(TokenMask.build(ids, IDS), q.device).attend(q, k, v)
        return out * (ids >= 0)[..., None, None].to(q.device)

    return draw((2, 80, 4, WIDTH), *[(2, 80, 2, WIDTH)] * 2), run


PATHS: dict[str, Callable[[], Path]] = {
    "whole frames": lambda: (qkv(FRAMES, HEADS, SIDE * SIDE, WIDTH), attention),
    "survivors": lambda: among_survivors(packed=False),
    "survivors, packed and refilled": lambda: among_survivors(packed=True),
    "score bias": lambda: to_whole_frames(packed=False),
    "score bias, packed and refilled": lambda: to_whole_frames(packed=True),
    "pooling windows": pooled,
    "rows of the language model": llm_rows,
}


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("pretended", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with pretended_gpu() if request.param == "pretended" else nullcontext():
        yield "cpu" if request.param == "cpu" else "cuda"


@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize("name", PATHS)
def test_bfloat16(name: str, pure: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not pure: queries and keys in float32 beside values in bfloat16, as float32 weights of the
    norms leave them, under autocast."""
    monkeypatch.setattr(llm_mask, "PARTS_FROM", 0)
    given, run = PATHS[name]()
    given = [x.bfloat16().float() for x in given]
    exact = [x.clone().requires_grad_() for x in given]
    with force_masks():
        want = run(*exact)
    (weight,) = draw(tuple(want.shape))
    (want * weight).sum().backward()
    half = [x.to(device) for x in given]
    half = [x.bfloat16() if pure or i == 2 else x for i, x in enumerate(half)]
    half = [x.requires_grad_() for x in half]
    with torch.autocast(device, torch.bfloat16, enabled=not pure):
        out = run(*half)
    (out * weight.to(device, out.dtype)).sum().backward()
    assert error(out, want) < FORWARD
    for a, b in zip(half, exact, strict=True):
        assert error(a.grad, b.grad) < BACKWARD


def error(x: Tensor | None, y: Tensor | None) -> float:
    assert x is not None and y is not None
    x, y = x.detach().to("cpu").float(), y.detach()
    return float((x - y).norm() / y.norm())


@pytest.mark.gpu
@torch.no_grad()
def test_more_windows_than_a_grid_has_rows() -> None:
    n = LARGEST_LAUNCH + 10
    q, k, v = (torch.randn(n, 4, s, 72, device="cuda", dtype=torch.bfloat16) for s in (1, 9, 9))
    mask = torch.ones(n, 1, 1, 9, dtype=torch.bool, device="cuda")
    out = attention(q, k, v, mask=mask)
    for rows in (slice(0, 5), slice(n - 15, n)):
        want = attention(*(x[rows].float() for x in (q, k, v)), mask=mask[rows])
        torch.testing.assert_close(out[rows].float(), want, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
def test_a_new_shape_costs_no_plan() -> None:
    """Of an attention call with a length never seen, forward and backward: milliseconds, not the
    plan of a kernel or a compilation."""

    def seconds(size: int) -> float:
        frame = [1, IDS["<frame_start>"], *[IDS["<im_patch>"]] * 20, IDS["<frame_end>"]]
        ids = torch.tensor([(frame * size)[:size]])
        shapes = [(1, size, n, 128) for n in (32, 8, 8)]
        given = [torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in shapes]
        given = [x.requires_grad_() for x in given]
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        RowMask(TokenMask.build(ids, IDS), given[0].device).attend(*given).sum().backward()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    seconds(1000)
    new = [seconds(size) for size in (1001, 1010, 1203, 1500)]
    assert max(new) < 0.05, new
