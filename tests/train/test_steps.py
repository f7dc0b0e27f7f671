"""What is a whole checkpoint, and what a run may delete."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from olmo.models.loading import select_checkpoint
from olmo.train.checkpoint import latest_checkpoint
from olmo.train.steps import flaw, newest_whole, retain, tidy, whole_under_other_names
from olmo.train.trainer import Trainer
from tests.train.rows import make_trainer, train_config, write_start
from tests.train.state import take_step

ROWS = [[[0], [1]]]
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_start("dense", folder)
    return folder


@pytest.fixture(scope="module")
def three_steps(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(train_config("dense", folder), start)
    for _ in range(3):
        save_a_step(trainer)
    return folder


@pytest.fixture
def run(three_steps: Path, tmp_path: Path) -> Path:
    """A run with step1, step2 and step3."""
    return shutil.copytree(three_steps, tmp_path / "run", symlinks=True)


def save_a_step(trainer: Trainer) -> None:
    take_step(trainer, ROWS)
    trainer.save()
    trainer.checkpoints.wait()


def continued(run: Path, start: Path, step: int = 3, keep: int = 1) -> Trainer:
    """A trainer that has got to ``step`` in ``run``."""
    config = train_config("dense", run, save_num_checkpoints_to_keep=keep)
    trainer = make_trainer(config, start)
    trainer.state.step = step
    return trainer


def contents(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        return {".": path.read_bytes()}
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def step_names(run: Path) -> set[str]:
    return {p.name for p in run.iterdir() if "step" in p.name}


def copy_as(step: int, drop: str = "") -> Change:
    """A copy of step3 that says it is ``step``, without the file ``drop``."""

    def change(path: Path) -> None:
        shutil.copytree(path.parent / "step3", path)
        file = path / "train" / "state.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "step": step}))
        if drop:
            (path / drop).unlink()

    return change


def folder_with_notes(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


# --- what is kept ----------------------------------------------------------------------------

STRAYS: dict[str, tuple[str, Change]] = {
    "empty folder": ("step99", Path.mkdir),
    "file": ("step99", lambda p: p.write_text("x")),
    "notes": ("step99", folder_with_notes),
    "without shards": ("step99", copy_as(99, "model_and_optim/__0_0.distcp")),
    "without metadata": ("step99", copy_as(99, "model_and_optim/.metadata")),
    "without state": ("step99", copy_as(99, "train/state.json")),
    "without config": ("step99", copy_as(99, "config.yaml")),
    "without random state": ("step99", copy_as(99, "train/rank0.pt")),
    "of another step": ("step99", copy_as(3)),
    "older and not whole": ("step0", copy_as(0, "train/state.json")),
    "padded number": ("step002", copy_as(2)),
    "dangling link": ("step99", lambda p: p.symlink_to("nowhere")),
    "link to another step": ("step99", lambda p: p.symlink_to("step1")),
    "unsharded": ("step2-unsharded", copy_as(2)),
    "copy by hand": ("step2-old", copy_as(2)),
    "half a copy by hand": ("step4-tmp", folder_with_notes),
    "whole, of an earlier, longer run": ("step99", copy_as(99)),
}


ALWAYS = ("empty folder", "whole, of an earlier, longer run")


@pytest.mark.parametrize(
    ("stray", "keep"),
    [
        pytest.param(name, keep, marks=[] if name in ALWAYS else pytest.mark.slow)
        for name, keep in zip(STRAYS, cycle((1, 2)), strict=False)
    ],
)
def test_strays_neither_count_nor_go(stray: str, keep: int, run: Path, start: Path) -> None:
    name, make = STRAYS[stray]
    make(run / name)
    before = None if name == "step99" and not (run / name).exists() else contents(run / name)
    tidy(run)
    trainer = continued(run, start, keep=keep)
    save_a_step(trainer)
    save_a_step(trainer)
    if stray == "link to another step":  # its target may go, the link may not
        assert (run / name).is_symlink()
    elif before is not None:
        assert contents(run / name) == before
    own = {f"step{n}" for n in (range(5, 5 - keep, -1))}
    assert step_names(run) - {name} == own
    assert all(flaw(run / step) is None for step in own)
    if stray != "whole, of an earlier, longer run":
        assert latest_checkpoint(run) == run / "step5"


def test_a_linked_checkpoint_counts_for_resuming_and_is_never_deleted(
    run: Path, start: Path, tmp_path: Path
) -> None:
    shutil.move(run / "step3", tmp_path / "step3")
    (run / "step3").symlink_to(tmp_path / "step3")
    assert latest_checkpoint(run) == run / "step3"
    save_a_step(continued(run, start))
    assert step_names(run) == {"step3", "step4"} and flaw(tmp_path / "step3") is None


def test_negative_keeps_all(run: Path) -> None:
    retain(run, 3, -1)
    assert step_names(run) == {"step1", "step2", "step3"}


def test_what_cannot_be_deleted_is_said_and_the_run_goes_on(
    run: Path, start: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "step1":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    save_a_step(continued(run, start))
    assert step_names(run) == {"step1", "step4"}
    assert f"{run / 'step1'} cannot be deleted: " in caplog.text


@pytest.mark.parametrize("there", ["notes", "whole, of an earlier, longer run", "file"])
def test_what_lies_where_a_checkpoint_belongs_is_moved_aside(
    there: str, run: Path, start: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make = copy_as(4) if "whole" in there else STRAYS[there][1]
    make(run / "step4")
    (run / "step4-set-aside").mkdir()  # the name is taken
    before = contents(run / "step4")
    save_a_step(continued(run, start))
    assert contents(run / "step4-set-aside-2") == before
    assert flaw(run / "step4") is None and "step4-set-aside-2" in caplog.text


# --- what killed runs leave ----------------------------------------------------------------------


def test_a_checkpoint_that_only_lacked_its_name_gets_it(run: Path) -> None:
    """The kill came between the last file and the renaming; ``step2`` was there by then."""
    for name in ("step3", "step2"):
        shutil.copytree(run / name, run / f".{name}-tmp")
    shutil.rmtree(run / "step3")
    shutil.copytree(run / "step1", run / ".step7-tmp")
    shutil.copytree(run / "step1", run / ".step1-old")
    tidy(run)
    assert step_names(run) == {"step1", "step2", "step3"}
    assert latest_checkpoint(run) == run / "step3"


def test_the_only_whole_copy_under_another_name_is_named(run: Path) -> None:
    (run / "step3").rename(run / "step3-old")
    shutil.rmtree(run / "step2")
    shutil.rmtree(run / "step1")
    tidy(run)
    assert latest_checkpoint(run) is None
    assert whole_under_other_names(run) == [run / "step3-old"]


# --- damage that shows without reading tensors ----------------------------------------------------


def rewrite(name: str, **values: object) -> Change:
    def change(step: Path) -> None:
        file = step / name
        data = json.loads(file.read_text())
        file.write_text(json.dumps({**data, **values}))

    return change


def write(name: str, text: str) -> Change:
    return lambda step: (step / name).write_text(text)


def cut(name: str) -> Change:
    def change(step: Path) -> None:
        file = step / name
        os.truncate(file, file.stat().st_size // 2)

    return change


STATE, LANE = "train/state.json", {"next_id": 4, "buffered": [2]}
DAMAGE: dict[str, Change] = {
    **{f"empty {n}": write(n, "") for n in (STATE, "config.yaml", "model_and_optim/.metadata")},
    **{f"no JSON: {text}": write(STATE, text) for text in ("{", "null", "[]", "3", "\x00")},
    "no UTF-8": lambda step: (step / STATE).write_bytes(b"\xff\xfe"),
    "deep JSON": write(STATE, "[" * 100_000),
    **{f"config {text}": write("config.yaml", text) for text in ("[]", "model: 3", "model: {}: {")},
    "config with a wrong value": write("config.yaml", "model: {}\nmax_duration: many"),
    "no step": write(STATE, '{"lanes": {}, "world_size": 1}'),
    "no lanes": write(STATE, '{"step": 3, "world_size": 1}'),
    "no identity": write(STATE, '{"step": 3, "lanes": {}, "world_size": 1}'),
    **{
        f"{key} = {value!r}": rewrite(STATE, **{key: value})
        for key, value in (
            *(("step", v) for v in (-3, 3.0, "3", True, None, 2)),
            *(("world_size", v) for v in (0, -1, None, 2, 1.5)),
            *(("tokens_seen", -1), ("examples_seen", "many"), ("wandb_id", 3), ("identity", [])),
            *(("identity", v) for v in ({"x": 1}, {"start": {}}, {"data": {"a": 3}})),
            ("identity", {"data": {"a": {"examples": "many", "rate": 1.0}}}),
            ("unheard_of", 1),
            *(("lanes", v) for v in ([], None, {"1": LANE}, {"x": LANE}, {"0": 3}, {"00": LANE})),
            *(("lanes", {"0": {**LANE, "next_id": v}}) for v in (-1, 1.5, None, "4", True)),
            *(("lanes", {"0": {**LANE, "buffered": v}}) for v in (None, 3, [-1], ["2"], [None])),
            ("lanes", {"0": {"next_id": 4}}),
        )
    },
    "cut shard": cut("model_and_optim/__0_0.distcp"),
    "cut metadata": cut("model_and_optim/.metadata"),
    "no shard": lambda step: (step / "model_and_optim/__0_0.distcp").unlink(),
    "no random state": lambda step: (step / "train/rank0.pt").unlink(),
}


FIRST = {re.split(" = |:", name)[0]: name for name in reversed(DAMAGE)}.values()
"""One damage of each kind; the others are slow."""


@pytest.mark.parametrize(
    "damage",
    [pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in DAMAGE],
)
def test_damage_is_named_and_passed_over(damage: str, run: Path) -> None:
    DAMAGE[damage](run / "step3")
    passed: dict[Path, str] = {}
    assert newest_whole(run, passed) == run / "step2"
    assert list(passed) == [run / "step3"]
    assert str(run / "step3") in passed[run / "step3"]


def test_a_whole_state_is_whole(run: Path) -> None:
    rewrite(STATE, lanes={"0": LANE, "1": LANE}, wandb_id="x")(run / "step3")
    assert flaw(run / "step3") is None


@pytest.mark.parametrize("stray", ["empty folder", "notes", "without shards", "without metadata"])
def test_loading_passes_over_what_is_not_whole(
    stray: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same rule for everything that takes a run folder."""
    STRAYS[stray][1](run / "step99")
    assert select_checkpoint(run) == run / "step3"
    assert f"{run / 'step99'} is passed over for {run / 'step3'}" in caplog.text
    assert select_checkpoint(run / "step2") == run / "step2"
