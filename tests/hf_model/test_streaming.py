"""Peak memory of loading a checkpoint of some hundred megabytes: the model, and a tensor or two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
import torch.distributed.checkpoint as dcp

from olmo.hf_model.export import ExportOptions, export_checkpoint
from olmo.models.molmo2.molmo2 import Molmo2
from tests.hf_model.conftest import native_model, save_native

ROOT = Path(__file__).parents[2]
WIDE = {"llm": {"d_model": 1024, "n_layers": 8, "mlp_hidden_size": 8192}}
"""About 420 MB in float32; the largest tensor has 34 MB."""

LOAD = """
import sys, threading
import torch
from olmo.models.loading import load_model
from olmo import load_model as load_front_door

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())

path, how = sys.argv[1:]
load_front_door  # imports count before the load
before, thread = anonymous(), threading.Thread(target=watch)
thread.start()
if how == "front_door":
    model = load_front_door(path, device="cpu")[0]
else:
    model = load_model(path, dtype=torch.bfloat16 if how == "bfloat16" else None)[0]
done.set()
thread.join()
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(size, max(peak, anonymous()) - before)
"""


def one_file(model: Molmo2, folder: Path) -> Path:
    return save_native(model, folder / "native")


def torch_file(model: Molmo2, folder: Path) -> Path:
    native = save_native(model, folder / "native")
    (native / "model.safetensors").unlink()
    torch.save(model.state_dict(), native / "model.pt")
    return native


def distributed(model: Molmo2, folder: Path) -> Path:
    native = save_native(model, folder / "native")
    (native / "model.safetensors").unlink()
    dcp.save({"model": model.state_dict()}, checkpoint_id=native / "model_and_optim")
    return native


def hugging_face(layout: str) -> Callable[[Molmo2, Path], Path]:
    def write(model: Molmo2, folder: Path) -> Path:
        options = ExportOptions(layout, max_file_bytes=150_000_000)
        return export_checkpoint(one_file(model, folder), folder / "hf", options)

    return write


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("write", "how"),
    [
        (one_file, "native"),
        (one_file, "bfloat16"),
        (one_file, "front_door"),
        (torch_file, "native"),
        (distributed, "native"),
        (hugging_face("transformers"), "native"),
        (hugging_face("remote"), "front_door"),
    ],
    ids=["one file", "bfloat16", "front door", "model.pt", "sharded", "transformers", "remote"],
)
def test_a_model_is_in_memory_once(
    write: Callable[[Molmo2, Path], Path], how: str, tmp_path: Path
) -> None:
    folder = write(native_model(WIDE), tmp_path)
    command = [sys.executable, "-c", LOAD, str(folder), how]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    size, peak = map(int, out.split()[-2:])
    assert size > (200e6 if how == "bfloat16" else 400e6)
    print(f"peak: {peak / size:.2f} of the model")  # shown by -s
    assert peak < 1.2 * size
