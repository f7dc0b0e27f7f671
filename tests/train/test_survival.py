"""Runs that are killed again and again, and one that learns its data by heart. All slow."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

from olmo.config import read_settings
from olmo.data.examples import ExampleSource
from olmo.data.loader import RowShare, build_train_loader
from olmo.data.mixture import MixtureConfig
from olmo.models.loading import load_model, merged_model_config
from olmo.train.checkpoint import TrainerState
from olmo.train.config import TrainConfig
from olmo.train.optim import build_optimizer
from olmo.train.run import build_model
from olmo.train.trainer import Trainer
from tests.train.conftest import (
    REPOSITORY,
    STTS,
    Launcher,
    Run,
    read_metrics,
    same_curves,
    wait_until,
    workers,
)

pytestmark = pytest.mark.slow
KILLS = 12


def n_lines(file: Path) -> int:
    return file.read_text().count("\n") if file.is_file() else 0


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(checkpoint)[0].state_dict())


def read_whole(checkpoint: Path) -> None:
    """Every tensor of model and optimizer, the small files, and the model as users load it."""
    reader = FileSystemReader(checkpoint / "model_and_optim")
    shapes = reader.read_metadata().state_dict_metadata
    tensors = {k: torch.empty(m.size) for k, m in shapes.items() if hasattr(m, "size")}
    assert any(k.endswith(".exp_avg_sq") for k in tensors)
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    state = json.loads((checkpoint / "train" / "state.json").read_text())
    assert f"step{state['step']}" == checkpoint.name
    weights(checkpoint)


def whole_checkpoints(folder: Path) -> list[Path]:
    """Folders that bear the name of a checkpoint; each of them must be readable."""
    found = [p for p in folder.glob("step*") if re.fullmatch(r"step\d+", p.name)]
    for path in found:
        read_whole(path)
    return found


def fill_the_disk(launcher: Launcher, command: list[str], folder: Path) -> None:
    """No file of the two ranks may grow past 64 KiB from some moment on: the next checkpoint
    fails, and both ranks end with a message instead of hanging."""
    log = folder.with_suffix(".full")
    with launcher.popen(command, log) as process:
        before = n_lines(folder / "metrics.jsonl")
        wait_until(lambda: n_lines(folder / "metrics.jsonl") > before)
        for pid in workers(process.pid):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (65536, hard))
        assert process.wait(timeout=300) != 0
    text = log.read_text()
    assert text.count("the checkpoint could not be written") == 2, text[-4000:]
    assert "GiB free). The newest whole one is" in text


def kill_at_some_moment(
    launcher: Launcher, command: list[str], folder: Path, rng: random.Random
) -> None:
    """One of: a rank by kill -9, torchrun by kill -9, torchrun by SIGTERM. Most often after the
    run took steps, sometimes while it starts."""
    how = rng.choice(["rank", "torchrun", "term"])
    with launcher.popen(command, folder.with_suffix(".log")) as process:
        before = n_lines(folder / "metrics.jsonl")
        if rng.random() < 0.8:
            goal = before + rng.randint(1, 5)
            wait_until(
                lambda: n_lines(folder / "metrics.jsonl") >= goal or process.poll() is not None
            )
        time.sleep(rng.uniform(0, 1.0))
        ranks = workers(process.pid)
        if how == "rank" and ranks:
            os.kill(rng.choice(ranks), signal.SIGKILL)
        elif how == "term":
            process.terminate()
        else:
            process.kill()
        process.wait(timeout=300)
        # without torchrun the ranks must find the end by themselves
        wait_until(lambda: not any(map(alive, ranks)))


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killed_twelve_times(launcher: Launcher, run_train: Run, tmp_path: Path) -> None:
    """And once out of space. The weights are those of a run that nobody touched, bit by bit."""
    flags = (*STTS, "--max_duration=60", "--save_interval=3", "--data.num_workers=1")
    run_train(tmp_path / "whole", *flags, nproc=2)
    folder, rng = tmp_path / "killed", random.Random(0)
    command = launcher.command(folder, *flags, nproc=2)
    seen: set[str] = set()
    for i in range(KILLS):
        kill_at_some_moment(launcher, command, folder, rng)
        seen |= {path.name for path in whole_checkpoints(folder)}
        if i == KILLS // 2:
            fill_the_disk(launcher, command, folder)
            assert whole_checkpoints(folder)
    assert len(seen) > 3  # the kills came while the run got on
    run_train(folder, *flags, nproc=2)
    assert [m["step"] for m in read_metrics(folder)] == list(range(1, 61))
    same_curves(tmp_path / "whole", folder)
    expected, found = weights(tmp_path / "whole" / "step60"), weights(folder / "step60")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_torchrun_restarts_after_a_dead_rank(
    launcher: Launcher, run_train: Run, tmp_path: Path
) -> None:
    flags = (*STTS, "--max_duration=30", "--save_interval=2")
    run_train(tmp_path / "whole", *flags)
    folder = tmp_path / "run"
    command = launcher.command(folder, *flags, nproc=2, torchrun=("--max-restarts=2",))
    with launcher.popen(command, tmp_path / "log") as process:
        wait_until(lambda: bool(list(folder.glob("step*[0-9]"))))
        os.kill(workers(process.pid)[-1], signal.SIGKILL)
        assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()[-4000:]
    assert "resumed from" in (tmp_path / "log").read_text()
    same_curves(tmp_path / "whole", folder)


def test_two_processes_continue_what_one_began(
    launcher: Launcher, run_train: Run, tmp_path: Path
) -> None:
    flags = (*STTS, "--max_duration=20", "--save_interval=2")
    run_train(tmp_path / "whole", *flags)
    folder = tmp_path / "run"
    with launcher.popen(launcher.command(folder, *flags), tmp_path / "log") as process:
        wait_until(lambda: bool(list(folder.glob("step*[0-9]"))))
        for pid in (*workers(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
    assert not (folder / "step20").exists()
    done = run_train(folder, *flags, nproc=2)
    assert "resumed from" in done.stderr
    same_curves(tmp_path / "whole", folder)


@pytest.mark.parametrize("name", ["video_olmo", "temporal_video_olmo"])
def test_eight_clips_are_learnt_by_heart(
    name: str, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross entropy under 0.05 within 400 steps of the same eight rows."""
    monkeypatch.setenv("MOLMO_DATA_DIR", str(data_dir))
    tiny = read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"]
    frames = {"mm_preprocessor": {"video": {"max_frames": 4}}}
    model = merged_model_config(tiny, {"model_name": name, **frames})
    rates = {f"{g}_learning_rate": 2e-3 for g in ("llm", "vit", "connector")}
    config = TrainConfig.from_dict(
        {
            "save_folder": str(tmp_path),
            "precision": "fp32",
            "max_duration": 400,
            "global_train_batch_size": 8,
            "device_train_microbatch_size": 8,
            "data": {"mixture": "debug"},
            "optimizer": {**rates, "temporal_token_scorer_learning_rate": 1e-3},
            "softmax_auxiliary_loss": False,
        }
    )
    config.model = model
    network = build_model(config, torch.device("cpu"))
    network.reset_parameters()
    mixture = MixtureConfig.load("debug").open("train")
    preprocessor = model.build_preprocessor(model.build_tokenizer())
    source = ExampleSource(mixture, preprocessor, config.data.seed, config.data.shuffle)
    loader = build_train_loader(config.data, source, model.build_collator(), RowShare(8, 8))
    optimizer = build_optimizer(network, config.optimizer)
    trainer = Trainer(config, network, optimizer, loader, torch.device("cpu"), TrainerState())
    network.train()
    batch = next(iter(loader))
    losses: list[float] = []
    while trainer.state.step < 400 and (not losses or losses[-1] >= 0.05):
        losses.append(trainer.step(iter([batch]))["train/CrossEntropyLoss"])
    assert losses[-1] < 0.05, losses[::20]
