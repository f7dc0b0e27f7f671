"""Chunked loss, what a step reports, FLOPs and memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from olmo.config import merge
from olmo.model_configs import preset_model_config
from olmo.nn.attention import force_masks
from olmo.train.config import TrainConfig
from olmo.train.dry_run import full_row
from olmo.train.loss import ChunkedLoss, TokenLoss, token_loss
from olmo.train.memory import GIB, most_rows
from olmo.train.metrics import KEPT_HISTOGRAM
from olmo.train.optim import freeze
from tests.models.conftest import CELLS
from tests.train.rows import (
    make_trainer,
    micro_batch,
    train_config,
    upstream_trainer,
    write_start,
)
from tests.train.state import take_step


class LargestTensor(TorchDispatchMode):
    """Entries of the largest floating-point result of any operation."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.largest = max([self.largest, *sizes])
        return out


@pytest.mark.parametrize("n", [0, 1, 7, 32])
def test_chunked_loss_equals_the_whole(n: int) -> None:
    weight = torch.randn(50, 8, requires_grad=True)
    states = torch.randn(n, 8, requires_grad=True)
    labels, weights = torch.randint(50, (n,)), torch.rand(n)
    whole = token_loss(states @ weight.T, labels, weights, 0.1)
    parts = TokenLoss(*ChunkedLoss(labels, weights, 0.1, chunk=5)(states, weight))
    gradients = []
    for loss in (whole, parts):
        total = loss.cross_entropy + loss.z_loss
        gradients.append(torch.autograd.grad(total, (weight, states)))
    torch.testing.assert_close(vars(parts), vars(whole))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_all_logits_are_never_in_memory() -> None:
    n, vocabulary, chunk = 256, 1000, 16
    weight = torch.randn(vocabulary, 4, requires_grad=True)
    states = torch.randn(n, 4, requires_grad=True)
    loss = ChunkedLoss(torch.randint(vocabulary, (n,)), torch.rand(n), 1e-4, chunk)
    with LargestTensor() as seen:
        TokenLoss(*loss(states, weight)).cross_entropy.backward()
    assert seen.largest == chunk * vocabulary


def test_labels_must_match_the_tokens_left() -> None:
    loss = ChunkedLoss(torch.zeros(3, dtype=torch.int64), torch.ones(3), 0.0)
    with pytest.raises(ValueError, match="3 labels with a loss, but 2"):
        loss(torch.zeros(2, 4), torch.zeros(5, 4))


def test_pruning_figures(tmp_path: Path) -> None:
    """Three videos of 3, 5 and 2 frames; half of all cells leave, the first frames stay whole."""
    write_start("stts", tmp_path)
    trainer = make_trainer(train_config("stts", tmp_path / "run"), tmp_path)
    metrics = take_step(trainer, [[[0], [1]], [[2], [3, 4]]])
    histogram = trainer.histograms[KEPT_HISTOGRAM]
    kept = sum(k * n for k, n in enumerate(histogram))
    removed = sum(int(CELLS * 0.5 * n) for n in (3, 5, 2))
    assert sum(histogram) == 10 and len(histogram) == CELLS + 1 and histogram[CELLS] >= 3
    assert kept == 10 * CELLS - removed
    assert metrics["stts/pruned_fraction"] == pytest.approx(removed / (10 * CELLS))
    assert metrics["stts/kept_tokens_per_frame"] == pytest.approx(kept / 10)
    assert metrics["stts/prunable_videos"] == 3
    assert metrics["batch/frames"] == metrics["stts/vit_rows_before"] == 12
    assert metrics["stts/vit_rows"] == pytest.approx(12 - removed / CELLS)
    trainer.optimizer.zero_grad()
    scores, change, n_terms = [], 0.0, 0
    for i in (0, 3, 4):
        vision = trainer.forward(micro_batch([[i]]).tensors).vision
        assert vision is not None and vision.scores is not None
        scores.append(vision.scores[1:].detach().flatten())
        assert vision.change is not None
        change, n_terms = change + float(vision.change), n_terms + vision.aux_count
    assert metrics["stts/change_mean"] == pytest.approx(change / n_terms, rel=1e-2)
    assert 0 < metrics["stts/score_std"] < 1
    # the weights have moved by one step of 1e-5 and 1e-4 since
    assert metrics["stts/score_mean"] == pytest.approx(float(torch.cat(scores).mean()), abs=2e-2)


def test_bf16_autocast_is_near_float32(tmp_path: Path) -> None:
    """Measured: losses differ by 0.33%."""
    write_start("stts", tmp_path)
    losses = []
    for precision in ("fp32", "amp_bf16"):
        config = train_config("stts", tmp_path / "run", precision=precision)
        metrics = take_step(make_trainer(config, tmp_path), [[[0], [1]], [[2], [3, 4]]])
        losses.append(metrics["train/loss"])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("kind", ["dense", "stts"])
def test_flops_of_a_batch(kind: str, tmp_path: Path) -> None:
    """Three times what torch counts in a forward pass over rows without padding.

    The formula spreads the survivors evenly over the frames: 3.5% less attention here.
    """
    write_start(kind, tmp_path)
    trainer = make_trainer(train_config(kind, tmp_path / "run"), tmp_path)
    batch = micro_batch([[0]]).tensors
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH), force_masks():
        trainer.forward(batch)
    assert trainer.count_flops(batch) / 3 == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_upstream_checkpoint_starts_a_run_with_pruning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the scorer is new, and the log says so."""
    trainer = upstream_trainer(tmp_path)
    n_new = sum(".temporal_token_scorer." in name for name in trainer.model.state_dict())
    assert n_new and f"no token scorer: initialised {n_new} tensors" in caplog.text


def test_rows_that_fit_are_those_of_the_docs() -> None:
    table = Path(__file__).parents[2].joinpath("docs/performance.md").read_text()
    lines = re.findall(r"^\| (\d+) \| (dense|0\.5) \| ([\d |]+) \|$", table, re.M)
    assert len(lines) == 6
    for frames, topk, rows in lines:
        prune = {"prune": False} if topk == "dense" else {"topk": float(topk)}
        changes: dict[str, Any] = {
            "model_name": "temporal_video_olmo",
            "vision_backbone": {"vit": prune},
            "mm_preprocessor": {"video": {"max_frames": int(frames)}},
        }
        data = {"model": merge(preset_model_config("qwen3_4b_instruct"), changes)}
        config = TrainConfig.from_dict(data)
        model = config.model.build("meta")
        freeze(model, config.frozen)
        row = full_row(config)[1]
        fits = [
            most_rows(config, model, row, n_gpus, available * GIB)
            for n_gpus in (1, 8)
            for available in (72, 133)
        ]
        assert fits == [int(n) for n in rows.split(" | ")], (frames, topk)
