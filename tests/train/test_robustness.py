"""Numbers that are not finite, full disks, signals, leftovers of killed runs."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from olmo.command_line import RunError
from olmo.config import read_settings
from olmo.data.examples import Skipped
from olmo.data.loader import MicroBatch
from olmo.train.checkpoint import latest_checkpoint, load_checkpoint, merge_lanes
from olmo.train.config import TrainConfig
from olmo.train.signals import StopSignal, blocked_signals, folder_lock
from olmo.train.steps import tidy
from olmo.train.trainer import Callback, Trainer
from tests.train.rows import make_trainer, micro_batch, train_config, write_start
from tests.train.state import snapshot, take_step

ROWS = [[[0], [1]], [[3, 4]]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("stts", folder)
    return folder


@pytest.fixture
def trainer(start: Path, tmp_path: Path) -> Trainer:
    return make_trainer(train_config("stts", tmp_path), start)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("at_work", [False, True])
def test_a_dead_worker_of_the_loader_is_explained(trainer: Trainer, at_work: bool) -> None:
    """Also where the trainer is not waiting for it."""

    class Dies(torch.utils.data.IterableDataset[MicroBatch]):
        def __iter__(self) -> Iterator[MicroBatch]:
            for i in range(trainer.micro_batches_per_step if at_work else 0):
                yield micro_batch(ROWS[i % 2])
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(*args: object) -> None:
        time.sleep(1.5)

    trainer.model.register_forward_pre_hook(wait)
    trainer.loader = DataLoader(
        Dies(), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(RunError, match=r"worker.*--data\.num_workers.*newest checkpoint"):
        trainer.fit()


# --- not finite -------------------------------------------------------------------------------


def break_block(trainer: Trainer) -> None:
    """The first block of the language model returns NaN for every row with an image."""
    block = trainer.model.transformer.blocks[0]
    block.register_forward_hook(lambda module, args, out: out * float("nan"))


def test_nan_ends_the_run_and_is_explained(trainer: Trainer, tmp_path: Path) -> None:
    take_step(trainer, ROWS)
    before = snapshot(trainer)
    break_block(trainer)
    with pytest.raises(RunError) as error:
        take_step(trainer, ROWS)
    for words in ("step 2", "loss is nan", "transformer.blocks.0", "example 0", "example 4"):
        assert words in str(error.value)
    report = json.loads((tmp_path / "not_finite_step2.json").read_text())["0"]
    assert report["module"] == ["transformer.blocks.0"] * 2
    assert report["examples"] == [["example 0", "example 1"], ["example 3", "example 4"]]
    assert same(before, snapshot(trainer))


def test_bad_parameter_is_named(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.vision_backbone.image_projector.w1.weight[0, 0] = float("inf")
    with pytest.raises(RunError, match=r"parameter vision_backbone\.image_projector\.w1"):
        take_step(trainer, ROWS)


def test_bad_gradient_is_named(trainer: Trainer) -> None:
    trainer.model.transformer.ln_f.weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(RunError, match=r"gradients of group llm"):
        take_step(trainer, ROWS)


def test_nan_can_be_skipped(start: Path, tmp_path: Path) -> None:
    """The data go on, the update is left out, and too many in a row end the run."""
    options = {"on_nan": "skip", "max_skipped_in_a_row": 2, "loss_chunk": 8}
    trainer = make_trainer(train_config("stts", tmp_path, train=options), start)
    weight = trainer.model.transformer.ln_f.weight
    before = snapshot(trainer)
    hook = weight.register_hook(lambda g: g * float("nan"))
    assert take_step(trainer, ROWS)["optim/updates_skipped"] == 1
    assert trainer.state.step == 1 and same(before, snapshot(trainer))
    hook.remove()
    take_step(trainer, ROWS)
    assert not same(before, snapshot(trainer))
    weight.register_hook(lambda g: g * float("nan"))
    take_step(trainer, ROWS)
    with pytest.raises(RunError, match="step 4"):
        take_step(trainer, ROWS)


# --- checkpoints ------------------------------------------------------------------------------


def test_full_disk(trainer: Trainer, start: Path, tmp_path: Path) -> None:
    """Files cannot grow past 4 KiB: the write fails, says so, and the old one is still good."""
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    old = snapshot(trainer)
    take_step(trainer, ROWS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        trainer.save()
        with pytest.raises(RunError) as error:
            trainer.checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for words in (
        "step2-tmp",
        os.strerror(errno.EFBIG),
        "GiB free)",
        f"whole one is {tmp_path / 'step1'}",
    ):
        assert words in str(error.value)
    assert not list(tmp_path.glob("step2*"))
    again = make_trainer(train_config("stts", tmp_path), start)
    load_checkpoint(tmp_path / "step1", again.model, again.optimizer)
    assert same(old, snapshot(again))


def test_failed_write_is_noticed_in_the_next_step(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the next save. No space left when rank 0 comes to its own small files."""

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    monkeypatch.setattr(os, "fsync", no_space)
    take_step(trainer, ROWS)
    trainer.save()
    assert trainer.checkpoints.pending is not None
    assert trainer.checkpoints.pending.exception() is not None  # the write has ended
    with pytest.raises(RunError, match="No space left on device"):
        take_step(trainer, ROWS)


