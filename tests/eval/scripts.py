"""Runs of the project's scripts in processes of their own, as a user starts them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DENSE = ROOT / "checkpoints" / "tiny-dense"
EVALUATE, COMPARE = "launch_scripts/eval_molmo2.py", "scripts/compare_runs.py"
TRAIN = "launch_scripts/train_image_video_sft.py"


def script_module(name: str) -> ModuleType:
    """``scripts/NAME.py``, imported anew."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(script: str, *arguments: object, processes: int = 1) -> list[str]:
    """Command line; ``torchrun`` for several processes."""
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    launch = launch if processes > 1 else []
    return [sys.executable, *launch, str(ROOT / script), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def run(script: str, *arguments: object, processes: int = 1, code: int = 0, **more: str) -> str:
    """Standard output followed by standard error; the exit code must be ``code``. ``more`` are
    variables of the environment."""
    done = subprocess.run(
        command(script, *arguments, processes=processes),
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, f"exit code {done.returncode}: {text[-6000:]}"
    return text


def results(task_folder: Path) -> tuple[str, str]:
    """Predictions and metrics without what is measured, as text."""
    rows = json.loads((task_folder / "predictions.json").read_text())
    metrics = json.loads((task_folder / "metrics.json").read_text())
    assert metrics.pop("timing") and all(row.pop("seconds") for row in rows)
    return json.dumps(rows), json.dumps(metrics)
