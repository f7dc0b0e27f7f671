"""Check that two runs did the same work; otherwise there is no speed-up to report.

``check_outcome`` looks at every run: kept counts as planned, whole first frames, finite values.
``Checker`` runs a setting on a small sample against slow, obvious forms of the same: whole
frames in which removed patches are masked keys, and whole rows in which removed tokens are.

Legend: F frames, N patches, M cells, S tokens of a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from olmo.benchmark.clock import Clock
from olmo.benchmark.inputs import DENSE, STOCK, Inputs, Setting
from olmo.benchmark.presets import STAGES, Stage
from olmo.benchmark.slow_forms import masked_llm, masked_vit, present_patches
from olmo.benchmark.stock import Bench, Stock
from olmo.benchmark.workload import Outcome, run_stage, run_vit
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.attention import force_masks
from olmo.nn.token_pruning import PRUNE_METHODS

SAMPLE_FRAMES = 6
"""Of the sample; more if some do not count for the budget. At topk 0.8 a part of one frame
survives beside the first."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""Largest norm of a difference of values, relative to their norm. Measured on the CPU, ``small``:
3e-7 and 6e-3."""
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""The same for gradients. Measured: 7e-7 and 1.2e-2."""
ATTENTION_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""The same for the attention alone. Measured: 2e-7 and 4e-3."""

Check = Callable[[TemporalVideoOlmo, Inputs, Setting, Stage], None]


class WorkMismatch(RuntimeError):
    """Two runs that are to be compared did not do the same work; the message says where."""


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise WorkMismatch(message)


def check_outcome(
    model: TemporalVideoOlmo, inputs: Inputs, setting: Setting, stage: Stage, out: Outcome
) -> None:
    """Check one run against the plan that follows from the number of frames alone.

    Raises ``WorkMismatch``.
    """
    n_cells = inputs.token_pooling.shape[1] // inputs.n_frames
    planned = inputs.n_kept(model.config, setting)
    if out.keep is not None:
        kept = out.keep.sum(1).tolist()
        _demand(kept == [planned] * inputs.n_rows, f"kept cells per row {kept}, planned {planned}")
        _demand(bool(out.keep[:, :n_cells].all()), "a first frame lost cells")
        if out.n_features is None:
            valid = (inputs.token_pooling[0, :n_cells] >= 0).sum(1)
            expected = int((out.keep.view(-1, n_cells) * valid).sum())
            found = len(out.values) if out.slot is None else int((out.slot >= 0).sum())
        else:
            expected, found = planned * inputs.n_rows, out.n_features
        _demand(found == expected, f"{found} feature rows, planned {expected}")
    if out.row_lengths is not None:
        wanted = [planned + inputs.n_text_tokens] * inputs.n_rows
        _demand(out.row_lengths == wanted, f"rows of {out.row_lengths} tokens, planned {wanted}")
    if out.tokens is not None:
        shape, wanted = list(out.tokens.shape), [inputs.n_rows, stage.new_tokens]
        _demand(shape == wanted, f"new tokens {shape}, planned {wanted}")
    _demand(bool(torch.isfinite(out.values).all()), "the result is not finite")
    if stage.trains:
        _demand(out.loss is not None and bool(torch.isfinite(out.loss)), "the loss is not finite")


def make_sample(model: TemporalVideoOlmo, seed: int = 0) -> Inputs:
    """One short video for ``Checker``."""
    n_frames = SAMPLE_FRAMES + model.config.budget.prune_from_frame
    return Inputs.make(model.config, n_frames, 1, seed, model.device)


class Checker:
    """Runs each check of a model once and keeps its verdict."""

    def __init__(self, model: TemporalVideoOlmo, seed: int = 0, stock: Stock | None = None):
        self.model, self.bench = model, Bench(model, stock)
        self.sample = make_sample(model, seed)
        self.verdicts: dict[tuple[Setting, str], str | None] = {}

    def problem(self, setting: Setting, stage: Stage) -> str | None:
        """Why times of this setting cannot be compared with those of others; None if they can."""
        if setting == STOCK:
            return self._verdict(setting, str(stage), stage, partial(check_stock, self.bench))
        nothing_removed = dataclasses.replace(setting, topk=None if setting == DENSE else 0.0)
        backbone = Stage("backbone", False)
        zero = self._verdict(nothing_removed, "topk 0", backbone, check_rows_of_dense)
        return zero or self._verdict(setting, str(stage), stage, check_setting)

    def _verdict(self, setting: Setting, name: str, stage: Stage, check: Check) -> str | None:
        if (setting, name) not in self.verdicts:
            self.model.train(stage.trains)
            try:
                check(self.model, self.sample, setting, stage)
            except WorkMismatch as e:
                self.verdicts[setting, name] = f"not the same work: {e}"
            else:
                self.verdicts[setting, name] = None
        return self.verdicts[setting, name]


def check_setting(model: TemporalVideoOlmo, sample: Inputs, setting: Setting, stage: Stage) -> None:
    """Check ``setting`` on a ``sample`` of a few frames. Raises ``WorkMismatch``."""
    model = setting.of(model)
    removes = sample.n_kept(model.config, setting) < sample.token_pooling.shape[1]
    check_outcome(model, sample, setting, stage, _run(model, sample, stage))
    if stage.trains:
        learned = removes and PRUNE_METHODS[setting.method].learned
        check_gradients(model, stage, learned)
        model.zero_grad(set_to_none=True)
    if removes:
        if PRUNE_METHODS[setting.method].pooled:
            check_rows_of_dense(model, sample, setting, Stage("backbone", False))
        else:
            check_attention(model, sample)
            check_vit(model, sample, stage.trains)
        if stage.scope == "model":
            check_llm(model, sample)
    if stage.new_tokens:
        check_decode(model, sample, stage)


def _run(model: TemporalVideoOlmo, sample: Inputs, stage: Stage) -> Outcome:
    model.zero_grad(set_to_none=True)
    return run_stage(model, sample, stage)


def check_rows_of_dense(
    model: TemporalVideoOlmo, sample: Inputs, setting: Setting, stage: Stage
) -> None:
    """Features are rows of the dense ones, bit for bit: of a ``setting`` that removes nothing, or
    that prunes pooled tokens."""
    dense = _run(DENSE.of(model), sample, stage).values
    out = _run(setting.of(model), sample, stage)
    assert out.keep is not None
    same = torch.equal(out.values, dense[out.keep.flatten()])
    _demand(same, f"{setting.label} does not give the dense features bit for bit")


def check_stock(
    bench: Bench, model: TemporalVideoOlmo, sample: Inputs, setting: Setting, stage: Stage
) -> None:
    """Stock ``transformers`` computes what our dense model does: logits, in training the gradient
    of the patch embedding, and in float32 the tokens of an answer."""
    assert bench.stock is not None
    values, gradients = [], []
    sides: dict[Setting, Any] = {DENSE: model.vision_backbone.image_vit, setting: bench.stock.vit}
    for side, vit in sides.items():
        bench.prepare(side, sample, stage.trains)
        out = bench.run(side, sample, stage, Clock(model.device))
        check_outcome(model, sample, side, stage, out)
        values.append(out.values if out.tokens is None else out.tokens)
        gradients.append(vit.patch_embedding.weight.grad)
    bench.zero_grad()
    dtype = bench.stock.model.dtype
    if stage.new_tokens:
        same = dtype != torch.float32 or torch.equal(values[0], values[1])
        _demand(same, "transformers answers with other tokens")
        check_stock(bench, model, sample, setting, STAGES["prefill"])
    else:
        _compare(values[1], values[0], GRADIENT_TOLERANCE[dtype], "logits of transformers")
    if stage.trains:
        what = "transformers' gradients of the patch embedding"
        _compare(gradients[1], gradients[0], GRADIENT_TOLERANCE[dtype], what)


@torch.no_grad()
def check_decode(model: TemporalVideoOlmo, sample: Inputs, stage: Stage) -> None:
    """An answer and its score against one plain pass, without a cache, over prompt and answer:
    every token is the likeliest there."""
    out, weight = _run(model, sample, stage), model.transformer.wte.embedding
    assert out.tokens is not None
    ids = torch.cat((sample.input_ids, out.tokens[:, :-1]), 1)
    wanted = torch.arange(ids.shape[1], device=ids.device) >= sample.input_ids.shape[1] - 1
    with _autocast(weight):
        batch = sample.batch() | {"input_ids": ids, "response_mask": wanted.expand_as(ids)}
        logits = model(**batch).logits
    log_probs = logits.float().log_softmax(-1).view(*out.tokens.shape, -1)
    chosen = log_probs.gather(-1, out.tokens[..., None]).squeeze(-1)
    tolerance = TOLERANCE[weight.dtype]
    _compare(out.values, chosen.sum(1), tolerance, "scores of the answer")
    _compare(chosen, log_probs.amax(-1), tolerance, "log-probabilities of greedy tokens")


def check_gradients(model: TemporalVideoOlmo, stage: Stage, learned: bool) -> None:
    """The backward pass went all the way back, also to a ``learned`` scorer, and its results are
    finite."""
    vit = model.vision_backbone.image_vit
    reached = [vit.patch_embedding.weight]
    if learned:
        assert vit.scorer is not None
        reached += list(vit.scorer.mlp.parameters())
    if stage.scope == "model":
        reached.append(model.transformer.wte.embedding)
    for p in reached:
        _demand(p.grad is not None and bool(p.grad.any()), "a gradient is missing")
    for name, p in model.named_parameters():
        finite = p.grad is None or bool(torch.isfinite(p.grad).all())
        _demand(finite, f"the gradient of {name} is not finite")


def check_vit(model: TemporalVideoOlmo, sample: Inputs, backward: bool) -> None:
    """Survivors, and their gradient on the first weights, against ``masked_vit``."""
    backbone = model.vision_backbone
    weight = backbone.image_vit.patch_embedding.weight
    training = model.training
    model.eval()  # without the auxiliary loss, which the slow form does not have
    values: list[Tensor] = []
    gradients: list[Tensor] = []
    for slow in (False, True):
        # masks are forced in the backward pass too, which may compute the forward pass again
        with force_masks() if slow else contextlib.nullcontext():
            with torch.set_grad_enabled(backward), _autocast(weight):
                if slow:
                    out = masked_vit(model, sample)
                else:
                    out = in_patch_order(run_vit(model, sample, Stage("vit", backward)))
            values.append(out.detach())
            if backward:
                gradients += torch.autograd.grad(out.float().square().mean(), weight)
    model.train(training)
    dtype = weight.dtype
    _compare(values[0], values[1], TOLERANCE[dtype], "surviving features")
    if backward:
        what = "gradients of the patch embedding"
        _compare(gradients[0], gradients[1], GRADIENT_TOLERANCE[dtype], what)


@torch.no_grad()
def check_attention(model: TemporalVideoOlmo, sample: Inputs) -> None:
    """Attention of the survivors, in block l+1 and behind it, on random input: without a residual
    stream that would hide an error under the rounding of half precision."""
    vit = model.vision_backbone.image_vit
    attention, weight = vit.blocks[-1].attention, vit.patch_embedding.weight
    grid = vit.grid(weight.device)
    generator = torch.Generator().manual_seed(0)
    shape = (sample.n_frames, grid.n_cells)
    keep = torch.rand(shape, generator=generator) < torch.rand(shape[0], 1, generator=generator)
    keep[0] = True
    x = torch.randn(shape[0], vit.config.n_patches, weight.shape[0], generator=generator)
    bias = -2 * torch.rand(x.shape[:2], generator=generator).to(weight.device)
    keep, x = keep.to(weight.device), x.to(weight)
    layout = vit.layout(keep, grid)
    survivors = layout.slot >= 0
    tolerance = ATTENTION_TOLERANCE[weight.dtype]
    with _autocast(weight):
        slow = attention(x, mask=present_patches(vit, keep, grid)[:, None])
        fast = attention.forward_flat(layout.gather(x), layout)
        slow, fast = slow.flatten(0, 1)[survivors], fast[layout.slot[survivors]]
        _compare(fast, slow, tolerance, "attention among the survivors")
        with force_masks():
            slow = attention(x, key_bias=bias)
        fast = attention.forward_flat(x, layout, bias)
        slow, fast = slow.flatten(0, 1)[survivors], fast[layout.slot[survivors]]
        _compare(fast, slow, tolerance, "attention to whole frames under the score bias")


def in_patch_order(out: Outcome) -> Tensor:
    """Surviving features of ``run_vit``, frame by frame in raster order."""
    assert out.slot is not None, "nothing was removed from the sample"
    return out.values[out.slot[out.slot >= 0]]


@torch.no_grad()
def check_llm(model: TemporalVideoOlmo, sample: Inputs) -> None:
    """Last states of the shortened row against those of ``masked_llm``."""
    weight, training = model.transformer.wte.embedding, model.training
    model.eval()
    with _autocast(weight):
        out = model(**sample.batch(), response_mask=sample.answer)
        if out.kept_tokens is None or out.vision is None:
            raise WorkMismatch("the row of the language model was not shortened")
        want = masked_llm(model, sample, out.kept_tokens, out.vision.features)
    model.train(training)
    got = out.hidden[out.valid]
    _compare(got, want, TOLERANCE[weight.dtype], "states of the language model")


def _autocast(weight: Tensor) -> contextlib.AbstractContextManager[None]:
    enabled = weight.dtype == torch.bfloat16
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=enabled)


def _compare(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    _demand(got.shape == want.shape, f"{what}: shapes {got.shape} and {want.shape}")
    error = float((got.float() - want.float()).norm() / want.float().norm())
    _demand(error <= tolerance, f"{what} differ from the slow form by {error:.1e}")
