"""Flex attention of the language model against the dense mask, on a GPU."""

from __future__ import annotations

import pytest
import torch

from olmo.config import ConfigError
from tests.models.conftest import PRUNING, build, collate, image_row, text_row, video_row

FLEX = {"llm": {"attention_type": "flex", "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}}
SDPA = {"llm": FLEX["llm"] | {"attention_type": "sdpa"}}


def test_cpu_uses_the_dense_mask() -> None:
    batch = collate(video_row(4, 0), text_row(9, 1), image_row(2))
    grads = []
    for change in (FLEX, SDPA):
        model = build(PRUNING, change)
        model(**batch).logits.square().mean().backward()
        grads.append(model.transformer.wte.embedding.grad)
    assert torch.equal(grads[0], grads[1])


def test_settings() -> None:
    assert build({"llm": {"attention_type": "flash"}}).config.llm.attention_type == "sdpa"
    with pytest.raises(ConfigError, match="attention_type: 'flx' is not one of 'sdpa', 'flex'"):
        build({"llm": {"attention_type": "flx"}})
    with pytest.raises(ConfigError, match="attention_dropout"):
        build(FLEX, {"llm": {"attention_dropout": 0.1}})


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["image_tokens", "within_image", None])
def test_gpu_gives_the_same(mode: str | None) -> None:
    batch = {
        k: v if k in ("num_images", "multimodal_type") else v.cuda()
        for k, v in collate(video_row(16, 0), text_row(9, 1), image_row(2)).items()
    }
    found = []
    for change in (FLEX, SDPA):
        model = build(PRUNING, change, {"bi_directional_attn": mode}).cuda()
        out = model(**batch)
        logits = out.logits[out.valid]
        logits.square().mean().backward()
        found.append((logits.detach(), model.transformer.wte.embedding.grad))
    for flex, dense in zip(*found, strict=True):
        torch.testing.assert_close(flex, dense, atol=1e-3, rtol=1e-2)
