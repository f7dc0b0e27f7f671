"""Forward, backward and generation in every type on every device, against float32 on the CPU.

The models are tiny and random, with large weights. Differences measured on the CPU stand beside the
tolerances; none was measured on a GPU yet.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from olmo.models.molmo2.molmo2 import Molmo2
from tests.models.conftest import (
    OLMO3,
    PRUNING,
    VOCAB,
    Row,
    build,
    collate,
    image_row,
    text_row,
    video_row,
)

MODELS: dict[str, tuple[dict[str, Any], ...]] = {
    "dense": (),
    "olmo3": ({"llm": OLMO3},),
    "scorer": (PRUNING,),
    "packed": (PRUNING, {"vision_backbone": {"vit": {"layout": "packed"}}}),
    "evs": (PRUNING, {"vision_backbone": {"vit": {"prune_method": "evs"}}}),
}
SETTINGS = [
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    pytest.param("cuda", torch.float32, marks=pytest.mark.gpu),
    pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
]
NEW = 4
sweep = pytest.mark.parametrize(("device", "dtype"), SETTINGS, ids=str)
every_model = pytest.mark.parametrize("name", MODELS)


def batch(device: str = "cpu") -> Row:
    rows = collate(video_row(3, 1), text_row(9, 2), image_row(3), video_row(5, 4))
    return {key: value.to(device) for key, value in rows.items()}


def moved(model: Molmo2, device: str, dtype: torch.dtype) -> Molmo2:
    return copy.deepcopy(model).to(device, dtype)


def error(actual: Tensor, expected: Tensor) -> float:
    """Size of the difference, as a share of the size of what is expected."""
    actual = actual.float().cpu()
    return float((actual - expected).norm().detach() / expected.norm())


def tolerance(device: str, dtype: torch.dtype) -> float:
    if dtype is torch.bfloat16:
        return 0.05  # measured 0.019
    return 1e-5 if device == "cpu" else 1e-3


@sweep
@every_model
def test_forward_and_backward(name: str, device: str, dtype: torch.dtype) -> None:
    """All parameters get a finite gradient of their own type and device. With pruning, rounding
    may turn a choice between near-equal cells, so only as many tokens must stay as in float32."""
    reference = build(*MODELS[name])
    model = moved(reference, device, dtype)
    out, want = model(**batch(device)), reference(**batch())
    assert out.logits.dtype == dtype and out.logits.device.type == device
    assert torch.equal(out.valid.cpu(), want.valid)
    if name in ("dense", "olmo3"):
        valid = want.valid
        assert error(out.logits[out.valid], want.logits[valid].detach()) <= tolerance(device, dtype)
    loss = out.logits[out.valid].float().square().mean()
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.dtype == dtype and parameter.grad.device.type == device, key


@sweep
@every_model
def test_generate(name: str, device: str, dtype: torch.dtype) -> None:
    """Rows of different lengths; the first token is one that the logits of a forward call best, up
    to the rounding of the type."""
    model = moved(build(*MODELS[name]), device, dtype)
    out = model.generate(batch(device), NEW, [VOCAB - 1])
    assert out.token_ids.shape == (4, NEW) and out.token_ids.device.type == device
    with torch.no_grad():
        forward = model(**batch(device))
    lengths = forward.valid.sum(1)
    assert out.n_prompt_tokens.tolist() == lengths.tolist()
    last = forward.logits.float()[torch.arange(4, device=device), lengths - 1]
    chosen = last.gather(1, out.token_ids[:, :1]).squeeze(1)
    spread = last.max(1).values - last.min(1).values
    slack = 1e-4 if dtype is torch.float32 else 0.05
    assert ((last.max(1).values - chosen) <= slack * spread).all()
    assert out.scores.isfinite().all()


def pixels(change: Callable[[Tensor], Tensor]) -> Row:
    given = batch()
    assert given["images"].dtype == torch.uint8
    return {**given, "images": change(given["images"])}


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.long(),
        lambda x: x.to(torch.int16),
        lambda x: x.float() / 127.5 - 1,
        lambda x: x.double() / 127.5 - 1,
    ],
)
def test_pixels_of_any_type_are_the_same_picture(change: Callable[[Tensor], Tensor]) -> None:
    model = build(PRUNING)
    out, want = model(**pixels(change)), model(**batch())
    torch.testing.assert_close(out.logits, want.logits, atol=1e-4, rtol=1e-4)  # measured 3e-6


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: x.float(), r"float32 pixels from .* expected -1 to 1; .* as uint8"),
        (lambda x: x.half(), r"float16 pixels from .* expected -1 to 1"),
        (lambda x: (x.float() / 127.5 - 1) * float("nan"), "pixels from nan to nan"),
        (lambda x: x.long() - 1, "int64 pixels from -1 to .* expected 0 to 255"),
        (lambda x: x.long() * 257, "expected 0 to 255"),
        (lambda x: x > 0, "torch.bool"),
    ],
)
def test_pixels_of_another_range_are_refused(
    change: Callable[[Tensor], Tensor], found: str
) -> None:
    with pytest.raises(ValueError, match=found):
        build(PRUNING)(**pixels(change))
