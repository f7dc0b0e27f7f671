"""Write and resume training checkpoints.

    RUN/step{N}/config.yaml           the resolved TrainConfig; the model is under ``model``
    RUN/step{N}/model_and_optim/      torch.distributed.checkpoint data
    RUN/step{N}/train/state.json      step, counters, state of the loader's lanes
    RUN/step{N}/train/rank{R}.pt      random state of each rank

A checkpoint is written in the background to ``step{N}-tmp`` and renamed when all of it is on disk,
so a ``step{N}`` folder is always whole. One that must go is renamed to ``step{N}-old`` first.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from olmo.data.loader import LaneState
from olmo.distributed import (
    all_reduce_sum,
    broadcast_object,
    gather_object,
    get_rank,
    get_world_size,
    is_main,
)
from olmo.models.loading import SHARDED, CheckpointError, CheckpointReader, is_checkpoint
from olmo.train.config import TrainConfig
from olmo.train.errors import SaveError

log = logging.getLogger(__name__)


@dataclass
class TrainerState:
    """Counters of a run, over all ranks."""

    step: int = 0
    examples_seen: int = 0
    tokens_seen: int = 0
    examples_skipped: int = 0
    updates_skipped: int = 0
    wandb_id: str | None = None
    lanes: dict[int, LaneState] = field(default_factory=dict)


def latest_checkpoint(save_folder: str | Path) -> Path | None:
    """The complete ``step{N}`` folder with the highest N."""
    found = []
    folder = Path(save_folder)
    for child in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(r"step(\d+)", child.name)
        if match and is_checkpoint(child) and (child / "train" / "state.json").is_file():
            found.append((int(match[1]), child))
    return max(found)[1] if found else None


class Checkpointer:
    """Writes the checkpoints of a run in the background, one at a time.

    Every rank makes one and makes the same calls.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.folder = Path(config.save_folder)
        # the writer's collectives must not mix with those of the training thread
        timeout = datetime.timedelta(hours=2)
        self.group = (
            dist.new_group(backend="gloo", timeout=timeout) if dist.is_initialized() else None
        )
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None
        self.part = self.folder
        on_main(self._clean)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState) -> Path:
        """Start to write ``step{N}``; the model may change as soon as this returns.

        ``state.lanes`` holds the newest state of this rank's lanes. Raises ``SaveError`` if this
        cannot start, or if
        the write before it failed.
        """
        self.wait()
        final = self.folder / f"step{state.step}"
        self.part = final.with_name(final.name + "-tmp")
        on_main(lambda: (self.part / "train").mkdir(parents=True))
        files = self._small_files(state)
        model_state, optim_state = get_state_dict(model, optimizer)
        written = dcp.async_save(
            {"model": model_state, "optim": optim_state},
            checkpoint_id=self.part / SHARDED,
            process_group=self.group,
        )
        assert isinstance(written, Future)
        self.pending = self.thread.submit(self._finish, written, files, final)
        return final

    @property
    def failed(self) -> bool:
        """Whether this rank knows that the write under way has failed; ``wait`` then raises."""
        return self.pending is not None and self.pending.done() and bool(self.pending.exception())

    def wait(self) -> None:
        """Until the last checkpoint is whole; ``SaveError``, on every rank, if it failed."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        error = pending.exception()
        failures = torch.tensor([float(error is not None)])
        if not all_reduce_sum(failures, self.group).item():
            return
        on_main(lambda: shutil.rmtree(self.part, ignore_errors=True))
        whole = latest_checkpoint(self.folder)
        raise SaveError(
            f"{self.part}: the checkpoint could not be written: "
            f"{_cause(error) if error else 'another rank failed'}{_free(self.folder)}. "
            + (f"The newest whole one is {whole}" if whole else "There is no earlier one")
        ) from error

    def close(self) -> None:
        """Let a write under way end; its failure is only logged."""
        if self.pending is not None and (error := self.pending.exception()) is not None:
            log.error("%s: the checkpoint could not be written: %s", self.part, _cause(error))
        self.thread.shutdown()

    def _small_files(self, state: TrainerState) -> dict[str, Any]:
        """Name to content of what rank 0 writes beside the tensors; empty on the others."""
        gathered = gather_object((state.lanes, _random_state()))
        if gathered is None:
            return {}
        lanes = merge_lanes([rank_lanes for rank_lanes, _ in gathered])
        data = {**asdict(state), "lanes": lanes, "world_size": get_world_size()}
        files: dict[str, Any] = {f"train/rank{r}.pt": rng for r, (_, rng) in enumerate(gathered)}
        return files | {"train/state.json": json.dumps(data)}

    def _finish(self, written: Future[Any], files: dict[str, Any], final: Path) -> None:
        """In the writer's thread. Rank 0's write ends after that of all ranks."""
        written.result()
        if not is_main():
            return
        for name, content in files.items():
            with (self.part / name).open("wb") as file:
                file.write(content.encode()) if isinstance(content, str) else torch.save(
                    content, file
                )
                file.flush()
                os.fsync(file.fileno())
        self.config.save(self.part / "config.yaml")
        if final.exists():
            _remove(final)
        self.part.rename(final)
        _fsync_folder(self.folder)
        log.info("saved %s", final)
        self._retain(self.config.save_num_checkpoints_to_keep)

    def _retain(self, keep: int) -> None:
        if keep < 0:
            return
        steps = sorted(
            (int(m[1]), p)
            for p in self.folder.iterdir()
            if (m := re.fullmatch(r"step(\d+)", p.name))
        )
        for _, path in steps[: max(len(steps) - max(keep, 1), 0)]:
            _remove(path)

    def _clean(self) -> None:
        """Remove what a killed run left behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if re.fullmatch(r"step\d+-(tmp|old)", path.name):
                shutil.rmtree(path)


