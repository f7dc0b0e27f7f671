"""Runs of the real launch script on a very small model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from olmo.config import merge, read_settings, to_yaml

REPOSITORY = Path(__file__).parents[2]
SMALLER = {
    "llm": {"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "n_layers": 2},
    "vision_backbone": {
        "vit": {
            "image_emb_dim": 32,
            "image_num_heads": 2,
            "image_num_key_value_heads": 2,
            "image_head_dim": 16,
            "image_mlp_dim": 48,
        }
    },
    "mm_preprocessor": {"video": {"max_frames": 4}},
}
STTS = (
    "--model.mm_preprocessor.max_frames=4",
    "--model.mm_preprocessor.max_subtitle_tokens=null",
    "--model.mm_preprocessor.use_frame_special_tokens=True",
    "--model.vision_backbone.vit.sdpa_backend=efficient",
    "--model.vision_backbone.compile_vit=null",
    "--model.vision_backbone.compile_connector=null",
    "--wandb.allow_resume=False",
    "--use_temporal_video_olmo",
    "--model.mm_preprocessor.topk=0.5",
    "--model.vision_backbone.vit.topk=0.5",
    "--model.vision_backbone.vit.prune_at=3",
    "--model.vision_backbone.vit.prune_method=scorer",
)
"""The documented flags, with fewer frames."""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random dense checkpoint of a model that takes milliseconds a step."""
    from scripts.make_tiny_checkpoint import make_checkpoint

    folder = tmp_path_factory.mktemp("start")
    config = read_settings(REPOSITORY / "configs" / "tiny.yaml")
    config["model"] = merge(config["model"], SMALLER)
    file = folder / "model.yaml"
    file.write_text(to_yaml(config))
    make_checkpoint(folder, file)
    return folder


@dataclass(frozen=True)
class Launcher:
    """Training commands under torchrun, on the small checkpoint unless another is given."""

    start: Path
    data_dir: Path

    def command(
        self,
        save_folder: Path,
        *flags: str,
        nproc: int = 1,
        checkpoint: Path | None = None,
        mixture: str = "debug",
        torchrun: tuple[str, ...] = (),
    ) -> list[str]:
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={nproc}", *torchrun, "launch_scripts/train_image_video_sft.py"),
            *(str(checkpoint or self.start), mixture, "--global_batch_size", "4"),
            *("--device_batch_size=2", f"--save_folder={save_folder}"),
            *(f"--optimizer.{g}_learning_rate=1e-3" for g in ("llm", "vit", "connector")),
            *(f"--scheduler.{g}_t_warmup=2" for g in ("llm", "vit", "connector")),
            *("--ft_embedding=all", "--model.llm.residual_dropout=0"),  # from random weights
            *flags,
        ]

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "MOLMO_DATA_DIR": str(self.data_dir),
            "OMP_NUM_THREADS": "1",
            **extra,
        }

    @contextmanager
    def popen(self, command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The command in the background, in a session of its own; stderr goes to ``log``. Ends
        with it and all that it started."""
        with log.open("ab") as err:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env=self.environment(), stderr=err, start_new_session=True
            )
        members: list[int] = []
        try:
            yield process
            members = workers(process.pid)
        finally:
            for pid in (*members, *workers(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def workers(pid: int) -> list[int]:
    """The child processes of ``pid``: torchrun's are the ranks."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.fixture(scope="session")
def launcher(start: Path, data_dir: Path) -> Launcher:
    return Launcher(start, data_dir)


@pytest.fixture(scope="session")
def run_train(launcher: Launcher) -> Run:
    """``run_train(save_folder, *flags, nproc=1, checkpoint=start, mixture="debug")``."""

    def run(
        save_folder: Path,
        *flags: str,
        check: bool = True,
        env: dict[str, str] | None = None,
        **settings: Any,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            launcher.command(save_folder, *flags, **settings),
            cwd=REPOSITORY,
            env=launcher.environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=900,
        )
        if check:
            assert done.returncode == 0, done.stderr[-4000:]
        return done

    return run


@pytest.fixture()
def run_script(data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Call the script's ``main`` in this process; returns exit code and log text."""
    import launch_scripts.train_image_video_sft as script

    monkeypatch.setenv("MOLMO_DATA_DIR", str(data_dir))
    monkeypatch.setattr("olmo.distributed.setup_logging", lambda: None)

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *argv])
        caplog.clear()
        return script.main(), caplog.text

    return run


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Poll; fail the test when it takes too long."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited too long"
        time.sleep(0.02)


def read_metrics(save_folder: Path) -> list[dict[str, Any]]:
    lines = (save_folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def curve(save_folder: Path, name: str = "train/CrossEntropyLoss") -> list[float]:
    return [m[name] for m in read_metrics(save_folder)]


def same_curves(a: Path, b: Path) -> None:
    for name in ("train/CrossEntropyLoss", "train/AuxLoss", "optim/llm_grad_norm"):
        assert curve(a, name) == pytest.approx(curve(b, name), rel=2e-5, abs=1e-7), name
