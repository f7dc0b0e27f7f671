"""The tiny model on real clips: batch size, number of processes, sharding, and a kill on the way
change no byte of predictions and metrics."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from olmo.data.synthetic_video import SyntheticVideoQA
from olmo.eval.evaluator import evaluate_task
from olmo.eval.settings import EvalSettings
from olmo.eval.tasks import SYNTHETIC, resolve_tasks
from olmo.models.loading import load_model, select_checkpoint

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "tiny-dense"
VIT = {"topk": 0.5, "prune_at": 1}
OVERRIDES = {"model_name": "temporal_video_olmo", "vision_backbone": {"vit": VIT}}
FLAGS = ["--model.model_name=temporal_video_olmo", "--model.vision_backbone.vit.topk=0.5"]
FLAGS += ["--model.vision_backbone.vit.prune_at=1", "--mode=synthetic"]


def test_the_batch_size_changes_no_byte(tmp_path):
    dataset = SyntheticVideoQA("test", 2, root=tmp_path)
    model, config = load_model(select_checkpoint(CHECKPOINT), OVERRIDES)
    (task,) = resolve_tasks(None, SYNTHETIC)
    found, threads = set(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in (1, 2, 5):
            settings = EvalSettings(size)
            result = evaluate_task(model, config, task, settings, torch.device("cpu"), dataset)
            for row in result.predictions:
                assert set(row.pop("seconds")) == {"load", "vision", "prefill", "decode", "total"}
                assert row["pruning"]["pruned_fraction"] == 0.5
                assert row["n_tokens_before"] - row["n_tokens_after"] == 64
            found.add(json.dumps([result.predictions, result.metrics]))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
    assert result.metrics["stts"]["kept_tokens_per_frame"] == 8
    assert result.metrics["n"] == len(dataset) > 5


def command(folder: Path, processes: int, *flags: str) -> list[str]:
    script = str(ROOT / "launch_scripts" / "eval_molmo2.py")
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    launch = launch if processes > 1 else []
    arguments = [str(CHECKPOINT), *FLAGS, "--max_examples=31", f"--save_folder={folder}", *flags]
    return [sys.executable, *launch, script, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def files(folder: Path) -> tuple[str, str]:
    """Predictions and metrics without what is measured."""
    (task,) = folder.glob(f"*/{SYNTHETIC}")
    rows = json.loads((task / "predictions.json").read_text())
    metrics = json.loads((task / "metrics.json").read_text())
    assert metrics.pop("timing") and all(row.pop("seconds") for row in rows)
    return json.dumps(rows), json.dumps(metrics)


def run(folder: Path, processes: int, *flags: str) -> tuple[str, str]:
    done = subprocess.run(
        command(folder, processes, *flags),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return files(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One process, one example at a time."""
    return run(tmp_path_factory.mktemp("reference"), 1, "--device_batch_size=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "flags"),
    [(1, ["--num_workers=2"]), (2, ["--device_batch_size=5"]), (2, ["--fsdp"])],
    ids=["workers", "two processes", "two processes, sharded"],
)
def test_processes_change_no_byte(reference, tmp_path, processes, flags):
    assert run(tmp_path, processes, *flags) == reference


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on(reference, tmp_path, processes):
    """SIGKILL to the whole process group; the rest is done by another number of processes."""
    started = subprocess.Popen(
        command(tmp_path, processes, "--device_batch_size=2"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answered() -> int:
        parts = tmp_path.glob(f"*/{SYNTHETIC}/progress-*/*.jsonl")
        return sum(f.read_text().count("\n") for f in parts)

    deadline = time.monotonic() + 300
    while answered() < 6 and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert 6 <= answered() < 31
    assert run(tmp_path, 3 - processes, "--device_batch_size=5") == reference