def merge_lanes(ranks: list[dict[int, LaneState]]) -> dict[int, LaneState]:
    """The newest state of every lane. After a resume a rank also holds old states of the lanes
    that others move on; ``next_id`` only grows."""
    newest: dict[int, LaneState] = {}
    for j, lane in (item for lanes in ranks for item in lanes.items()):
        if j not in newest or lane["next_id"] > newest[j]["next_id"]:
            newest[j] = lane
    return newest


def on_main(action: Callable[[], object]) -> None:
    """Run ``action`` on rank 0; its ``OSError`` becomes a ``SaveError`` on every rank."""
    error = None
    if is_main():
        try:
            action()
        except OSError as e:
            error = str(e)
    if (error := broadcast_object(error)) is not None:
        raise SaveError(error)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainerState:
    """Restore model, optimizer and random state in place; any number of ranks.

    Learning rates, decay and betas stay those of ``optimizer``, which the config sets.
    """
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    model_state, optim_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optim": optim_state}
    try:
        dcp.load(
            state,
            storage_reader=CheckpointReader(folder / SHARDED),
            no_dist=get_world_size() == 1,
        )
    except CheckpointException as e:  # not an Exception: it would pass every handler
        raise CheckpointError(f"{folder / SHARDED}: cannot resume: {_cause(e)}") from e
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optim"],
    )
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)
    data = json.loads((folder / "train" / "state.json").read_text())
    world_size = data.pop("world_size")
    lanes = {int(j): lane for j, lane in data.pop("lanes").items()}
    if world_size == get_world_size():
        file = folder / "train" / f"rank{get_rank()}.pt"
        _set_random_state(torch.load(file, weights_only=True))
    elif is_main():
        log.warning("resuming %d ranks on %d: dropout differs", world_size, get_world_size())
    return TrainerState(**data, lanes=lanes)


def save_unsharded(
    model: nn.Module, config: TrainConfig, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write ``config.yaml`` and ``model.safetensors`` of a model on one process."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: v.detach().to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()
    }
    save_file(tensors, str(folder / "model.safetensors"))
    config.save(folder / "config.yaml")


def _remove(path: Path) -> None:
    """Take a checkpoint away: a kill on the way leaves no half of it under its own name."""
    old = path.with_name(path.name + "-old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old)


def _cause(error: BaseException) -> str:
    """The first failure inside DCP's exception, which lists one per rank."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {cause or type(cause).__name__}"
    return str(error) or type(error).__name__


def _free(folder: Path) -> str:
    """Room left: torch words a full disk as an unexpected position in a file."""
    return f" ({shutil.disk_usage(folder).free / 2**30:.1f} GiB free)" if folder.is_dir() else ""


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _random_state() -> dict[str, Any]:
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
