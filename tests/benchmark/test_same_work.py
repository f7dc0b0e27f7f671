"""Every setting does the work of the slow, obvious forms; what the checks accept and refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import olmo.nn.image_vit as image_vit
import olmo.nn.token_layout as token_layout
from olmo.benchmark.checks import Bench, WorkMismatch
from olmo.benchmark.plan import DENSE, LAYOUTS, METHODS, STAGES, STOCK, ModelSpec, Setting
from olmo.benchmark.stock import Stock
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.temporal_image_vit import TemporalVisionTransformer
from tests.benchmark.same_work import same_work

SPEC, RAGGED = ModelSpec("tiny"), Setting(0.5)


@pytest.fixture(scope="module")
def model() -> TemporalVideoOlmo:
    return SPEC.build()


QUICK = [(s, "scorer", x) for s in ("vit", "prefill", "train_backbone", "train") for x in LAYOUTS]
SETTINGS = {
    method: ("ragged",) if Setting(0.5, method).pooled else tuple(LAYOUTS) for method in METHODS
}
CASES = [
    (stage, method, layout)
    for stage in STAGES
    for method, layouts in SETTINGS.items()
    for layout in layouts
    if Setting(0.5, method).applies(STAGES[stage])
]
FLOAT, HALF = ("float32", 0.5), ("bfloat16", 0.8)


@pytest.mark.parametrize(
    ("stage", "method", "layout", "dtype", "topk"),
    [
        pytest.param(*case, *kind, marks=[] if quick else pytest.mark.slow)
        for kind in (FLOAT, HALF)
        for case in CASES
        for quick in (kind == FLOAT and case in QUICK,)
    ],
)
def test_sound_settings_pass(stage: str, method: str, layout: str, dtype: str, topk: float):
    model = ModelSpec("tiny", dtype=dtype).build()
    same_work(model, Setting(topk, method, layout), STAGES[stage])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("stage", "method", "layout", "dtype"),
    [
        *((*case, "float32") for case in QUICK),
        *((*case, "bfloat16") for case in CASES if STAGES[case[0]].scope == "model"),
    ],
)
def test_sound_settings_pass_on_a_gpu(stage: str, method: str, layout: str, dtype: str):
    model = ModelSpec("tiny", "cuda", dtype).build()
    for topk in (0.3, 0.8):
        same_work(model, Setting(topk, method, layout), STAGES[stage])


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["prefill", "train", "decode"])
def test_the_published_size_passes_on_a_gpu(stage: str):
    """Its sizes of heads have kernels of their own."""
    model = ModelSpec("molmo2_4b", "cuda", "bfloat16").build()
    for setting in (DENSE, Setting(0.5), Setting(0.8)):
        same_work(model, setting, STAGES[stage])


@pytest.mark.parametrize("setting", [DENSE, Setting(0.8, "evs"), Setting(0.0)])
def test_settings_without_a_pruned_vit_pass(model: TemporalVideoOlmo, setting: Setting):
    same_work(model, setting, STAGES["train"])


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [
        *((setting, "float32") for setting in (DENSE, RAGGED, Setting(0.5, "evs"))),
        (RAGGED, "bfloat16"),
        *(
            pytest.param(setting, "bfloat16", marks=pytest.mark.slow)
            for setting in (DENSE, Setting(0.5, "evs"))
        ),
    ],
)
def test_sound_answers_pass(setting: Setting, dtype: str):
    model = ModelSpec("tiny", dtype=dtype).build()
    same_work(model, setting, STAGES["decode"])


def test_recomputed_blocks_pass():
    """As in ``molmo2_4b``: the slow form is computed again in the backward pass, too."""
    vit = {"vit": {"activation_checkpointing": True}}
    overrides = {"vision_backbone": vit, "llm": {"activation_checkpoint": "whole_layer"}}
    model = ModelSpec("tiny", overrides=overrides).build()
    same_work(model, RAGGED, STAGES["train"])


def test_answers_of_another_model_are_refused(
    model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch
):
    generate = TemporalVideoOlmo.generate

    def wrong(self, batch, *args):
        """Forgets the first frame."""
        return generate(self, batch | {"images": batch["images"].roll(1, 1)}, *args)

    monkeypatch.setattr(TemporalVideoOlmo, "generate", wrong)
    with pytest.raises(WorkMismatch, match="scores of the answer differ"):
        same_work(model, DENSE, STAGES["decode"])


@pytest.mark.parametrize("stage", ["prefill", "train", "decode"])
def test_stock_transformers(stage: str):
    """Measured: logits equal, gradients 6e-7 apart; in bfloat16 9e-3 and 1.1e-2."""
    for dtype in ("float32", "bfloat16"):
        model = ModelSpec("tiny", dtype=dtype).build()
        bench = Bench(model, Stock(model))
        assert bench.problem(STOCK, STAGES[stage]) is None


@pytest.mark.parametrize(
    ("stage", "message"),
    [("prefill", "logits of transformers differ"), ("decode", "answers with other tokens")],
)
def test_other_weights_in_transformers_are_refused(
    model: TemporalVideoOlmo, stage: str, message: str
):
    stock = Stock(model)
    stock.model.lm_head.weight = torch.nn.Parameter(stock.model.lm_head.weight.flip(0))
    problem = Bench(model, stock).problem(STOCK, STAGES[stage])
    assert problem is not None and message in problem


def without_bias(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: original(*args, **{**kwargs, "key_bias": None})


def one_segment(original: Callable[..., Any]) -> Callable[..., Any]:
    """Survivors of all frames attend to each other."""

    def wrong(q, k, v, layout, **kwargs):
        if k.dim() == 3:
            layout = dataclasses.replace(layout, lengths=(len(q),), frames=(0,))
        return original(q, k, v, layout, **kwargs)

    return wrong


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("error", "message"),
    [(without_bias, "under the score bias differ"), (one_segment, "among the survivors differ")],
)
def test_wrong_attention_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Callable[..., Any], message: str, dtype: str
):
    model = ModelSpec("tiny", dtype=dtype).build()
    same_work(model, RAGGED, STAGES["vit"])
    monkeypatch.setattr(image_vit, "segment_attention", error(image_vit.segment_attention))
    with pytest.raises(WorkMismatch, match=message):
        same_work(model, RAGGED, STAGES["vit"])


def test_wrong_order_of_survivors_is_refused(
    model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch
):
    original = TemporalVisionTransformer.forward_pruned

    def wrong(*args):
        out = original(*args)
        return dataclasses.replace(out, features=out.features.roll(1, 0))

    monkeypatch.setattr(TemporalVisionTransformer, "forward_pruned", wrong)
    with pytest.raises(WorkMismatch, match="scorer ragged 0 does not give the dense"):
        same_work(model, RAGGED, STAGES["vit"])


def test_wrong_counts_are_refused(model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch):
    original = token_layout.n_removed_tokens
    monkeypatch.setattr(token_layout, "n_removed_tokens", lambda *args: max(original(*args) - 1, 0))
    with pytest.raises(WorkMismatch, match=r"kept cells per row \[28\], planned 27"):
        same_work(model, RAGGED, STAGES["prefill"])


def test_results_that_are_not_finite_are_refused():
    model = SPEC.build()
    with torch.no_grad():
        model.vision_backbone.image_projector.w2.weight[0, 0] = torch.inf
    with pytest.raises(WorkMismatch, match="the result is not finite"):
        same_work(model, DENSE, STAGES["backbone"])


def test_a_missing_gradient_is_refused(model: TemporalVideoOlmo, monkeypatch: pytest.MonkeyPatch):
    embed = TemporalVisionTransformer.embed
    monkeypatch.setattr(TemporalVisionTransformer, "embed", lambda *a: embed(*a).detach())
    with pytest.raises(WorkMismatch, match="a gradient is missing"):
        same_work(model, RAGGED, STAGES["train_backbone"])
