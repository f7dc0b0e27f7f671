"""Low-rank adapters: what trains, checkpoints, resuming, and merging when a checkpoint is read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from olmo.command_line import RunError
from olmo.models.loading import CheckpointError, load_model
from olmo.models.weight_files import open_weights
from olmo.train.checkpoint import load_checkpoint
from olmo.train.config import TrainConfig
from olmo.train.optim import group_of, named_groups
from olmo.train.trainer import Trainer
from scripts.export_unsharded import export
from tests.train.rows import INPUTS, LORA, make_trainer, micro_batch, train_config, write_start
from tests.train.state import snapshot, take_step

pytest.importorskip("peft")

ROWS = [[[0], [1]], [[3, 4]]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("stts", folder)
    return folder


def trainer_of(start: Path, folder: Path, **changes: object) -> Trainer:
    return make_trainer(train_config("stts", folder, **{**LORA, **changes}), start)


@pytest.fixture(scope="module")
def trained(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """A trainer after three steps, and the checkpoint of the third."""
    trainer = trainer_of(start, tmp_path_factory.mktemp("run"))
    for _ in range(3):
        take_step(trainer, ROWS)
    folder = trainer.checkpoints.save(trainer.model, trainer.optimizer, trainer.state)
    trainer.checkpoints.wait()
    return trainer, folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    batch = micro_batch([[0], [3, 4]]).tensors
    with torch.no_grad():
        return model.eval()(**{k: batch[k] for k in INPUTS}).logits


@pytest.mark.parametrize("targets", ["llm", "vit"])
def test_adapters_change_nothing_at_first_and_train_in_place_of_their_group(
    start: Path, tmp_path: Path, targets: str
) -> None:
    trainer = trainer_of(start, tmp_path, lora={"rank": 4, "targets": targets})
    torch.testing.assert_close(logits(trainer.model), logits(load_model(start)[0]), rtol=0, atol=0)
    trains = {name for names in named_groups(trainer.model).values() for name in names}
    for key, param in trainer.model.named_parameters():
        name = key.replace("_checkpoint_wrapped_module.", "")
        adapter = ".lora_" in name
        assert adapter <= (group_of(name) == targets)
        assert param.requires_grad == (name in trains) == (adapter or group_of(name) != targets)
    before = snapshot(trainer)
    trainer.model.train()
    for _ in range(2):  # a first step leaves A as it is: its gradient is zero while B is
        take_step(trainer, ROWS)
    after = snapshot(trainer)
    for name in before:
        if name.startswith("model."):
            moved = not torch.equal(before[name], after[name])
            assert moved <= (name.removeprefix("model.") in trains), name
            assert moved or ".lora_" not in name, name


def test_a_checkpoint_is_read_merged_and_exported(
    trained: tuple[Trainer, Path], start: Path, tmp_path: Path
) -> None:
    trainer, folder = trained
    expected, model = logits(trainer.model), load_model(folder)[0]
    assert not torch.allclose(expected, logits(load_model(start)[0]), atol=1e-2)
    assert model.state_dict().keys() == load_model(start)[0].state_dict().keys()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)  # measured: 8e-6
    exported = export(folder, tmp_path, torch.float32)
    torch.testing.assert_close(logits(load_model(exported)[0]), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_a_resumed_run_goes_on_exactly(start: Path, tmp_path: Path, dropout: float) -> None:
    """Also with dropout in blocks that are recomputed."""
    recomputed = {
        "llm": {"activation_checkpoint": "whole_layer"},
        "vision_backbone": {"vit": {"activation_checkpointing": True}},
    }
    changes = {"lora": {"rank": 4, "targets": "llm,vit", "dropout": dropout}, "model": recomputed}
    whole = trainer_of(start, tmp_path, **changes)
    take_step(whole, ROWS)
    whole.save()
    whole.checkpoints.wait()
    losses = [take_step(whole, ROWS)["train/loss"] for _ in range(2)]
    again = trainer_of(start, tmp_path / "other", **changes)
    again.state = load_checkpoint(tmp_path / "step1", again.model, again.optimizer)
    assert [take_step(again, ROWS)["train/loss"] for _ in range(2)] == losses
    found, expected = snapshot(again), snapshot(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_recomputed_blocks_drop_the_same_inputs(start: Path, tmp_path: Path) -> None:
    """The same gradients with and without recomputation, under dropout in the adapters alone."""
    found = []
    for mode in ("whole_layer", None):
        trainer = trainer_of(
            start,
            tmp_path,
            lora={"rank": 4, "dropout": 0.3},
            model={"llm": {"activation_checkpoint": mode}},
        )
        torch.manual_seed(1)
        found.append([take_step(trainer, ROWS)["optim/llm_grad_norm"] for _ in range(2)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_frozen_parameters_in_bf16(start: Path, tmp_path: Path) -> None:
    """Half the bytes, about the same losses, and a checkpoint of which the merged matrices are
    float32."""
    found = {}
    for held in ("fp32", "bf16"):
        changes = {"precision": "amp_bf16", "frozen_precision": held}
        trainer = trainer_of(start, tmp_path / held, **changes)
        found[held] = [take_step(trainer, ROWS)["train/loss"] for _ in range(3)]
    types = {p.requires_grad: p.dtype for p in trainer.model.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert found["bf16"] == pytest.approx(found["fp32"], rel=2e-2)  # measured: 0.2%
    trainer.save()
    trainer.checkpoints.wait()
    dtypes = open_weights(tmp_path / "bf16" / "step3").dtypes
    assert dtypes["transformer.blocks.0.ff_out.weight"] == torch.float32
    assert dtypes["transformer.ln_f.weight"] == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        expected, merged = logits(trainer.model), logits(load_model(tmp_path / "bf16")[0])
    assert (merged - expected).norm() < 0.05 * expected.norm()  # measured: 1.4%
    with pytest.raises(ValueError, match="needs precision=amp_bf16, not fp32"):
        trainer_of(start, tmp_path / "fp32", frozen_precision="bf16")


def damaged(trained: tuple[Trainer, Path], tmp_path: Path, text: str | None) -> Path:
    """The checkpoint with the text of its adapter settings replaced."""
    folder = shutil.copytree(trained[1], tmp_path / "step3")
    file = folder / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    at = lines.index("lora:\n")
    n = next(i for i, line in enumerate(lines[at + 1 :]) if not line.startswith(" "))
    file.write_text("".join([*lines[:at], text or "", *lines[at + 1 + n :]]))
    return folder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no 'lora' section, but the checkpoint has adapters"),
        ("lora: {rank: 8}\n", "do not fit rank 8"),
        ("lora: {rank: 4, targets: head}\n", "'head' is not one of llm, vit"),
        ("lora: {rank: 4, alpha: .inf}\n", "alpha"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    trained: tuple[Trainer, Path], tmp_path: Path, text: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        open_weights(damaged(trained, tmp_path, text))


def test_a_run_without_adapters_does_not_go_on_from_one_with_them(
    trained: tuple[Trainer, Path], start: Path, tmp_path: Path
) -> None:
    plain = trainer_of(start, tmp_path, lora=None)
    with pytest.raises(CheckpointError, match="missing keys"):
        load_checkpoint(trained[1], plain.model, plain.optimizer)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"targets": "llm,connector"}, "'connector' is not one of llm, vit"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"ranks": 8}, "ranks"),
    ],
)
def test_wrong_settings(lora: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainConfig.from_dict({"lora": lora})


def test_adapters_of_a_group_that_does_not_train() -> None:
    with pytest.raises(ValueError, match=r"lora\.targets has llm.*ft_llm is False"):
        TrainConfig.from_dict({"lora": {}, "ft_llm": False})


def test_without_peft_the_error_names_what_to_install(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RunError, match="pip install peft"):
        trainer_of(start, tmp_path)
