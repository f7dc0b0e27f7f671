"""Runs of the real launch script on a very small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olmo.config import merge, read_yaml

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
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random dense checkpoint of a model that takes milliseconds a step."""
    from omegaconf import OmegaConf

    from scripts.make_tiny_checkpoint import make_checkpoint

    folder = tmp_path_factory.mktemp("start")
    config = read_yaml(REPOSITORY / "configs" / "tiny.yaml")
    config["model"] = merge(config["model"], SMALLER)
    file = folder / "model.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    make_checkpoint(folder, file)
    return folder


@pytest.fixture(scope="session")
def run_train(start: Path, data_dir: Path) -> Run:
    """``run_train(save_folder, *flags, nproc=1, checkpoint=start, mixture="debug")``."""

    def run(
        save_folder: Path,
        *flags: str,
        nproc: int = 1,
        checkpoint: Path | None = None,
        mixture: str = "debug",
        check: bool = True,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={nproc}", "launch_scripts/train_image_video_sft.py"),
            *(str(checkpoint or start), mixture, "--global_batch_size", "4"),
            *("--device_batch_size=2", f"--save_folder={save_folder}"),
            *(f"--optimizer.{g}_learning_rate=1e-3" for g in ("llm", "vit", "connector")),
            *(f"--scheduler.{g}_t_warmup=2" for g in ("llm", "vit", "connector")),
            *flags,
        ]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "MOLMO_DATA_DIR": str(data_dir),
                "OMP_NUM_THREADS": "1",
                **(env or {}),
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check:
            assert done.returncode == 0, done.stderr[-4000:]
        return done

    return run


def read_metrics(save_folder: Path) -> list[dict[str, Any]]:
    lines = (save_folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def curve(save_folder: Path, name: str = "train/CrossEntropyLoss") -> list[float]:
    return [m[name] for m in read_metrics(save_folder)]
