"""The pretended GPU itself: what it refuses, what it counts, and the values of its kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.pretended_gpu import pretended_gpu, to_gpu, to_host

pytestmark = pytest.mark.slow

SIZES = [(3, 3), (1, 4), (4, 2), (2, 0), (5, 5)]
"""Queries and keys of each segment; one has fewer keys than queries, one has none."""


def flash_inputs(sizes: list[tuple[int, int]], heads: tuple[int, int] = (4, 2)) -> list[Tensor]:
    """query, key, value, ends of the queries, ends of the keys, on the CPU."""
    n_q, n_k = (sum(n) for n in zip(*sizes, strict=True))
    shapes = ((n_q, heads[0], 16), (n_k, heads[1], 16), (n_k, heads[1], 16))
    ends = [F.pad(torch.tensor(n).cumsum(0), (1, 0)).int() for n in zip(*sizes, strict=True)]
    return [*(torch.randn(s).bfloat16() for s in shapes), *ends]


def flash(tensors: list[Tensor], causal: bool = False, longest: int = 5) -> tuple[Tensor, ...]:
    operator = torch.ops.aten._flash_attention_forward
    return operator(*tensors, longest, longest, 0.0, causal, False, scale=0.3)[:2]  # type: ignore[no-any-return]


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """One segment as the textbook has it, in float32."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * 0.3
    for i in range(len(q) if causal else 0):
        scores[:, i, max(len(k) - len(q) + i + 1, 0) :] = -torch.inf
    seen = scores.isfinite().any(-1)
    probs = scores.softmax(-1).nan_to_num()
    out = torch.einsum("hqk,khd->qhd", probs, v)
    return out, torch.where(seen, scores.logsumexp(-1), torch.inf)


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_and_its_gradients(causal: bool) -> None:
    """Against one segment at a time. Largest difference of the results 0.008, of the gradients
    0.013 (rounding to bfloat16)."""
    *qkv, ends_q, ends_k = flash_inputs(SIZES)
    leaves = [t.float().requires_grad_() for t in qkv]
    parts = [
        x.split(n.diff().tolist()) for x, n in zip(leaves, (ends_q, ends_k, ends_k), strict=True)
    ]
    outs, lses = zip(*(plain(q, k, v, causal) for q, k, v in zip(*parts, strict=True)), strict=True)
    upstream = torch.randn(leaves[0].shape).bfloat16()
    expected = torch.autograd.grad(torch.cat(outs), leaves, upstream.float())
    with pretended_gpu() as gpu:
        device = [
            t.to("cuda").requires_grad_(t.is_floating_point()) for t in (*qkv, ends_q, ends_k)
        ]
        out, lse = flash(device, causal)
        found = torch.autograd.grad(out, device[:3], upstream.to("cuda"))
        out, lse = out.detach(), lse.detach()
    assert gpu.launches["_flash_attention_forward"] == 1
    assert gpu.launches["_flash_attention_backward"] == 1
    torch.testing.assert_close(to_host(lse), torch.cat(lses, 1).detach())
    values = zip((out, *found), (torch.cat(outs).detach(), *expected), strict=True)
    for a, b in values:
        torch.testing.assert_close(to_host(a).float(), b, atol=0.02, rtol=0.01)


