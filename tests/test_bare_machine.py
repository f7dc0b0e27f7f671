"""A machine with a GPU and little else: torch, and a transformers without Molmo2."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ABSENT = (
    *("accelerate", "av", "jinja2", "omegaconf", "peft", "pyarrow", "scipy"),
    *("torchao", "torchcodec", "wandb"),
    "transformers.models.molmo2",
)
REFUSE = f"""
import importlib.util, sys

def absent(name):
    return any(name == n or name.startswith(n + ".") for n in {ABSENT})

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if absent(name):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

find = importlib.util.find_spec  # who only asks is told that there is none
importlib.util.find_spec = lambda name, package=None: None if absent(name) else find(name, package)
sys.meta_path.insert(0, Refuse())
"""


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """``code`` with ``args``, where the packages of ``ABSENT`` are absent."""
    command = [sys.executable, "-c", REFUSE + code, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300)


def script(path: str, *args: str) -> subprocess.CompletedProcess[str]:
    code = f"import runpy; sys.argv[0] = {path!r}; runpy.run_path({path!r}, run_name='__main__')"
    return python(code, *args)


def test_the_benchmark_starts():
    done = script("scripts/benchmark.py", "--help")
    assert done.returncode == 0 and "--suite" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path):
    sizes = ("--preset=tiny", "--frames=4", "--topk=0.5", "--repeats=1")
    done = script("scripts/benchmark.py", *sizes, "--stages=vit,train", f"--out={tmp_path}")
    assert (tmp_path / "benchmark.md").is_file(), done.stderr


@pytest.mark.slow
def test_training_starts(tmp_path: Path):
    asked = ("checkpoints/tiny-dense", "synthetic_video_qa_text", "--dry_run")
    done = script(
        "launch_scripts/train_image_video_sft.py", *asked, f"--save_folder={tmp_path / 'run'}"
    )
    assert done.returncode == 0 and "Memory" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_gpu_tests_are_collected():
    code = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    chosen = ("-m", "gpu", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider")
    done = python(code, *chosen, "tests")
    assert done.returncode == 0, done.stdout[-3000:]
    counts = re.findall(r"^tests/\S+\.py: (\d+)$", done.stdout, re.M)
    assert sum(map(int, counts)) >= 29, done.stdout
