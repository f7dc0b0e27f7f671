"""Imports inside ``olmo`` point one way only. The table below is the rule."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BASE = frozenset(
    [
        *("config", "types", "tokenizer", "distributed", "patch_grid", "token_budget"),
        *("model_configs", "outside", "limits", "setting_text", "yaml_file", "command_line"),
        *("text", "files", "templates", "device", "legacy", "mappings", "plugin"),
    ]
)
NN = BASE | {"nn"}
PREPROCESSING = BASE | {"preprocessing"}
DATA = PREPROCESSING | {"data"}
DATASETS = DATA | {"datasets"}
DOWNLOAD = BASE | {"download"}
MODELS = NN | PREPROCESSING | {"models"}
HF_MODEL = MODELS | DATASETS | {"hf_model"}
VIEWER = MODELS | DATASETS | {"viewer"}
EVAL = HF_MODEL | VIEWER | {"eval"}
BENCHMARK = EVAL | {"benchmark"}
TRAIN = EVAL | {"train"}

ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(BASE, BASE),
    "nn": NN,
    "preprocessing": PREPROCESSING,
    "data": DATA,
    "datasets": DATASETS,
    "download": DOWNLOAD,
    "models": MODELS,
    "hf_model": HF_MODEL,
    "viewer": VIEWER,
    "eval": EVAL,
    "benchmark": BENCHMARK,
    "train": TRAIN,
    "__init__": TRAIN
    | {"benchmark"},  # the facade, olmo/__init__.py; nothing inside olmo imports it
}
"""What each module or package directly under ``olmo`` may import from ``olmo``."""

CATALOGUE = "datasets"
"""``olmo/data/datasets``, a wing of its own; ``olmo.data`` reaches it by the registry alone."""

OUTSIDE = {"launch_scripts", "scripts", "tests"}
"""They may import all of ``olmo``; ``olmo`` imports none of them."""


def imported_names(source: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and dotted name of every import in ``source``, wherever it stands: at the top, in a
    function, under TYPE_CHECKING, or as the text given to ``import_module``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            package = list(path.with_suffix("").parts[: -node.level]) if node.level else []
            package += node.module.split(".") if node.module else []
            for alias in node.names:
                yield node.lineno, [*package, alias.name]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value).split(".")


def unit_of(name: Sequence[str]) -> str:
    """The row of the table for ``olmo.data.video_file`` and the like."""
    return CATALOGUE if tuple(name[1:3]) == ("data", CATALOGUE) else name[1]


def violations(source: str, path: Path) -> list[str]:
    """Imports of ``source`` that its place ``path`` (``olmo/...``) forbids, as ``file:line``."""
    unit = unit_of(path.with_suffix("").parts)
    if unit not in ALLOWED:
        return [f"{path}: 'olmo.{unit}' has no row in the table of {Path(__file__).name}"]
    found = []
    for line, name in imported_names(source, path):
        inside = name[0] == "olmo" and (unit_of(name) if len(name) > 1 else "__init__")
        if name[0] in OUTSIDE or (inside and inside not in ALLOWED[unit]):
            found.append(f"{path}:{line}: olmo.{unit} must not import {'.'.join(name)}")
    return found


def test_imports_point_one_way() -> None:
    files = sorted((ROOT / "olmo").rglob("*.py"))
    assert files
    found = [v for f in files for v in violations(f.read_text(), f.relative_to(ROOT))]
    assert not found, "\n" + "\n".join(found)


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {f.with_suffix("").relative_to(ROOT).parts: f for f in (ROOT / "olmo").rglob("*.py")}
    imports = {
        place: {
            tuple(name[:n])
            for _, name in imported_names(file.read_text(), file.relative_to(ROOT))
            for n in (len(name), len(name) - 1)
            if tuple(name[:n]) in files
        }
        for place, file in files.items()
    }
    while leaves := [place for place, targets in imports.items() if not targets]:
        for leaf in leaves:
            del imports[leaf]
        for targets in imports.values():
            targets.difference_update(leaves)
    assert not imports, "\n".join(f"{'.'.join(place)} -> {imports[place]}" for place in imports)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("olmo/nn/llm.py", "from olmo.preprocessing.video import sample"),
        ("olmo/nn/llm.py", "import olmo.data"),
        ("olmo/nn/llm.py", "from olmo import models"),
        ("olmo/nn/llm.py", "from olmo import load_model"),
        ("olmo/nn/llm.py", "def f():\n    from olmo.models.registry import get"),
        ("olmo/nn/llm.py", "if TYPE_CHECKING:\n    from olmo.train import trainer"),
        ("olmo/nn/llm.py", "from ..data import loader"),
        ("olmo/nn/__init__.py", "from ..data import loader"),
        ("olmo/nn/llm.py", "importlib.import_module('olmo.data.loader')"),
        ("olmo/config.py", "from olmo.nn import rope"),
        ("olmo/preprocessing/video.py", "from olmo.models import registry"),
        ("olmo/preprocessing/video.py", "from olmo.nn.image_vit import VitConfig"),
        ("olmo/data/loader.py", "from olmo.nn import rope"),
        ("olmo/data/loader.py", "from olmo.data.datasets import tables"),
        ("olmo/viewer/draw.py", "from olmo.eval import report"),
        ("olmo/models/molmo2/molmo2.py", "from olmo.data import loader"),
        ("olmo/eval/tasks.py", "from olmo.train.config import TrainConfig"),
        ("olmo/train/trainer.py", "from launch_scripts import demo"),
        ("olmo/unheard_of/x.py", ""),
    ],
)
def test_a_violation_is_caught(path: str, source: str) -> None:
    assert len(violations(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("olmo/nn/llm.py", "import torch\nfrom olmo.nn import rope\nfrom . import layers"),
        ("olmo/tokenizer.py", "from olmo.config import Config\nfrom .types import PAD_ID"),
        ("olmo/models/molmo2/molmo2.py", "from olmo.preprocessing import collator"),
        ("olmo/train/trainer.py", "from olmo.eval import evaluator\nfrom olmo.nn import flops"),
        ("olmo/__init__.py", "def load_model(path):\n    from olmo.models import registry"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []
