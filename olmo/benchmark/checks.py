"""The models of a measurement, and whether their runs did the same work; otherwise there is no
speed-up to report. Here is what needs no second form of what pruning computes: the tests compare
every setting with slow, obvious forms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from olmo.benchmark.clock import Clock
from olmo.benchmark.plan import DENSE, STAGES, STOCK, Setting, Stage
from olmo.benchmark.stock import Stock
from olmo.benchmark.work import Inputs, Outcome, run_stage
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmo

SAMPLE_FRAMES = 6
"""Of the sample; more if some do not count for the budget. At topk 0.8 a part of one frame
survives beside the first."""
STOCK_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest norm of a difference from transformers, relative to the norm. Measured on the CPU:
7e-7 and 1.2e-2."""


class WorkMismatch(RuntimeError):
    """Two runs that are to be compared did not do the same work; the message says where."""


def demand(condition: bool, message: str) -> None:
    """``WorkMismatch`` with this message if not."""
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
        demand(kept == [planned] * inputs.n_rows, f"kept cells per row {kept}, planned {planned}")
        demand(bool(out.keep[:, :n_cells].all()), "a first frame lost cells")
        if out.n_features is None:
            valid = (inputs.token_pooling[0, :n_cells] >= 0).sum(1)
            expected = int((out.keep.view(-1, n_cells) * valid).sum())
            found = len(out.values) if out.slot is None else int((out.slot >= 0).sum())
        else:
            expected, found = planned * inputs.n_rows, out.n_features
        demand(found == expected, f"{found} feature rows, planned {expected}")
    if out.row_lengths is not None:
        wanted = [planned + inputs.n_text_tokens] * inputs.n_rows
        demand(out.row_lengths == wanted, f"rows of {out.row_lengths} tokens, planned {wanted}")
    if out.tokens is not None:
        shape, wanted = list(out.tokens.shape), [inputs.n_rows, stage.new_tokens]
        demand(shape == wanted, f"new tokens {shape}, planned {wanted}")
    demand(bool(torch.isfinite(out.values).all()), "the result is not finite")
    if stage.trains:
        demand(out.loss is not None and bool(torch.isfinite(out.loss)), "the loss is not finite")


def compare_values(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    """``WorkMismatch`` if the norm of the difference is over ``tolerance`` of that of ``want``."""
    demand(got.shape == want.shape, f"{what}: shapes {got.shape} and {want.shape}")
    error = float((got.float() - want.float()).norm() / want.float().norm())
    demand(error <= tolerance, f"{what} differ by {error:.1e}")


def _verdict(check: Callable[[Any], None], what: Setting | Stage) -> str | None:
    try:
        check(what)
    except WorkMismatch as e:
        return f"not the same work: {e}"
    return None


class Bench:
    """Our model, and on request stock transformers: they run under every setting, and a check of a
    setting on a short video is made once."""

    def __init__(self, model: TemporalVideoOlmo, stock: Stock | None = None, seed: int = 0):
        self.model, self.stock = model, stock
        n_frames = SAMPLE_FRAMES + model.config.budget.prune_from_frame
        self.sample = Inputs.make(model.config, n_frames, 1, seed, model.device)
        self.of = functools.cache(lambda setting: setting.of(model))
        """Ours under a setting."""
        self._verdict = functools.cache(_verdict)

    def prepare(self, setting: Setting, inputs: Inputs, trains: bool) -> None:
        """Prepare a run of ``setting``; this is not timed."""
        self.of(setting).train(trains)
        if setting == STOCK and self.stock is not None:
            self.stock.model.train(trains)
            self.stock.prepare(inputs)
        self.zero_grad()

    def run(
        self, setting: Setting, inputs: Inputs, stage: Stage, clock: Clock | None = None
    ) -> Outcome:
        """One pass of a prepared ``setting``."""
        if setting != STOCK:
            return run_stage(self.of(setting), inputs, stage, clock)
        assert self.stock is not None
        return self.stock.run(inputs, stage, clock)

    def zero_grad(self) -> None:
        for model in (self.model, *([] if self.stock is None else [self.stock.model])):
            model.zero_grad(set_to_none=True)

    def problem(self, setting: Setting, stage: Stage) -> str | None:
        """Why times of this setting cannot be compared with those of others; None if they can."""
        if setting == DENSE:
            return None
        if setting == STOCK:
            return self._verdict(self.check_stock, stage)
        probe = setting if setting.pooled else replace(setting, topk=0.0)
        return self._verdict(self.check_rows_of_dense, probe)

    def check_rows_of_dense(self, setting: Setting) -> None:
        """Features are rows of the dense ones, bit for bit: of a ``setting`` that removes nothing,
        or that prunes pooled tokens."""
        outs = []
        for side in (DENSE, setting):
            self.prepare(side, self.sample, False)
            outs.append(self.run(side, self.sample, STAGES["backbone"]))
        dense, out = outs
        assert out.keep is not None
        same = torch.equal(out.values, dense.values[out.keep.flatten()])
        demand(same, f"{setting.label} does not give the dense features bit for bit")

    def check_stock(self, stage: Stage) -> None:
        """Stock ``transformers`` computes what our dense model does: logits, in training the
        gradient of the patch embedding, and in float32 the tokens of an answer."""
        assert self.stock is not None
        outs: list[Outcome] = []
        gradients: list[Any] = []
        for side, vit in ((DENSE, self.model.vision_backbone.image_vit), (STOCK, self.stock.vit)):
            self.prepare(side, self.sample, stage.trains)
            outs.append(self.run(side, self.sample, stage))
            check_outcome(self.model, self.sample, side, stage, outs[-1])
            gradients.append(vit.patch_embedding.weight.grad)
        self.zero_grad()
        ours, theirs = outs
        dtype = self.stock.model.dtype
        if ours.tokens is not None and theirs.tokens is not None:
            same = dtype != torch.float32 or torch.equal(ours.tokens, theirs.tokens)
            demand(same, "transformers answers with other tokens")
            self.check_stock(STAGES["prefill"])
        else:
            limit = STOCK_TOLERANCE[dtype]
            compare_values(theirs.values, ours.values, limit, "logits of transformers")
        if stage.trains:
            what = "transformers' gradients of the patch embedding"
            compare_values(gradients[1], gradients[0], STOCK_TOLERANCE[dtype], what)
