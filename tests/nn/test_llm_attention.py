"""The language model's masks as a union of parts, and over a cache, against the rule as a mask."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from olmo.nn import attention_parts, image_vit, llm_mask
from olmo.nn.attention import SPLIT, token_attention
from olmo.nn.image_vit import VitConfig
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm_mask import BidirectionalMode, FilledMask, RowMask, TokenMask
from olmo.tokenizer import special_token_ids
from olmo.types import SHARED_SUBSEGMENT, SUBSEGMENTS_PER_EXAMPLE
from tests.pretended_gpu import pretended_gpu, to_gpu

IDS = special_token_ids(50)
CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH = 4, 2, 16


@pytest.fixture(autouse=True)
def parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_mask, "PARTS_FROM", 0)


def example(draw: random.Random, number: int) -> tuple[list[int], list[int]]:
    """Ids and segments: frames with time stamps, then a question or several branches."""
    ids: list[int] = []
    for _ in range(draw.randrange(4)):
        cells = [IDS["<im_patch>"]] * draw.randrange(5)
        ids += [1] * draw.randrange(3) + [IDS["<frame_start>"], *cells, IDS["<frame_end>"]]
    ids += [2] * draw.randrange(1, 6)
    n_branches = draw.randrange(4)
    segments = [SHARED_SUBSEGMENT if n_branches else 0] * len(ids)
    for branch in range(n_branches):
        length = draw.randrange(1, 5)
        ids += [3] * length
        segments += [branch] * length
    return ids, [number * SUBSEGMENTS_PER_EXAMPLE + s for s in segments]


def batch(seed: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Packed rows, padded on the right, some also on the left or with a hole."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n_rows):
        ids, segments = [-1] * draw.choice([0, 0, 3]), [-1] * 0
        segments = [-1] * len(ids)
        for number in range(draw.randrange(1, 4)):
            more_ids, more_segments = example(draw, number)
            ids, segments = ids + more_ids, segments + more_segments
        if draw.random() < 0.3:
            ids[draw.randrange(len(ids))] = -1
        rows.append((ids, segments))
    size = max(len(ids) for ids, _ in rows) + draw.randrange(3)
    padded = [[x + [-1] * (size - len(x)) for x in row] for row in rows]
    ids, segments = (torch.tensor(x) for x in zip(*padded, strict=True))
    return ids, segments


def heads(size: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    counts = (HEADS, KV_HEADS, KV_HEADS)
    return [torch.randn(*size, n, WIDTH, dtype=dtype).requires_grad_() for n in counts]


@pytest.mark.parametrize(
    ("dtype", "bound"),
    # measured, the larger of forward and backward: 4e-16, 2.7e-7, 4.7e-3
    [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 3e-2)],
)
@pytest.mark.parametrize("mode", [None, "image_tokens", "within_image"])
def test_parts_are_the_rule(
    mode: BidirectionalMode | None, dtype: torch.dtype, bound: float
) -> None:
    """Forward and backward, relative to the norm; against the mask in float64. Padding is left out:
    nothing reads it."""
    n_parts = set()
    for seed in range(20):
        ids, segments = batch(seed, n_rows=3)
        rule = TokenMask.build(ids, IDS, mode, segments)
        parts = rule.parts(CPU)
        assert parts is not None
        n_parts.add(len(parts))
        given = heads((len(ids), ids.shape[1]), dtype)
        exact = [x.detach().double().requires_grad_() for x in given]
        weight = torch.randn(1, WIDTH).double() * (ids >= 0)[..., None, None]
        out = RowMask(rule, CPU).attend(*given)
        want = RowMask(rule, CPU).dense.attend(*exact)
        (out * weight.to(dtype)).sum().backward()
        (want * weight).sum().backward()
        assert error(out * (ids >= 0)[..., None, None], want * (ids >= 0)[..., None, None]) < bound
        for a, b in zip(given, exact, strict=True):
            assert error(a.grad, b.grad) < bound
    assert max(n_parts) == (2 if mode is None else 3)


def error(x: Tensor | None, y: Tensor | None) -> float:
    assert x is not None and y is not None
    x, y = x.detach().double(), y.detach().double()
    return float((x - y).norm() / y.norm())


def test_what_parts_do_not_cover_is_masked() -> None:
    """Visual tokens in two branches of one example: earlier branches would see later ones."""
    ids = torch.tensor([[1, IDS["<im_patch>"], 2, IDS["<im_patch>"]]])
    rule = TokenMask.build(ids, IDS, "image_tokens", torch.tensor([[SHARED_SUBSEGMENT, 0, 1, 1]]))
    assert rule.parts(CPU) is None
    given = [x.detach() for x in heads((1, 4), torch.float32)]
    mask = RowMask(rule, CPU)
    assert torch.equal(mask.attend(*given), mask.dense.attend(*given))


def test_a_row_full_of_holes_is_masked() -> None:
    """Its parts would repeat the keys before each hole."""
    ids = torch.arange(400)[None] % 7
    ids[0, 1::2] = -1
    rule = TokenMask.build(ids, IDS, "image_tokens", torch.zeros_like(ids))
    assert rule.parts(CPU) is None
    ids[0, :350] = 5
    assert TokenMask.build(ids, IDS, "image_tokens", torch.zeros_like(ids)).parts(CPU) is None
    ids[0, :397] = 5
    assert TokenMask.build(ids, IDS, "image_tokens", torch.zeros_like(ids)).parts(CPU) is not None


def test_packed_examples_do_not_see_each_other() -> None:
    ids, segments = batch(1, n_rows=1)
    assert len(segments.unique()) > 2
    mask = RowMask(TokenMask.build(ids, IDS, "image_tokens", segments), CPU)
    given = [x.detach() for x in heads((1, ids.shape[1]), torch.float32)]
    before = mask.attend(*given)
    last = segments[0] // SUBSEGMENTS_PER_EXAMPLE == segments.max() // SUBSEGMENTS_PER_EXAMPLE
    for x in given:
        x[:, last] += 1
    changed = (mask.attend(*given) != before).flatten(2).any(-1)[0]
    assert torch.equal(changed, last)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that comes into being."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.size = max(self.size, x.numel())
        return out


def test_memory_is_linear() -> None:
    frame = [1, IDS["<frame_start>"], *[IDS["<im_patch>"]] * 20, IDS["<frame_end>"]]
    ids = torch.tensor([frame * 100])
    given = heads((1, ids.shape[1]), torch.float32)
    with Largest() as largest:
        mask = RowMask(TokenMask.build(ids, IDS, "image_tokens"), CPU)
        mask.attend(*given).sum().backward()
    assert 0 < largest.size <= given[0].numel()


@pytest.mark.parametrize("lengths", [[5, 5], [7, 3]])
def test_a_cache_gives_what_the_whole_rows_give(lengths: list[int]) -> None:
    """A prompt padded on the right, then tokens one by one, against the mask over all of them."""
    size, n_new = max(lengths), 4
    total = [n + n_new for n in lengths]
    q, k, v = (x.detach() for x in heads((2, max(total)), torch.float32))
    cache = KVCache(room=n_new)
    valid = torch.arange(size) < torch.tensor(lengths)[:, None]
    prompt = [x[:, :size].clone() for x in (k, v)]
    for x in prompt:
        x[~valid] = 1e3  # padding counts nothing
    cache.append(0, *prompt)
    cache.start(torch.tensor(lengths))
    causal = torch.ones(max(total), max(total), dtype=torch.bool).tril()
    want = llm_mask.DenseMask(causal[None, None]).attend(q, k, v)
    address = cache.layers[0][0].data_ptr()
    for i in range(n_new):
        at = torch.tensor(lengths)[:, None] + i
        row = torch.arange(2)[:, None]
        keys = cache.append(0, k[row, at], v[row, at])
        out = cache.mask().attend(q[row, at], *keys)
        cache.advance()
        torch.testing.assert_close(out, want[row, at])
    assert cache.layers[0][0].data_ptr() == address
    assert cache.layers[0][0].shape == (2, KV_HEADS, SPLIT, WIDTH)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_on_a_gpu(dtype: torch.dtype) -> None:
    """Rows of 1, of a whole piece and of several, over a buffer whose rest is empty."""
    lengths = torch.tensor([1, SPLIT, 2 * SPLIT + 3])
    q = torch.randn(3, 1, 8, 64, dtype=dtype)
    k, v = torch.randn(2, 3, 2, 4 * SPLIT, 64, dtype=dtype).transpose(2, 3)
    want = FilledMask(lengths, None).attend(q.double(), k.double(), v.double())
    got = FilledMask(lengths.cuda(), None).attend(*(x.cuda() for x in (q, k, v)))
    assert error(got.cpu(), want) < (2e-2 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["flash", "cudnn"])
@pytest.mark.parametrize("mode", [None, "image_tokens", "within_image"])
def test_parts_on_a_gpu(
    mode: BidirectionalMode | None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "cudnn" and not attention_parts.has_cudnn(torch.device("cuda"), WIDTH):
        pytest.skip("cuDNN's attention is not used on this GPU")
    monkeypatch.setattr(attention_parts, "CUDNN_FROM", 1 if kernel == "cudnn" else 10**9)
    check_parts_on_gpu(mode)


def test_segments_are_filled_up_for_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_parts, "CUDNN_FROM", 1)
    monkeypatch.setattr(attention_parts, "has_cudnn", lambda *_: True)
    with pretended_gpu() as gpu:
        check_parts_on_gpu("image_tokens", n_seeds=1)
    calls = "_scaled_dot_product_cudnn_attention"
    assert gpu.launches[calls] == gpu.launches[f"{calls}_backward"] > 0


def test_only_pooling_has_window_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code knows the number of keys: over a cache, which grows, there would be no end of it."""
    kernels: list[str] = []

    def window(q: Tensor, *others: Tensor) -> Tensor:
        kernels.append("window")
        return q

    monkeypatch.setattr(image_vit, "window_attention", window)
    pooling = image_vit.ViTAttention(VitConfig((28, 28), 14, 16, 2, 2, 1, 8, 32, 4))
    with pretended_gpu() as gpu:
        x = torch.randn(3, 9, 16).to("cuda")
        to_gpu(pooling)(x[:, :1], x, mask=torch.ones(3, 1, 9, dtype=torch.bool).to("cuda"))
        assert kernels == ["window"] and not gpu.sdpa_calls
        q, k = torch.randn(2, 4, 8).to("cuda"), torch.randn(2, 4, 20, 8).to("cuda")
        token_attention(q, k, k, torch.ones(2, 1, 1, 20, dtype=torch.bool).to("cuda"))
    assert kernels == ["window"] and len(gpu.sdpa_calls) == 1


def check_parts_on_gpu(mode: BidirectionalMode | None, n_seeds: int = 5) -> None:
    """In bfloat16 against the mask in float64, forward and backward."""
    for seed in range(n_seeds):
        ids, segments = batch(seed, n_rows=3)
        rule = TokenMask.build(ids, IDS, mode, segments)
        given = heads((len(ids), ids.shape[1]), torch.bfloat16)
        exact = [x.detach().double().requires_grad_() for x in given]
        on_gpu = [x.detach().to("cuda").requires_grad_() for x in given]
        weight = (ids >= 0)[..., None, None]
        out = RowMask(rule, torch.device("cuda")).attend(*on_gpu)
        want = RowMask(rule, CPU).dense.attend(*exact)
        (out * weight.to("cuda")).sum().backward()
        (want * weight).sum().backward()
        assert error(out.detach().cpu() * weight, want * weight) < 3e-2
        for a, b in zip(on_gpu, exact, strict=True):
            assert a.grad is not None and b.grad is not None
            assert error(a.grad.cpu(), b.grad) < 3e-2