def test_the_resolved_config_lies_beside_the_weights(trainer: Trainer, tmp_path: Path) -> None:
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    saved = TrainConfig.from_dict(read_settings(tmp_path / "step1" / "config.yaml"))
    assert saved == trainer.config and saved.model.budget.topk == 0.5


def test_retention_and_leftovers(start: Path, tmp_path: Path) -> None:
    config = train_config("stts", tmp_path, save_num_checkpoints_to_keep=2)
    trainer = make_trainer(config, start)
    for _ in range(3):
        take_step(trainer, ROWS)
        trainer.save()
    trainer.checkpoints.wait()
    assert sorted(p.name for p in tmp_path.glob("step*")) == ["step2", "step3"]
    shutil.copytree(tmp_path / "step3", tmp_path / ".step4-tmp")
    (tmp_path / ".step1-old").mkdir()
    (tmp_path / "step9").mkdir()  # nothing in it
    assert latest_checkpoint(tmp_path) == tmp_path / "step3"
    tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*step*")) == ["step2", "step3", "step9"]


def test_learning_rates_follow_the_config_on_resume(
    trainer: Trainer, start: Path, tmp_path: Path
) -> None:
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    changed = train_config("stts", tmp_path, optimizer={"vit_learning_rate": 0.25})
    again = make_trainer(changed, start)
    load_checkpoint(tmp_path / "step1", again.model, again.optimizer)
    peaks = {g["group_name"]: g["peak_lr"] for g in again.optimizer.param_groups}
    assert peaks["vit"] == 0.25 and peaks["llm"] == 1e-5


def test_newest_state_of_a_lane_wins() -> None:
    """Rank 1 still holds what rank 0's lane was at the last resume, and the other way round."""
    ranks = [
        {0: {"next_id": 9, "buffered": [5]}, 1: {"next_id": 3, "buffered": []}},
        {0: {"next_id": 2, "buffered": []}, 1: {"next_id": 8, "buffered": [4]}},
    ]
    expected = {0: {"next_id": 9, "buffered": [5]}, 1: {"next_id": 8, "buffered": [4]}}
    assert merge_lanes(ranks) == merge_lanes(ranks[::-1]) == expected  # type: ignore[arg-type]


# --- signals ----------------------------------------------------------------------------------


