"""Going on from what is left: damaged tensors and small files, and nothing half loaded."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from olmo.models.loading import CheckpointError
from olmo.train.checkpoint import load_checkpoint
from olmo.train.config import TrainConfig
from olmo.train.resume import resume
from olmo.train.state import read_random_state
from olmo.train.trainer import Trainer
from tests.train.rows import make_trainer, train_config, write_start
from tests.train.state import snapshot, take_step

ROWS = [[[0], [1]], [[3, 4]]]
SHARD = "model_and_optim/__0_0.distcp"
IDENTITY = {"data": {"own": {"examples": 3, "rate": 1.0}}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("stts", folder)
    return folder


@pytest.fixture(scope="module")
def three_steps(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(train_config("stts", folder), start)
    trainer.state.identity = IDENTITY
    for _ in range(3):
        take_step(trainer, ROWS)
        trainer.save()
    trainer.checkpoints.wait()
    return folder


@pytest.fixture
def run(three_steps: Path, tmp_path: Path) -> Path:
    return shutil.copytree(three_steps, tmp_path / "run")


def config_of(run: Path, **changes: object) -> TrainConfig:
    """As written: ``take_step`` sets the sizes of the batch."""
    sizes = {"global_train_batch_size": 2, "device_train_microbatch_size": 1}
    return train_config("stts", run, **{**sizes, **changes})


def go_on(run: Path, start: Path, **changes: object) -> Trainer:
    """What ``build_trainer`` does with a run folder."""
    config = config_of(run, **changes)
    trainer = make_trainer(config, start)
    trainer.state = resume(config, IDENTITY, trainer.model, trainer.optimizer) or trainer.state
    return trainer


def flip(step: Path, where: Callable[[bytes], int]) -> None:
    data = bytearray((step / SHARD).read_bytes())
    data[where(bytes(data))] ^= 0x10
    (step / SHARD).write_bytes(data)


def member(name: bytes, n: int) -> Callable[[bytes], int]:
    """A place in the contents of the ``n``-th archive's member of that name."""

    def where(data: bytes) -> int:
        at = -1
        for _ in range(n):
            at = data.index(b"PK\x03\x04", at + 1)
            while name not in data[at : at + 60]:
                at = data.index(b"PK\x03\x04", at + 1)
        name_length, extra = (int.from_bytes(data[at + k : at + k + 2], "little") for k in (26, 28))
        return at + 30 + name_length + extra

    return where


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch PAYLOAD_RAN",)


def garbage(step: Path) -> None:
    size = (step / SHARD).stat().st_size
    (step / SHARD).write_bytes(os.urandom(size))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "first value of a tensor": lambda step: flip(step, member(b"data/0", 1)),
    "value of a later tensor": lambda step: flip(step, member(b"data/0", 40)),
    "value of a tensor near the end": lambda step: flip(step, member(b"data/0", 300)),
    "pickle of a tensor": lambda step: flip(step, member(b"data.pkl", 300)),
    "end of an archive": lambda step: flip(step, lambda d: d.rindex(b"PK\x01\x02")),
    "shard of garbage": garbage,
    "shard of zeros": lambda s: (s / SHARD).write_bytes(bytes((s / SHARD).stat().st_size)),
    "random state: pickle": lambda s: (s / "train/rank0.pt").write_bytes(pickle.dumps(Evil())),
    "random state: code": lambda s: torch.save(Evil(), s / "train/rank0.pt"),
    "state": lambda s: (s / "train/state.json").write_text("{}"),
}


NO_RANDOM_STATE: dict[str, Any] = {
    "list": [],
    "no torch": {},
    "unheard of": {"torch": torch.get_rng_state(), "x": 1},
    "number": {"torch": 3},
    "short": {"torch": torch.get_rng_state()[:100]},
    "float": {"torch": torch.get_rng_state().float()},
}


@pytest.mark.parametrize("value", NO_RANDOM_STATE.values(), ids=NO_RANDOM_STATE)
def test_what_is_no_random_state(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "rank0.pt")
    with pytest.raises(CheckpointError, match=r"rank0\.pt: "):
        read_random_state(tmp_path / "rank0.pt")


