"""The attention entry points against softmax written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from olmo.nn.attention import (
    attention,
    force_masks,
    segment_attention,
)
from olmo.nn.token_layout import CellGrid, TokenLayout


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """[B, H, S, D]; ``bias`` is added to the logits."""
    q, k, v = q.double(), k.double(), v.double()
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    return logits.softmax(-1) @ v


def inputs(
    head_dim: int = 8, kv_heads: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(3, 2, 5, head_dim)
    k, v = torch.randn(2, 3, kv_heads, 6, head_dim)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def heads(x: Tensor) -> Tensor:
    """In place of a projection: the heads of [..., 2 * D] apart."""
    return x.unflatten(-1, (2, -1))


def log_scores(*shape: int) -> Tensor:
    """As the scorer gives them: between -2 and 0."""
    return -2 * torch.rand(*shape)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_attention(kv_heads: int) -> None:
    q, k, v = inputs(kv_heads=kv_heads)
    torch.testing.assert_close(attention(q, k, v), plain(q, k, v).float())


def test_mask_and_row_without_keys() -> None:
    q, k, v = (x.requires_grad_() for x in inputs())
    mask = torch.rand(3, 1, 5, 6) < 0.5
    mask[0, 0, 1] = False
    mask[..., 2:, 0] = True
    out = attention(q, k, v, mask=mask)
    assert not out[0, :, 1].any()
    some = mask.any(-1).expand(-1, 2, -1)
    want = plain(q, k, v, torch.where(mask, 0.0, -torch.inf))
    torch.testing.assert_close(out[some], want[some].float())
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("head_dim", [6, 8, 16, 72])
def test_key_bias_forms_agree(head_dim: int) -> None:
    """The appended head dimensions against an additive mask: values and all gradients."""
    results = []
    fixed = inputs(head_dim), log_scores(3, 6), torch.randn(3, 2, 5, head_dim)
    for masked in (False, True):
        q, k, v = (x.clone().requires_grad_() for x in fixed[0])
        bias = fixed[1].clone().requires_grad_()
        if masked:
            with force_masks():
                out = attention(q, k, v, key_bias=bias)
        else:
            out = attention(q, k, v, key_bias=bias)
        (out * fixed[2]).sum().backward()
        results.append([out.detach(), q.grad, k.grad, v.grad, bias.grad])
    assert results[0][0].shape == (3, 2, 5, head_dim)
    want = plain(*fixed[0], fixed[1][:, None, None].double())
    torch.testing.assert_close(results[0][0], want.float())
    for appended, masked_form in zip(*results, strict=True):
        assert appended.abs().max() > 0
        # measured 1e-6
        torch.testing.assert_close(appended, masked_form, atol=1e-5, rtol=1e-5)


def test_key_bias_keeps_its_precision_in_bfloat16() -> None:
    """High and low part together: with zero queries only the bias decides. The common shift by
    16, without effect on the weights, shows what is lost."""
    bias = log_scores(1, 64) - 16
    q = torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16)
    k = torch.zeros(1, 1, 64, 8, dtype=torch.bfloat16)
    v = torch.eye(64, dtype=torch.bfloat16)[None, None].split(8, -1)
    got = torch.cat([attention(q, k, x.contiguous(), key_bias=bias)[0, 0, 0] for x in v])
    # measured 5e-3, the rounding of the result; 5e-2 without the low part
    torch.testing.assert_close(got.float(), bias.softmax(-1)[0], atol=0, rtol=1e-2)


def test_key_bias_with_mask_is_refused() -> None:
    q, k, v = inputs()
    mask = torch.ones(3, 1, 5, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="key_bias and mask"):
        attention(q, k, v, mask=mask, key_bias=log_scores(3, 6))


def test_float32_attention_of_half_precision() -> None:
    q, k, v = inputs(dtype=torch.bfloat16)
    out = attention(q, k, v, float32=True)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attention(q.float(), k.float(), v.float()).bfloat16())


def test_segments_attend_to_themselves() -> None:
    """Against one frame at a time, values and gradients."""
    grid = CellGrid.build(4, 5, 2, torch.device("cpu"))
    keep = torch.rand(6, grid.n_cells) < 0.5
    keep[0], keep[1], keep[2, 0] = True, False, True
    layout = TokenLayout.ragged(keep, grid)
    frames = layout.source // 20
    first = [torch.randn(len(frames), 2, 8, requires_grad=True) for _ in "qkv"]
    second = [x.detach().clone().requires_grad_() for x in first]
    got = segment_attention(first[0], first[1], first[2], layout, project=heads)
    want = torch.zeros_like(got)
    for frame in frames.unique():
        rows = frames == frame
        q, k, v = (x[rows].transpose(0, 1)[None] for x in second)
        want = want.index_put((rows,), plain(q, k, v)[0].transpose(0, 1).float())
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(got)
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("packed", [False, True])
def test_segments_attend_to_their_frames(packed: bool) -> None:
    """Survivors ask all patches of their frame under a bias per patch: against one frame at a
    time with an additive mask, values and gradients."""
    grid = CellGrid.build(4, 5, 2, torch.device("cpu"))
    keep = torch.rand(6, grid.n_cells) < 0.5
    keep[0], keep[1], keep[2, 0] = True, False, True
    keep[4] = keep[3] = keep[5]  # equal counts side by side
    layout = (TokenLayout.packed if packed else TokenLayout.ragged)(keep, grid)
    q = torch.randn(len(layout.source), 2, 8, requires_grad=True)
    k, v = torch.randn(2, 6, 20, 2, 8).requires_grad_()
    bias = log_scores(6, 20).requires_grad_()
    got = segment_attention(q, k, v, layout, key_bias=bias, project=heads)
    got = got[layout.slot[layout.slot >= 0]]
    frame = (layout.slot >= 0).nonzero()[:, 0] // 20
    one_query = q[layout.slot[layout.slot >= 0]][:, :, None]
    keys, values = (x[frame].transpose(1, 2) for x in (k, v))
    want = plain(one_query, keys, values, bias[frame][:, None, None])[:, :, 0]
    torch.testing.assert_close(got, want.to(got.dtype))
    weight = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), (q, bias), retain_graph=True),
        torch.autograd.grad((want * weight).sum(), (q, bias)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_no_segments() -> None:
    grid = CellGrid.build(2, 2, 2, torch.device("cpu"))
    layout = TokenLayout.ragged(torch.zeros(2, 1, dtype=torch.bool), grid)
    empty = torch.zeros(0, 2, 8)
    assert segment_attention(empty, empty, empty, layout, project=heads).shape == (0, 2, 8)