class SignalAt(Callback):
    """Sends this process a signal after one step."""

    def __init__(self, step: int, number: signal.Signals):
        self.step, self.number = step, number

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_with_a_checkpoint(
    number: signal.Signals, start: Path, tmp_path: Path
) -> None:
    config = train_config(
        "stts", tmp_path, global_train_batch_size=2, device_train_microbatch_size=2
    )
    trainer = make_trainer(config, start)
    batches = [micro_batch([[0], [1]])] * 10
    trainer.loader = DataLoader(batches, batch_size=None, collate_fn=lambda b: b)  # type: ignore[arg-type]
    trainer.callbacks = [SignalAt(2, number)]
    before = signal.getsignal(number)
    trainer.fit()
    assert trainer.state.step == 3 and trainer.outcome == "stopped by a signal"
    assert latest_checkpoint(tmp_path) == tmp_path / "step3"
    assert signal.getsignal(number) is before


def test_blocked_signals_arrive_afterwards() -> None:
    with StopSignal() as stop:
        with blocked_signals():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert stop.received is None
        assert stop.received == "SIGTERM"


class Breaks(Callback):
    """An error that nobody foresees, after one step."""

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        raise RuntimeError("a lost connection")


def test_an_error_leaves_no_loader_processes(start: Path, tmp_path: Path) -> None:
    """They do not get SIGTERM: Python, at its end, would wait for them and never exit."""
    config = train_config(
        "stts", tmp_path, global_train_batch_size=2, device_train_microbatch_size=2
    )
    trainer = make_trainer(config, start)
    batches = [micro_batch([[0], [1]])] * 10
    trainer.loader = DataLoader(  # type: ignore[arg-type]
        batches, batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    trainer.callbacks = [Breaks()]
    others = multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="a lost connection") as error:
        trainer.fit()
    assert error.tb is not None  # as in a process that ends: the traceback holds the iterator
    left = [p for p in multiprocessing.active_children() if p not in others]
    for process in left:
        process.join(5)
    assert not any(process.is_alive() for process in left)


def test_one_run_per_folder(tmp_path: Path) -> None:
    used = pytest.raises(BlockingIOError, match="another process trains")
    with folder_lock(tmp_path), used, folder_lock(tmp_path, patience=0):
        pass
    with folder_lock(tmp_path, patience=0):
        pass


# --- bad examples -----------------------------------------------------------------------------


def count(trainer: Trainer, *skipped: str) -> float:
    batch = micro_batch([[1]])
    batch.skipped = [Skipped(text.partition(" (")[0].partition(":")[0], text) for text in skipped]
    metrics = {"batch/tokens": 1.0}
    trainer._count([batch], trainer._agree([batch]), metrics)
    return metrics["data/examples_skipped"]


def test_a_bad_example_counts_once_however_often_it_comes(start: Path, tmp_path: Path) -> None:
    """In every epoch, with another reason, before and after an interruption."""
    config = train_config("stts", tmp_path, data={"max_skipped": 2})
    trainer = make_trainer(config, start)
    for epoch in range(5):
        assert count(trainer, f"own 3 (a.jsonl:4): reason {epoch}", "own 12: gone") == 2 * epoch + 2
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    again = make_trainer(config, start)
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    again.state = load_checkpoint(folder, again.model, again.optimizer)
    assert again.state.bad_examples == ["own 12", "own 3"]
    assert count(again, "own 3 (moved/a.jsonl:4): gone") == 11
    with pytest.raises(RunError, match=r"3 files or examples .*max_skipped=2"):
        count(again, "own 3: gone", "other 3: gone")


def test_a_run_of_before_goes_on(start: Path, tmp_path: Path) -> None:
    """Its state has no names of bad examples."""
    trainer = make_trainer(train_config("stts", tmp_path), start)
    trainer.state.examples_skipped = 7
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    file = folder / "train" / "state.json"
    data = json.loads(file.read_text())
    del data["bad_examples"]
    file.write_text(json.dumps(data))
    trainer.state = load_checkpoint(folder, trainer.model, trainer.optimizer)
    assert count(trainer, "own 3: gone") == 8 and trainer.state.bad_examples == ["own 3"]
