"""The step folders of a run: which are whole, which may go, what is left of a killed run.

    RUN/step{N}                  a checkpoint; a folder of this name that training wrote is whole
    RUN/.step{N}-tmp             one being written
    RUN/.step{N}-old             one being deleted
    RUN/step{N}-set-aside        what lay where a checkpoint belongs, or proved damaged

Training deletes whole checkpoints of its own, beyond those to keep, and the names with a dot.
Everything else in the folder is the user's.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from olmo.models import run_folder
from olmo.models.loading import SHARDED, CheckpointError
from olmo.models.run_folder import CONFIG_FILE
from olmo.train.state import random_file, read_config, read_state

log = logging.getLogger(__name__)

STEP = re.compile(r"step(0|[1-9][0-9]{0,17})")
UNFINISHED = re.compile(r"\.(step[0-9]+)-(tmp|old)")
BY_HAND = re.compile(r"(step[0-9]+)-(tmp|old)")
PARTS = (SHARDED, "train", CONFIG_FILE)
"""What a step folder holds."""

Passed = dict[Path, str]
"""Step folders that cannot be used, with the reason."""


def flaw(folder: Path, name: str | None = None) -> str | None:
    """Why a run cannot go on from ``folder``; None if it is a whole checkpoint with the state of a
    run. Tensors are not read. ``name``: the step folder that it stands for, by default itself."""

    def state_of_a_run() -> None:
        read_config(folder)
        for rank in range(read_state(folder, name).world_size):
            if not random_file(folder, rank).is_file():
                raise CheckpointError(f"{random_file(folder, rank)}: missing")

    return run_folder.flaw(folder, state_of_a_run)


def newest_whole(folder: Path, passed: Passed) -> Path | None:
    """The newest whole checkpoint in ``folder`` that is not in ``passed``; adds newer ones that do
    not count to that.

    A step folder without any part of a checkpoint, or a file of such a name, is none at all.
    """
    for _, path in sorted(_steps(folder), reverse=True):
        if path in passed:
            continue
        reason = flaw(path)
        if reason is None:
            return path
        if path.is_dir() and any((path / part).exists() for part in PARTS):
            passed[path] = reason
        else:
            log.warning("%s is left alone: %s", path, reason)
    return None


def latest_checkpoint(save_folder: str | Path) -> Path | None:
    """The whole ``step{N}`` folder with the highest N from which a run can go on."""
    return newest_whole(Path(save_folder), {})


def retain(folder: Path, step: int, keep: int) -> None:
    """Delete whole checkpoints up to ``step``, the one just written, but for the ``keep`` newest.

    A negative ``keep`` keeps all. Links, and folders that are no whole
    checkpoint, neither count nor go. What cannot be deleted is said in a warning.
    """
    if keep < 0:
        return
    own = [(n, p) for n, p in _steps(folder) if n <= step and not p.is_symlink()]
    kept = 0
    for _, path in sorted(own, reverse=True):
        if flaw(path) is not None:
            continue
        kept += 1
        if kept > keep:
            try:
                _delete(path)
            except OSError as e:
                log.warning("%s cannot be deleted: %s", path, e)


def set_aside(path: Path) -> Path:
    """Move what lies at ``path`` to a free name beside it, which is returned."""
    new, number = path.with_name(f"{path.name}-set-aside"), 1
    while new.exists() or new.is_symlink():
        number += 1
        new = path.with_name(f"{path.name}-set-aside-{number}")
    path.rename(new)
    return new


def tidy(folder: Path) -> None:
    """Remove what a killed run left behind. A checkpoint that only lacked its name gets it."""
    for path in list(folder.iterdir()):
        try:
            _tidy_away(path)
        except OSError as e:
            log.warning("%s is left alone: %s", path, e)


def _tidy_away(path: Path) -> None:
    match = UNFINISHED.fullmatch(path.name)
    if match is None:
        if BY_HAND.fullmatch(path.name):
            log.warning("%s is left alone; delete it if nobody needs it", path)
        return
    final = path.with_name(match[1])
    if match[2] == "tmp" and not final.exists() and flaw(path, final.name) is None:
        path.rename(final)
    else:
        shutil.rmtree(path)


def whole_under_other_names(folder: Path) -> list[Path]:
    """Folders that would be checkpoints under their own step's name, such as ``step5-old``."""
    matches = [(p, BY_HAND.fullmatch(p.name)) for p in folder.iterdir()]
    return sorted(p for p, match in matches if match and flaw(p, match[1]) is None)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    children = folder.iterdir() if folder.is_dir() else ()
    return [(int(match[1]), p) for p in children if (match := STEP.fullmatch(p.name))]


def _delete(path: Path) -> None:
    """A kill on the way leaves no half of it under its own name."""
    old = path.with_name(f".{path.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old)