@pytest.mark.parametrize("content", [b"", b"no state\n"])
def test_a_file_that_holds_no_random_state(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rank0.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank0\.pt: "):
        read_random_state(tmp_path / "rank0.pt")


ALWAYS = ("value of a later tensor", "pickle of a tensor", "random state: code", "state")


@pytest.mark.parametrize(
    "damage", [pytest.param(d, marks=[] if d in ALWAYS else pytest.mark.slow) for d in DAMAGE]
)
def test_a_damaged_checkpoint_leaves_everything_as_it_was(
    damage: str, run: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    trainer = make_trainer(train_config("stts", run), start)
    load_checkpoint(run / "step1", trainer.model, trainer.optimizer)
    before, random = snapshot(trainer), torch.get_rng_state()
    DAMAGE[damage](run / "step3")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(run / "step3", trainer.model, trainer.optimizer)
    assert str(run / "step3") in str(error.value) and "Re-running" not in str(error.value)
    assert not (run / "PAYLOAD_RAN").exists()
    after = snapshot(trainer)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.slow
def test_an_older_one_stands_in(
    run: Path, start: Path, caplog: pytest.LogCaptureFixture, three_steps: Path
) -> None:
    """The damaged one is moved out of the way, and the run writes its own in that place."""
    DAMAGE["value of a later tensor"](run / "step3")
    trainer = go_on(run, start)
    assert trainer.state.step == 2
    said = [r.getMessage() for r in caplog.records if "OLDER CHECKPOINT" in r.getMessage()]
    assert len(said) == 1
    for words in ("step2 in place of", "step3, which is damaged", SHARD, "step3-set-aside"):
        assert words in said[0]
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    again = go_on(run, start)
    assert again.state.step == 3 and again.state.identity == IDENTITY
    expected = go_on(shutil.copytree(three_steps, run.parent / "healthy"), start)
    wanted, found = snapshot(expected), snapshot(again)
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


@pytest.mark.parametrize("damage", ["shard of zeros", "state"])
def test_a_flag_refuses_the_older_one(damage: str, run: Path, start: Path) -> None:
    DAMAGE[damage](run / "step3")
    with pytest.raises(CheckpointError, match="--allow_fallback=False") as error:
        go_on(run, start, allow_fallback=False)
    assert str(run / "step3") in str(error.value) and str(run / "step2") in str(error.value)
    assert (run / "step3").is_dir()


def test_a_stray_folder_is_no_damage(run: Path, start: Path) -> None:
    (run / "step99").mkdir()
    assert go_on(run, start, allow_fallback=False).state.step == 3


def test_without_any_whole_one_the_run_does_not_begin_anew(run: Path, start: Path) -> None:
    DAMAGE["shard of zeros"](run / "step3")
    DAMAGE["state"](run / "step2")
    os.remove(run / "step1" / SHARD)
    with pytest.raises(CheckpointError, match="no whole checkpoint to resume from") as error:
        go_on(run, start)
    for words in (f"step3/{SHARD}", "step2/train/state.json", f"step1/{SHARD}"):
        assert words in str(error.value)
    assert {p.name for p in run.glob("step*")} == {"step1", "step2", "step3"}


def test_the_only_copy_under_another_name_is_not_lost(run: Path, start: Path) -> None:
    """A kill between two renamings of an earlier version, or somebody's own doing."""
    for step in ("step1", "step2"):
        shutil.rmtree(run / step)
    (run / "step3").rename(run / "step3-old")
    with pytest.raises(CheckpointError, match="step3-old: whole, but only step3"):
        go_on(run, start)
    assert (run / "step3-old" / SHARD).is_file()


def test_allow_resume_false_wants_an_empty_place(run: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step3 exists and allow_resume is False"):
        go_on(run, start, allow_resume=False)
    assert go_on(tmp_path / "new", start, allow_resume=False).state.step == 0


def test_members_have_checksums(three_steps: Path) -> None:
    """What the check for damage stands on, in the installed torch."""
    data = (three_steps / "step1" / SHARD).read_bytes()
    first = data.index(b"PK\x05\x06") + 22
    with (three_steps.parent / "first.zip").open("wb") as file:
        file.write(data[:first])
    with zipfile.ZipFile(three_steps.parent / "first.zip") as archive:
        assert all(info.CRC for info in archive.infolist() if info.file_size)
