"""Go on where a run stopped: which checkpoint, whether it is this run's, and what if it is damaged.

Rank 0 decides and tells the others.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from olmo.distributed import from_main, is_main
from olmo.models.loading import CheckpointError
from olmo.train.checkpoint import MisfitError, load_checkpoint
from olmo.train.config import TrainConfig
from olmo.train.identity import Differences, compare
from olmo.train.state import TrainerState, read_config, read_state
from olmo.train.steps import Passed, newest_whole, set_aside, tidy, whole_under_other_names

log = logging.getLogger(__name__)


def find_resume(config: TrainConfig, passed: Passed) -> Path | None:
    """The checkpoint to go on from, which is not in ``passed``; None to begin anew. Adds to
    ``passed``.

    ``CheckpointError`` if something is there but nothing of it whole, or if ``allow_fallback``
    does not let an older checkpoint stand in; ``ValueError`` if ``allow_resume`` wants none.
    """
    folder = Path(config.save_folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not passed:
        tidy(folder)
    whole = newest_whole(folder, passed)
    if not config.allow_resume and (whole or passed):
        raise ValueError(
            f"{whole or next(iter(passed))} exists and allow_resume is False: take another "
            "save_folder, or remove it"
        )
    if whole is None and not passed:
        for other in whole_under_other_names(folder):
            passed[other] = f"whole, but only {other.name.partition('-')[0]} would be its name"
    listed = "".join(f"\n  {path}: {why}" for path, why in passed.items())
    if whole is None and passed:
        raise CheckpointError(
            f"{folder}: no whole checkpoint to resume from:{listed}\nMend or remove what is named, "
            "or take another --save_folder"
        )
    if passed and not config.allow_fallback:
        raise CheckpointError(
            f"{folder}: the newest checkpoint is damaged:{listed}\nWithout --allow_fallback=False "
            f"the run goes on from {whole}"
        )
    return whole


def check_same_run(folder: Path, config: TrainConfig, identity: dict[str, Any]) -> Differences:
    """What has changed since ``folder``, which is said. ``ValueError`` if it is of another run than
    ``config`` with ``identity``, of one that is finished and would not learn what has changed, or
    with the state of another optimizer.
    """
    state, before = read_state(folder), read_config(folder)
    found = compare(before, state.identity, config, identity)
    lines = [*found.identity, *found.data, *found.settings]
    listed = "".join(f"\n  {line}" for line in lines)
    if found.identity and not config.allow_changes:
        listed = "".join(f"\n  {line}" for line in found.identity)
        raise ValueError(
            f"{folder} is of another run:{listed}\nTake another --save_folder for a new run, or "
            "go on with this one, where its weights fit them, under the new values by "
            "--allow_changes"
        )
    if lines and state.step >= config.last_step:
        raise ValueError(
            f"{folder}: the run is finished, so nothing would be trained with what has changed:"
            f"{listed}\nTake another --save_folder, or a larger --max_duration (and --stop_at)"
        )
    bits = before.optimizer.bits
    goes_on = state.step < config.last_step and not config.reset_optimizer_state
    if goes_on and bits != config.optimizer.bits:
        raise ValueError(
            f"{folder} holds the state of an optimizer with optimizer.bits={bits}, not "
            f"{config.optimizer.bits}: go back to that, or go on with a fresh state by "
            "--reset_optimizer_state"
        )
    if before.max_duration != config.max_duration and state.step < config.last_step:
        listed += f"\n  max_duration: {before.max_duration}, now {config.max_duration}"
    if listed:
        log.warning("%s: changed since this checkpoint:%s", folder, listed)
    return found


def resume(
    config: TrainConfig,
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> TrainerState | None:
    """Load the newest checkpoint that can be read into model and optimizer; None if there is none.

    Examples that waited to be packed are left out if their numbers mean others now. A checkpoint
    whose tensors prove damaged is moved aside once an older one stands in for it. Raises what
    ``find_resume``, ``check_same_run`` and ``load_checkpoint`` do, ``ValueError`` if the weights do
    not fit what ``allow_changes`` allows.
    """
    passed: Passed = {}
    proved: list[Path] = []
    while True:
        folder = from_main(partial(find_resume, config, passed))
        if folder is None:
            return None
        found = from_main(partial(check_same_run, folder, config, identity))
        step = int(folder.name.removeprefix("step"))
        fresh = config.reset_optimizer_state or step >= config.last_step
        try:
            state = load_checkpoint(folder, model, optimizer, fresh)
            break
        except CheckpointError as e:
            if found.identity and isinstance(e, MisfitError):
                raise ValueError(
                    f"{e}: {folder} does not fit the model of the new values, so --allow_changes "
                    "cannot go on with it. Take another --save_folder; it can start from this one"
                ) from e
            passed[folder] = str(e)
            proved.append(folder)
    if found.other_stream:
        state.lanes = {j: {**lane, "buffered": []} for j, lane in state.lanes.items()}
    if is_main():
        _say_fallback(folder, passed, proved)
        log.info("resumed from %s", folder)
        if config.reset_optimizer_state:
            log.warning("the optimizer begins afresh, at every start with reset_optimizer_state")
    return state


def _say_fallback(folder: Path, passed: Passed, proved: list[Path]) -> None:
    for path, why in passed.items():
        moved = ""
        if path in proved:
            try:
                moved = f"; it is now {set_aside(path)}"
            except OSError as e:
                moved = f"; it could not be moved aside: {e}"
        log.warning(
            "RESUMING FROM AN OLDER CHECKPOINT: %s in place of %s, which is damaged: %s%s",
            *(folder, path, why, moved),
        )
