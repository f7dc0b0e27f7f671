"""The 8-bit optimizer: near the full one, and its state through a checkpoint exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from olmo.command_line import RunError
from olmo.train.checkpoint import Checkpointer, load_checkpoint
from olmo.train.optim import OptimizerConfig, build_optimizer
from olmo.train.state import TrainerState
from tests.train.rows import train_config


def pair(bits: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A layer whose weight has 8-bit averages and whose bias is too small for that."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    return layer, build_optimizer(layer, OptimizerConfig(llm_learning_rate=1e-2, bits=bits))


def losses(layer: nn.Module, optimizer: torch.optim.Optimizer, n: int = 3) -> list[float]:
    found, x = [], torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(n):
        loss = (layer(x) - x.flip(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_it_learns_and_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: after six steps the losses differ by 0.05%."""
    pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)  # the same in tens of seconds
    whole = pair(8)
    before = losses(*whole)
    checkpoints = Checkpointer(train_config("stts", tmp_path))
    checkpoints.save(*whole, TrainerState(step=3))
    checkpoints.wait()
    after = losses(*whole)
    assert [*before, *after] == pytest.approx(losses(*pair(32), n=6), rel=1e-2)
    again = pair(8)
    load_checkpoint(tmp_path / "step3", *again)
    assert again[1].state_dict()["state"][1]["exp_avg_codes"].dtype == torch.float16
    assert "exp_avg" in again[1].state_dict()["state"][0]
    assert losses(*again) == after
    load_checkpoint(tmp_path / "step3", *pair(32), reset=True)
    assert {type(group["lr"]) for group in again[1].param_groups} == {float}


def test_without_torchao_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(RunError, match="pip install torchao"):
        pair(8)


@pytest.mark.parametrize("bits", [4, 16])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        train_config("stts", Path("unused"), optimizer={"bits": bits})
