"""The tiny model on real clips: batch size, number of processes, sharding, and a kill on the way
change no byte of predictions and metrics."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.eval.evaluate import evaluate_task
from olmo.eval.settings import EvalSettings
from olmo.eval.tasks import SYNTHETIC, resolve_tasks
from olmo.models.loading import load_model
from tests.eval.scripts import EVALUATE, command, environment, results, run
from tests.scored import CLIP_TOKENS

FLAGS = ["--mode=synthetic", "--max_examples=31"]


def test_the_batch_size_changes_no_byte(scored_checkpoint, tmp_path):
    dataset = SyntheticVideoQA("test", 2, root=tmp_path)
    model, config = load_model(scored_checkpoint)
    (task,) = resolve_tasks(None, SYNTHETIC)
    found, threads = set(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in (1, 2, 5):
            settings = EvalSettings(size)
            result = evaluate_task(model, config, task, settings, torch.device("cpu"), dataset)
            rows = [one.row() for one in result.predictions]
            for row in rows:
                assert set(row.pop("seconds")) == {"load", "vision", "prefill", "decode", "total"}
                assert row["pruning"]["pruned_fraction"] == 0.5
                assert row["n_tokens_before"] - row["n_tokens_after"] == CLIP_TOKENS // 2
            found.add(json.dumps([rows, result.metrics]))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
    assert result.metrics["stts"]["kept_tokens_per_frame"] == 32
    assert result.metrics["n"] == len(dataset) > 5


def evaluate(checkpoint: Path, folder: Path, processes: int, *flags: str) -> tuple[str, str]:
    """Predictions and metrics of a finished run."""
    run(EVALUATE, checkpoint, *FLAGS, f"--save_folder={folder}", *flags, processes=processes)
    (task,) = folder.glob(f"*/{SYNTHETIC}")
    return results(task)


@pytest.fixture(scope="module")
def reference(scored_checkpoint, tmp_path_factory):
    """One process, one example at a time."""
    folder = tmp_path_factory.mktemp("reference")
    return evaluate(scored_checkpoint, folder, 1, "--device_batch_size=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        *((1, [f"--device_batch_size={n}"]) for n in (2, 5)),
        *((2, [f"--device_batch_size={n}"]) for n in (1, 2, 5)),
        (1, ["--num_workers=2"]),
        (2, ["--fsdp"]),
    ],
    ids=lambda value: value if isinstance(value, int) else value[0].strip("-"),
)
def test_processes_and_batches_change_no_byte(
    scored_checkpoint, reference, tmp_path, processes, flags
):
    assert evaluate(scored_checkpoint, tmp_path, processes, *flags) == reference


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on(scored_checkpoint, reference, tmp_path, processes):
    """SIGKILL to the whole process group; the rest is done by another number of processes."""
    flags = (*FLAGS, f"--save_folder={tmp_path}", "--device_batch_size=2")
    started = subprocess.Popen(
        command(EVALUATE, scored_checkpoint, *flags, processes=processes),
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
    rest = evaluate(scored_checkpoint, tmp_path, 3 - processes, "--device_batch_size=5")
    assert rest == reference