def test_flash_attention_with_unused_keys() -> None:
    q, k, v, ends_q, _ = flash_inputs([(2, 3), (2, 2)])
    used, room = torch.tensor([3, 2], dtype=torch.int32), torch.tensor([0, 5, 10]).int()
    roomy = [torch.cat((x[:3], x.new_ones(2, 2, 16), x[3:], x.new_ones(3, 2, 16))) for x in (k, v)]
    with pretended_gpu():
        a = [t.to("cuda") for t in (q, *roomy, ends_q, room, used)]
        operator = torch.ops.aten._flash_attention_forward
        out = operator(*a[:5], 2, 5, 0.0, True, False, scale=0.3, seqused_k=a[5])[0]
        ends = torch.tensor([0, 3, 5], dtype=torch.int32)
        exact = flash([a[0], k.to("cuda"), v.to("cuda"), a[3], ends.to("cuda")], True)[0]
    assert torch.equal(to_host(out), to_host(exact))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: [a[0].float(), *a[1:]], "half precision"),
        (lambda a: [x[..., :12] for x in a[:3]] + a[3:], "head size"),
        (lambda a: [a[0].mT.contiguous().mT, *a[1:]], "contiguous"),
        (lambda a: [*a[:4], a[4].long()], "int32"),
        (lambda a: [*a[:4], a[4].cpu()], "same device"),
        (lambda a: [*a[:3], a[3] + 1, a[4]], "rise from 0"),
        (lambda a: [a[0], *(x[:, :1].expand(-1, 3, -1) for x in a[1:3]), *a[3:]], "groups"),
    ],
)
def test_flash_attention_refuses(change: object, message: str) -> None:
    with pretended_gpu():
        tensors = [t.to("cuda") for t in flash_inputs(SIZES)]
        with pytest.raises(RuntimeError, match=message):
            flash(change(tensors))  # type: ignore[operator]
        with pytest.raises(RuntimeError, match="max_q is too small"):
            flash(tensors, longest=4)


def test_sdpa_knows_the_allowed_backends_and_the_largest_batch() -> None:
    with pretended_gpu() as gpu:
        x = torch.randn(1, 1, 1, 8, device="cuda")
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            F.scaled_dot_product_attention(x, x, x)
        F.scaled_dot_product_attention(x, x, x)
        wide = x.expand(65_536, -1, -1, -1)
        with pytest.raises(RuntimeError, match="invalid configuration"):
            F.scaled_dot_product_attention(wide, wide, wide)
    assert gpu.sdpa_calls[0].backends == {"FLASH_ATTENTION", "MATH"}
    assert "CUDNN_ATTENTION" in gpu.sdpa_calls[1].backends


def test_mixed_devices_raise() -> None:
    with pretended_gpu():
        x, here = torch.ones(2, device="cuda"), torch.ones(2)
        assert x.is_cuda and str(x.device) == "cuda:0"
        for operation in (
            lambda: x + here,
            lambda: here.add_(x),
            lambda: torch.cat((x, torch.ones(2))),
            lambda: torch.ones(()).add_(x[0]),
            lambda: here[torch.zeros(1, dtype=torch.long, device="cuda")],
            lambda: F.scaled_dot_product_attention(x[None], x[None], here[None]),
        ):
            with pytest.raises(RuntimeError, match="device"):
                operation()
        assert (x + torch.ones(())).tolist() == [2, 2]


def test_waits_of_reads() -> None:
    with pretended_gpu() as gpu:
        x = torch.arange(4, device="cuda")
        even, gpu.waits = x % 2 == 0, gpu.waits.__class__()
        for operation in (
            lambda: int(x[1]),
            lambda: x.tolist(),
            lambda: x.cpu(),
            lambda: even.nonzero(),
            lambda: x[even],
            lambda: torch.equal(x, x),
            lambda: x[[0, 1]],
            lambda: x.clone().index_put_((x[:1],), torch.tensor(0)),
            lambda: torch.repeat_interleave(x, x),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: torch.cuda.synchronize(),
            lambda: torch.cuda.Event().synchronize(),
        ):
            before = gpu.waits.total()
            operation()
            assert gpu.waits.total() == before + 1, gpu.waits
        before = gpu.waits.total()
        x.clone()[even] = 1
        torch.repeat_interleave(x, x, output_size=6)
        x.masked_fill(even, 2).to("cpu", non_blocking=True)
        assert gpu.waits.total() == before
        assert f"{torch.ones((), device='cuda'):.1f}" == "1.0"
    assert all("tests/test_pretended_gpu.py:" in place for place in gpu.waits), gpu.waits


