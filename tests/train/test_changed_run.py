"""A run that goes on under other settings: what trains, decay, duration, data, no optimizer."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from olmo.config import merge
from olmo.data.loader import LaneState
from olmo.train.config import TrainConfig
from olmo.train.optim import group_of
from olmo.train.resume import check_same_run, resume
from olmo.train.trainer import Trainer
from tests.train.rows import make_trainer, micro_batch, train_config, write_start
from tests.train.state import snapshot, take_step

ROWS = [[[0], [1]]]
IDENTITY = {"data": {"a": {"examples": 5, "rate": 1.0}}}
LANES: dict[int, LaneState] = {0: {"next_id": 9, "buffered": [4, 7]}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("stts", folder)
    return folder


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    rows = {"global_train_batch_size": 1, "device_train_microbatch_size": 1}
    return train_config("stts", folder, **merge({"max_duration": 4, **rows}, changes))


def begun(config: TrainConfig, start: Path, steps: int = 2) -> Trainer:
    trainer = make_trainer(config, start)
    for _ in range(steps):
        take_step(trainer, ROWS)
    trainer.state.identity, trainer.state.lanes = dict(IDENTITY), dict(LANES)
    trainer.save()
    trainer.checkpoints.wait()
    return trainer


@pytest.fixture(scope="module")
def plain(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    begun(config_of(folder), start)
    return folder


@pytest.fixture
def run(plain: Path, tmp_path: Path) -> Path:
    """A run of two steps without any changes."""
    return shutil.copytree(plain, tmp_path / "run")


def continued(config: TrainConfig, start: Path, identity: dict[str, Any] | None = None) -> Trainer:
    trainer = make_trainer(config, start)
    state = resume(config, identity or IDENTITY, trainer.model, trainer.optimizer)
    assert state is not None
    trainer.state = state
    return trainer


def states(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    """Optimizer state by name of the parameter."""
    names = {
        p: n.replace("_checkpoint_wrapped_module.", "") for n, p in trainer.model.named_parameters()
    }
    return {names[p]: values for p, values in trainer.optimizer.state.items()}


FREEZE = {"ft_vit": False, "ft_embedding": "lm_head"}
UNFREEZE = {"ft_vit": True, "ft_embedding": "all"}


def test_what_is_unfrozen_begins_with_a_fresh_state(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = states(begun(config_of(tmp_path, **FREEZE), start))
    trainer = continued(config_of(tmp_path, **UNFREEZE), start)
    after = states(trainer)
    new = after.keys() - before.keys()
    assert "transformer.wte.embedding" in new and {group_of(n) for n in new} == {"llm", "vit"}
    assert not any(value.any() for name in new for value in after[name].values())
    for name, values in before.items():
        assert all(torch.equal(after[name][key], value) for key, value in values.items())
    assert f"{len(new)} tensors of llm, vit trained without before: fresh optimizer" in caplog.text
    assert "ft_vit: False, now True" in caplog.text
    take_step(trainer, ROWS)
    assert states(trainer)["transformer.wte.embedding"]["step"] == 1


def test_what_is_frozen_loses_its_state(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = states(begun(config_of(tmp_path, **UNFREEZE), start))
    trainer = continued(config_of(tmp_path, **FREEZE), start)
    gone = before.keys() - states(trainer).keys()
    assert "transformer.wte.embedding" in gone
    assert f"{len(gone)} tensors of llm, vit no longer train: no optimizer state" in caplog.text
    take_step(trainer, ROWS)


@pytest.mark.parametrize(
    ("before", "after"),
    [(0.0, 0.1), *(pytest.param(0.1, after, marks=pytest.mark.slow) for after in (0.0, 0.2))],
)
def test_weight_decay_is_that_of_the_config(
    before: float, after: float, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = begun(config_of(tmp_path, optimizer={"llm_weight_decay": before}), start)
    settings = {"llm_weight_decay": after, "betas": [0.5, 0.6]}
    trainer = continued(config_of(tmp_path, optimizer=settings), start)
    groups = [g for g in trainer.optimizer.param_groups if g["group_name"] == "llm"]
    assert groups[0]["weight_decay"] == after and groups[0]["betas"] == (0.5, 0.6)
    one, other = snapshot(first), snapshot(trainer)
    assert one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
    assert f"optimizer.llm_weight_decay: {before}, now {after}" in caplog.text
    assert "optimizer.betas: " in caplog.text


def test_another_duration_is_said(start: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    continued(config_of(run, max_duration=8), start)
    assert "max_duration: 4, now 8" in caplog.text
    caplog.clear()
    assert continued(config_of(run, max_duration=1), start).state.step == 2  # nothing to do
    assert not caplog.text


OTHER = {"data": {"a": {"examples": 3, "rate": 1.0}}}


@pytest.mark.parametrize(
    ("changes", "identity", "waiting"),
    [
        ({"data": {"sequence_length": 64}}, IDENTITY, [4, 7]),
        ({}, OTHER, []),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ({}, IDENTITY, [4, 7]),
                ({"data": {"mixture": "synthetic_text_qa"}, "allow_changes": True}, OTHER, []),
                ({"data": {"seed": 3}, "allow_changes": True}, IDENTITY, []),
                ({"data": {"shuffle": False}}, IDENTITY, []),
            )
        ),
    ],
)
def test_numbers_of_other_examples_are_not_read(
    changes: dict[str, Any],
    identity: dict[str, Any],
    waiting: list[int],
    start: Path,
    run: Path,
) -> None:
    trainer = continued(config_of(run, **changes), start, identity)
    assert trainer.state.lanes == {0: {"next_id": 9, "buffered": waiting}}


RANK_4: dict[str, Any] = {"rank": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        (None, RANK_4, False),
        (RANK_4, None, False),
        (RANK_4, {"rank": 8}, False),
        (RANK_4, {"rank": 4, "targets": "llm,vit"}, False),
        (RANK_4, {"rank": 4, "alpha": 1.0}, True),
    ],
)
def test_weights_that_do_not_fit_are_no_damage(
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    fits: bool,
    start: Path,
    tmp_path: Path,
) -> None:
    """An undamaged checkpoint is neither passed over nor called damaged."""
    pytest.importorskip("peft")
    begun(config_of(tmp_path, lora=before), start)
    config = config_of(tmp_path, lora=after, allow_changes=True)
    if fits:
        assert continued(config, start).state.step == 2
        return
    with pytest.raises(ValueError, match=r"step2 does not fit .* another --save_folder") as error:
        continued(config, start)
    assert "Mend or remove" not in str(error.value)
    assert [path.name for path in tmp_path.glob("*step*")] == ["step2"]


def test_strength_given_or_left_to_the_rank_is_one_run(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("peft")
    begun(config_of(tmp_path, lora=RANK_4), start)
    continued(config_of(tmp_path, lora=RANK_4 | {"alpha": 8.0}), start)
    assert "lora.alpha" not in caplog.text
    with pytest.raises(ValueError, match=r"lora\.alpha: None, now 9\.0"):
        continued(config_of(tmp_path, lora=RANK_4 | {"alpha": 9.0}), start)


def test_a_last_checkpoint_without_optimizer(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"save_final_optim": False, "max_duration": 2}
    first = begun(config_of(tmp_path, **settings), start)
    entries = (tmp_path / "step2" / "model_and_optim" / ".metadata").read_bytes()
    assert b"optim." not in entries
    assert continued(config_of(tmp_path, **settings), start).state.step == 2  # finished
    with pytest.raises(ValueError, match=r"step2 holds no state .*--reset_optimizer_state"):
        continued(config_of(tmp_path, max_duration=4), start)
    caplog.set_level(logging.WARNING)
    trainer = continued(config_of(tmp_path, reset_optimizer_state=True), start)
    assert "begins afresh" in caplog.text
    weights = first.model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in trainer.model.state_dict().items())
    assert not any(v.any() for values in states(trainer).values() for v in values.values())


def test_the_optimizer_can_begin_afresh(start: Path, run: Path) -> None:
    trainer = continued(config_of(run, reset_optimizer_state=True), start)
    assert trainer.state.step == 2
    assert not any(v.any() for values in states(trainer).values() for v in values.values())


def test_another_optimizer_is_refused_before_anything_is_loaded(run: Path, start: Path) -> None:
    changed = config_of(run, optimizer={"bits": 8})
    with pytest.raises(ValueError, match=r"optimizer\.bits=32, not 8.*--reset_optimizer_state"):
        check_same_run(run / "step2", changed, IDENTITY)
    changed.reset_optimizer_state = True
    check_same_run(run / "step2", changed, IDENTITY)


def test_a_resumed_run_drops_out_the_same_units(tmp_path: Path, start: Path) -> None:
    """Through the whole loop: the iterator of a loader draws from the generator of dropout."""
    batches = [micro_batch([[i]]) for i in (0, 3, 4, 0)]

    def run(name: str, steps: slice, **changes: Any) -> dict[str, torch.Tensor]:
        dropout = {"llm": {"residual_dropout": 0.5}}
        config = config_of(tmp_path / name, model=dropout, save_final_optim=True, **changes)
        trainer = make_trainer(config, start)
        torch.manual_seed(1)
        if steps.start:
            state = resume(config, {"data": {}}, trainer.model, trainer.optimizer)
            assert state is not None
            trainer.state = state
        trainer.loader = DataLoader(batches[steps], batch_size=None)  # type: ignore[arg-type]
        trainer.fit()
        return snapshot(trainer)

    whole = run("whole", slice(0, 4))
    run("part", slice(0, 2), stop_at=2)
    found = run("part", slice(2, 4))
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
