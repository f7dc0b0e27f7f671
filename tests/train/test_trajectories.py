"""Trainings of 20 steps against those of the published training code: losses, gradient norms and
rates of every step, parameter groups, and the weights at the end.

``tests/fixtures/trajectories`` holds what it gave for the models of ``molmo2_tiny``: float32, one
process, two micro-batches of two rows a step, five batches in turn.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from olmo.config import merge
from olmo.data.loader import MicroBatch
from olmo.train.config import TrainConfig
from olmo.train.optim import GROUPS, build_optimizer, decays, named_groups
from olmo.train.run import build_model
from olmo.train.state import TrainerState
from olmo.train.trainer import Trainer

FIXTURES = Path(__file__).parents[1] / "fixtures"
FAST = ("recipe", "decay")
"""The others are slow."""
LOSS, UNCLIPPED_LOSS, NORM, END, MOVED = 4e-6, 1e-5, 2e-4, 1e-6, 1e-4
"""Relative tolerances. Largest differences measured: loss 1.6e-6, without a clip 4.9e-6, gradient
norms 5.5e-5, norms of the weights at the end 3.1e-7, distances that they moved 4.3e-5."""
STEPS, BATCHES = 20, 5


@cache
def trajectories() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (FIXTURES / "trajectories" / "trajectories.json").read_text()
    )
    return found


def names() -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in trajectories()
    ]


def config_of(name: str, folder: Path) -> TrainConfig:
    settings = trajectories()[name]["settings"]
    model = settings.get("model", "molmo2_tiny")
    groups = ("llm", "connector", "vit")
    section = json.loads((FIXTURES / model / "config.json").read_text())["model"]
    eager = {"vision_backbone": {"compile_vit": None, "compile_connector": None}}
    return TrainConfig.from_dict(
        {
            "model": merge(section, eager),
            "save_folder": str(folder),
            "precision": "fp32",
            "ft_embedding": settings["ft_embedding"],
            "max_duration": settings["total"],
            "max_grad_norm": settings["clip"],
            "softmax_auxiliary_loss": settings["z"],
            "global_train_batch_size": 4,
            "device_train_microbatch_size": 2,
            "optimizer": {
                **{f"{g}_learning_rate": r for g, r in zip(groups, settings["lr"], strict=True)},
                **{f"{g}_weight_decay": settings["wd"] for g in groups},
            },
            "scheduler": {
                **{f"{g}_t_warmup": n for g, n in zip(groups, settings["warmup"], strict=True)},
                "warmup_min_lr": settings.get("min_lr", 0.0),
            },
        }
    )


def trainer_of(name: str, folder: Path) -> Trainer:
    config = config_of(name, folder)
    model = build_model(config, torch.device("cpu"))
    start = trajectories()[name]["settings"].get("model", "molmo2_tiny")
    model.load_state_dict(load_file(FIXTURES / start / "weights.safetensors"))
    optimizer = build_optimizer(model, config.optimizer)
    loader: DataLoader[MicroBatch] = DataLoader([], batch_size=None)  # type: ignore[arg-type]
    trainer = Trainer(config, model, optimizer, loader, torch.device("cpu"), TrainerState())
    trainer.model.train()
    return trainer


@cache
def batches() -> list[list[dict[str, torch.Tensor]]]:
    found = np.load(FIXTURES / "trajectories" / "batches.npz")
    out: list[list[dict[str, torch.Tensor]]] = [[{}, {}] for _ in range(BATCHES)]
    for key in found.files:
        step, half, field = key.split(".")
        out[int(step[4:])][int(half[2:])][field] = torch.from_numpy(found[key])
    return out


def micro_batches(step: int) -> list[MicroBatch]:
    return [MicroBatch(dict(half), {}, [], ["0", "1"]) for half in batches()[step % BATCHES]]


@pytest.mark.parametrize("name", names())
def test_every_step_is_that_of_the_reference(name: str, tmp_path: Path) -> None:
    expected, trainer = trajectories()[name], trainer_of(name, tmp_path)
    groups = [
        [g["group_name"], g["weight_decay"], len(g["params"]), sum(p.numel() for p in g["params"])]
        for g in trainer.optimizer.param_groups
    ]
    assert groups == expected["groups"]
    parameters = {
        n.replace("_checkpoint_wrapped_module.", ""): p for n, p in trainer.model.named_parameters()
    }
    frozen = [n for n, p in parameters.items() if not p.requires_grad]
    assert sorted(frozen) == sorted(expected["frozen"])
    start = {n: p.detach().clone() for n, p in parameters.items()}
    loss = LOSS if trainer.config.max_grad_norm else UNCLIPPED_LOSS
    for step in range(STEPS):
        found = trainer.step(iter(micro_batches(step)))
        want = expected["log"][step]
        assert found["train/loss"] == pytest.approx(want["loss"], rel=loss), step
        for group in GROUPS[:3]:
            assert found[f"optim/{group}_lr"] == pytest.approx(want[f"{group}_lr"], rel=1e-6)
            if (norm := want.get(f"{group}_grad_norm")) is not None:
                assert found[f"optim/{group}_grad_norm"] == pytest.approx(norm, rel=NORM), step
    for key, (total, norm, moved) in (expected["final"] or {}).items():
        if key.endswith("wk.bias"):
            continue  # without a gradient but rounding, which AdamW turns into noise
        now = parameters[key].detach()
        assert now.norm().item() == pytest.approx(norm, rel=END, abs=1e-7), key
        assert (now - start[key]).norm().item() == pytest.approx(moved, rel=MOVED, abs=1e-7), key
        assert now.sum().item() == pytest.approx(total, rel=1e-4, abs=1e-3), key


def test_the_same_parameters_decay(tmp_path: Path) -> None:
    groups = named_groups(trainer_of("decay", tmp_path).model)
    found = [n for params in groups.values() for n, p in params.items() if decays(n, p)]
    assert sorted(found) == sorted(trajectories()["decay"]["decayed"])