def test_copies_to_the_device() -> None:
    """Only pinned memory, copied as it is and in the background, is waited for by nobody."""
    with pretended_gpu() as gpu:
        x = torch.arange(6).view(2, 3)
        pinned = torch.empty(2, 3, dtype=torch.int64, pin_memory=True)
        assert pinned.is_pinned() and x.pin_memory().is_pinned() and not x.is_pinned()
        pinned.copy_(x)
        assert pinned.to("cuda", non_blocking=True).tolist() == x.tolist()
        assert torch.tensor([1, 2]).pin_memory().to("cuda", non_blocking=True).is_cuda
        assert torch.zeros(2, 3, dtype=torch.int64, device="cuda").copy_(pinned, True).is_cuda
        assert gpu.uploads.total() == 3 and gpu.waits.total() == 1  # of tolist
        pinned.to("cuda")
        x.to("cuda", non_blocking=True)
        pinned.to("cuda", torch.int32, non_blocking=True)
        pinned.T.to("cuda", non_blocking=True)
        assert gpu.uploads.total() == 3 and gpu.waits.total() == 5


def test_graph_replays_in_place() -> None:
    """Capturing leaves nothing behind; each replay computes from what the inputs hold then."""
    linear = nn.Linear(3, 3)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    with pretended_gpu() as gpu, torch.no_grad():
        to_gpu(linear)
        x, count = torch.ones(2, 3, device="cuda"), torch.zeros(2, dtype=torch.int64, device="cuda")
        seen = torch.zeros(2, 4, device="cuda")
        graph = torch.cuda.CUDAGraph()
        assert not torch.cuda.is_current_stream_capturing()
        with torch.cuda.graph(graph):
            assert torch.cuda.is_current_stream_capturing()
            out = F.scaled_dot_product_attention(*(linear(x)[None, None],) * 3)[0, 0].relu()
            seen.scatter_(1, count[:, None], out.sum(1, keepdim=True))
            count += 1
        assert to_host(out).isnan().all() and to_host(count).tolist() == [0, 0]
        totals = []
        for step in range(3):
            x.fill_(step)
            graph.replay()
            y = torch.full((2, 3), float(step)) @ weight.T + bias
            totals.append(y.relu().sum(1))
            torch.testing.assert_close(to_host(out), y.relu())
        assert to_host(count).tolist() == [3, 3]
        assert gpu.launches["CUDAGraph.replay"] == 3 and "sdpa" not in gpu.launches
        assert graph.launches["sdpa"] == 1
        torch.testing.assert_close(to_host(seen)[:, :3], torch.stack(totals, 1))
        gpu.reset()
        for operation in (
            lambda: int(count[0]),
            lambda: torch.tensor([1], device="cuda"),
            lambda: torch.ones(1).pin_memory().to("cuda", non_blocking=True),
        ):
            graph = torch.cuda.CUDAGraph()
            with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(graph):
                operation()


def test_modules_streams_and_generators() -> None:
    """Shared parameters stay shared; work on a side stream and draws run."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    with pretended_gpu() as gpu:
        to_gpu(model)
        assert model[2].weight is model[0].weight and model[1].running_mean.is_cuda
        assert nn.Linear(2, 2).to("cuda")(torch.ones(1, 2, device="cuda")).is_cuda
        gpu.reset()  # of the copies of module.to
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            assert torch.cuda.current_stream() is side
            x = torch.rand(4, 2, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
        x.record_stream(side)
        torch.cuda.current_stream().wait_event(side.record_event())
        model(x).sum().backward()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, device="cuda", generator=torch.Generator())
    assert gpu.waits.total() == 0 and model[0].weight.grad is not None
    with pytest.raises(RuntimeError, match="outside pretended_gpu"):
        x + 1
    assert torch.accelerator.current_accelerator() is None
