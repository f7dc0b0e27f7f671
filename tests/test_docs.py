"""The examples of the documentation run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from olmo.eval.scorers import score_example
from olmo.eval.scoring.score import SCORERS
from olmo.eval.tasks import TASKS, resolve_tasks
from olmo.nn.image_vit import normalize_pixels
from olmo.nn.token_pruning import PRUNE_METHODS
from tests.data.broken_media import BROKEN, LEGAL
from tests.eval.scripts import environment
from tests.nn.conftest import backbone, video

DOCS = Path(__file__).parents[1] / "docs"


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def test_own_method() -> None:
    """The toy method of ``docs/stts.md``, in under 20 lines, keeps the brightest cells."""
    (code,) = python_blocks("stts.md")
    assert len(code.splitlines()) < 20
    try:
        exec(compile(code, "docs/stts.md", "exec"), {"__name__": "toy"})
        x = video(4, 0)
        out = backbone(prune_method="brightest")(
            x["images"], None, x["token_pooling"], x["num_images"], x["multimodal_type"]
        )
    finally:
        PRUNE_METHODS.pop("brightest", None)
    patches = normalize_pixels(x["images"][0]).mean(-1)
    brightness = patches[:, x["token_pooling"][0, :9]].mean(-1)[1:].flatten()
    kept = out.keep[0, 9:]
    assert out.keep[0, :9].all() and kept.sum() == 36 - 18 - 9
    assert brightness[kept].min() > brightness[~kept].max()
    assert out.features.shape == (18, 16) and torch.isfinite(out.features).all()


def test_own_scorer_and_task() -> None:
    """The plug-in of ``docs/evaluation.md``."""
    code = next(block for block in python_blocks("evaluation.md") if "TASKS.append" in block)
    try:
        exec(compile(code, "docs/evaluation.md", "exec"), {"__name__": "my_tasks"})
        (task,) = resolve_tasks("mine", None)
        right = score_example("It is a Dog.", {"answer": "dog"}, task.metric)
        assert (right["correct"], right["reference"]) == (1.0, "dog")
    finally:
        SCORERS.pop("contains", None)
        TASKS[:] = [task for task in TASKS if task.name != "my_task"]


def test_counts_of_media() -> None:
    counts = re.search(
        r"lists (\d+) kinds of broken and (\d+) kinds", (DOCS / "data.md").read_text()
    )
    assert counts is not None and [int(n) for n in counts.groups()] == [len(BROKEN), len(LEGAL)]


def test_size_of_the_core() -> None:
    """Without the catalogue of data sets, and without evaluation, export, viewer and benchmark."""
    root = DOCS.parent
    claimed = re.search(r"under (\d+),000 lines", (root / "README.md").read_text())
    parts = [root / "olmo" / part for part in ("nn", "models", "preprocessing", "train")]
    files = [file for part in parts for file in part.rglob("*.py")]
    files += [*(root / "olmo").glob("*.py"), *(root / "olmo" / "data").glob("*.py")]
    n_lines = sum(len(file.read_text().splitlines()) for file in files)
    assert claimed is not None and n_lines < 1000 * int(claimed[1])


@pytest.mark.slow
def test_own_clips_from_start_to_end(tmp_path: Path) -> None:
    """The commands of that section of ``docs/evaluation.md``, as they stand there."""
    for name in ("checkpoints", "configs", "launch_scripts", "scripts"):
        (tmp_path / name).symlink_to(DOCS.parent / name)
    page = (DOCS / "evaluation.md").read_text()
    section = page.split("\n## Your own clips, from start to end\n")[1].split("\n## ")[0]
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))
    known = environment()
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=tmp_path,
        env={**known, "PATH": f"{Path(sys.executable).parent}:{known['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    own = tmp_path / "runs" / "own"
    runs = ["step20", "step40", *(f"step40-topk={topk}" for topk in (0, 0.3, 0.5, 0.8))]
    files = [own / "run" / "eval" / run / "my" / "metrics.json" for run in runs]
    found = [json.loads(file.read_text()) for file in files]
    assert all(metrics["n"] == 12 and metrics["skipped"] == 0 for metrics in found)
    tokens = [metrics["tokens_after"] for metrics in found[2:]]
    assert tokens == sorted(tokens, reverse=True) and len(set(tokens)) == 4
    page = (own / "compare.html").read_text()
    assert all(label in page for label in ("dense", "scorer 30%", "scorer 80%", "step20"))
