"""A setting on a small sample against slow, obvious forms of the same: whole frames in which
removed patches are masked keys, and whole rows in which removed tokens are.

Legend: F frames, N patches, M cells, S tokens of a row.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from olmo.benchmark.checks import Bench, WorkMismatch, check_outcome, compare_values, demand
from olmo.benchmark.plan import Setting, Stage
from olmo.benchmark.work import Inputs, Outcome, run_stage, run_vit
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo
from olmo.nn.attention import force_masks
from olmo.nn.token_pruning import PRUNE_METHODS
from tests.benchmark.slow_forms import masked_llm, masked_vit, present_patches

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""Largest norm of a difference of values, relative to their norm. Measured on the CPU, ``small``:
3e-7 and 6e-3."""
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""The same for gradients. Measured: 7e-7 and 1.2e-2."""
ATTENTION_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""The same for the attention alone. Measured: 2e-7 and 4e-3."""


def same_work(model: TemporalVideoOlmo, setting: Setting, stage: Stage) -> None:
    """Check ``setting`` on a video of a few frames. Raises ``WorkMismatch``."""
    bench = Bench(model)
    model.train(stage.trains)
    demand((problem := bench.problem(setting, stage)) is None, problem or "")
    bench.prepare(setting, bench.sample, stage.trains)
    check_setting(bench.of(setting), bench.sample, setting, stage)
    bench.zero_grad()


def check_setting(model: TemporalVideoOlmo, sample: Inputs, setting: Setting, stage: Stage) -> None:
    """The same for a ``model`` under ``setting``."""
    removes = sample.n_kept(model.config, setting) < sample.token_pooling.shape[1]
    check_outcome(model, sample, setting, stage, fresh_run(model, sample, stage))
    if stage.trains:
        check_gradients(model, stage, removes and PRUNE_METHODS[setting.method].learned)
        model.zero_grad(set_to_none=True)
    if removes:
        if not setting.pooled:
            check_attention(model, sample)
            check_vit(model, sample, stage.trains)
        if stage.scope == "model":
            check_llm(model, sample)
    if stage.new_tokens:
        check_decode(model, sample, stage)


def fresh_run(model: TemporalVideoOlmo, sample: Inputs, stage: Stage) -> Outcome:
    model.zero_grad(set_to_none=True)
    return run_stage(model, sample, stage)


@torch.no_grad()
def check_decode(model: TemporalVideoOlmo, sample: Inputs, stage: Stage) -> None:
    """An answer and its score against one plain pass, without a cache, over prompt and answer:
    every token is the likeliest there."""
    out, weight = fresh_run(model, sample, stage), model.transformer.wte.embedding
    assert out.tokens is not None
    ids = torch.cat((sample.input_ids, out.tokens[:, :-1]), 1)
    wanted = torch.arange(ids.shape[1], device=ids.device) >= sample.input_ids.shape[1] - 1
    with autocast(weight):
        batch = sample.batch() | {"input_ids": ids, "response_mask": wanted.expand_as(ids)}
        logits = model(**batch).logits
    log_probs = logits.float().log_softmax(-1).view(*out.tokens.shape, -1)
    chosen = log_probs.gather(-1, out.tokens[..., None]).squeeze(-1)
    tolerance = TOLERANCE[weight.dtype]
    compare_values(out.values, chosen.sum(1), tolerance, "scores of the answer")
    compare_values(chosen, log_probs.amax(-1), tolerance, "log-probabilities of greedy tokens")


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
        demand(p.grad is not None and bool(p.grad.any()), "a gradient is missing")
    for name, p in model.named_parameters():
        finite = p.grad is None or bool(torch.isfinite(p.grad).all())
        demand(finite, f"the gradient of {name} is not finite")


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
            with torch.set_grad_enabled(backward), autocast(weight):
                if slow:
                    out = masked_vit(model, sample)
                else:
                    out = in_patch_order(run_vit(model, sample, Stage("vit", backward)))
            values.append(out.detach())
            if backward:
                gradients += torch.autograd.grad(out.float().square().mean(), weight)
    model.train(training)
    dtype = weight.dtype
    compare_values(values[0], values[1], TOLERANCE[dtype], "surviving features")
    if backward:
        what = "gradients of the patch embedding"
        compare_values(gradients[0], gradients[1], GRADIENT_TOLERANCE[dtype], what)


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
    with autocast(weight):
        slow = attention(x, mask=present_patches(vit, keep, grid)[:, None])
        fast = attention.forward_flat(layout.gather(x), layout)
        slow, fast = slow.flatten(0, 1)[survivors], fast[layout.slot[survivors]]
        compare_values(fast, slow, tolerance, "attention among the survivors")
        with force_masks():
            slow = attention(x, key_bias=bias)
        fast = attention.forward_flat(x, layout, bias)
        slow, fast = slow.flatten(0, 1)[survivors], fast[layout.slot[survivors]]
        compare_values(fast, slow, tolerance, "attention to whole frames under the score bias")


def in_patch_order(out: Outcome) -> Tensor:
    """Surviving features of ``run_vit``, frame by frame in raster order."""
    assert out.slot is not None, "nothing was removed from the sample"
    return out.values[out.slot[out.slot >= 0]]


@torch.no_grad()
def check_llm(model: TemporalVideoOlmo, sample: Inputs) -> None:
    """Last states of the shortened row against those of ``masked_llm``."""
    weight, training = model.transformer.wte.embedding, model.training
    model.eval()
    with autocast(weight):
        out = model(**sample.batch(), response_mask=sample.answer)
        if out.kept_tokens is None or out.vision is None:
            raise WorkMismatch("the row of the language model was not shortened")
        want = masked_llm(model, sample, out.kept_tokens, out.vision.features)
    model.train(training)
    got = out.hidden[out.valid]
    compare_values(got, want, TOLERANCE[weight.dtype], "states of the language model")


def autocast(weight: Tensor) -> contextlib.AbstractContextManager[None]:
    enabled = weight.dtype == torch.bfloat16
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=enabled)
