"""``--plugin my_methods.py``."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from pathlib import Path

import pytest
from PIL import Image

from launch_scripts.eval_molmo2 import build_config
from olmo.command_line import Parser
from olmo.config import ConfigError
from olmo.data import registry
from olmo.nn.token_pruning import PRUNE_METHODS
from olmo.plugin import load_plugin
from scripts.visualize_pruning import main as visualize

METHOD = """
from olmo.data.registry import register_dataset
from olmo.nn.token_pruning import ScoreInputs, prune_method


@prune_method("{name}_method")
def score(inputs: ScoreInputs):
    return inputs.grid.cell_means(inputs.images.float().mean(-1))


class Rows(list):
    def get(self, idx, rng):
        return self[idx]


@register_dataset("{name}_rows", ["train"])
def build(split):
    return Rows([{{"id": 1}}])
"""


TAKEN = """
import olmo.eval.scoring
from olmo.eval.scoring.score import scorer
from olmo.nn.token_pruning import prune_method

@{kind}("{name}")
def of_another(*inputs):
    raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    registry.dataset_names()  # fills the table
    before = [(table, dict(table)) for table in (PRUNE_METHODS, registry._ENTRIES)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def plugin(folder: Path, name: str, text: str = METHOD) -> Path:
    file = folder / f"{name}.py"
    file.write_text(text.format(name=name))
    return file


def test_methods_and_data_sets_are_known_afterwards(tmp_path: Path):
    first, second = plugin(tmp_path, "own_first"), plugin(tmp_path, "own_second")
    parser = Parser("Text.", plugins=True)
    found = parser.parse_args([f"--plugin={first}", "--plugin", str(second)])
    assert vars(found) == {}
    assert {"own_first_method", "own_second_method"} <= set(PRUNE_METHODS)
    assert registry.get_dataset("own_first_rows", "train").get(0, None) == {"id": 1}
    load_plugin(first)  # once is enough


def test_a_name_that_is_taken_names_both_files(tmp_path: Path):
    text = METHOD.replace("{name}_rows", "synthetic_video_qa")
    with pytest.raises(ConfigError, match=r"line 16: .* twice, by olmo\..* and own_rows: rename"):
        load_plugin(plugin(tmp_path, "own_rows", text))


def test_a_module_may_define_its_method_anew(tmp_path: Path):
    file = plugin(tmp_path, "own_again")
    load_plugin(file)
    registry._ENTRIES.clear()
    first = PRUNE_METHODS["own_again_method"]
    importlib.reload(sys.modules["own_again"])
    assert PRUNE_METHODS["own_again_method"] is not first


@pytest.mark.slow
def test_objects_of_a_plugin_reach_new_processes(tmp_path: Path):
    """As the workers of a loader start: nothing but pickled objects, and ``sys.path``."""
    load_plugin(plugin(tmp_path, "own_worker"))
    rows = sys.modules["own_worker"].build("train")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(rows.get, (0, None)) == {"id": 1}


def test_scripts_take_it(tmp_path: Path):
    file = plugin(tmp_path, "own_script")
    assert build_config(["run", "--plugin", str(file)]).checkpoint == "run"
    clip = tmp_path / "clip.gif"
    frames = [Image.new("L", (96, 96), grey) for grey in (0, 60, 120, 180)]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=500)
    flags = [f"--plugin={file}", "--prune_method=own_script_method", "--frame_size=96"]
    flags += ["--patch_size=8"]
    assert visualize([str(clip), "--out", str(tmp_path / "out.png"), *flags]) == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.txt", "", "expected a Python file such as my_methods.py"),
        ("my-own.py", "", "expected a Python file such as my_methods.py"),
        ("own_absent.py", None, "no such file"),
        ("own_error.py", "x = 1\ny = z\n", "line 2: NameError: name 'z' is not defined"),
        ("own_syntax.py", "x = = 1\n", "SyntaxError: invalid syntax"),
        ("own_end.py", "import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("own_easy.py", TAKEN.format(kind="prune_method", name="easy"), "'easy' is that of olmo"),
        (
            "own_tracking.py",
            TAKEN.format(kind="scorer", name="tracking"),
            "'tracking' is that of olmo",
        ),
        ("statistics.py", "", "the name statistics is that of .*statistics.py; rename the file"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, text: str | None, message: str):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"--plugin .*{name}.*{message}"):
        load_plugin(tmp_path / name)
