"""Write training checkpoints, and read one back.

    RUN/step{N}/config.yaml           the resolved TrainConfig; the model is under ``model``
    RUN/step{N}/model_and_optim/      torch.distributed.checkpoint data
    RUN/step{N}/train/                ``olmo.train.state``

A checkpoint is written in the background to ``.step{N}-tmp`` and renamed when all of it is on
disk, so a ``step{N}`` folder is always whole. One that must go is renamed first as well.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from olmo.command_line import RunError
from olmo.data.loader import LaneState
from olmo.distributed import all_reduce_sum, from_main, gather, get_rank, get_world_size, is_main
from olmo.models.dcp_files import CheckpointReader, read_into
from olmo.models.dcp_metadata import Chunk
from olmo.models.errors import CheckpointError, everywhere
from olmo.models.run_folder import CONFIG_FILE
from olmo.models.tensors import check_finite, weight_table
from olmo.models.weight_files import SHARDED, DcpSource
from olmo.models.weights import NativeWeights
from olmo.outside import describe, foreign
from olmo.train.config import TrainConfig
from olmo.train.optim import group_of
from olmo.train.state import (
    STATE_FILE,
    TrainerState,
    random_file,
    random_state,
    read_random_state,
    read_state,
    set_random_state,
)
from olmo.train.steps import latest_checkpoint, retain, set_aside

log = logging.getLogger(__name__)


class MisfitError(CheckpointError):
    """A checkpoint with all its tensors undamaged, which are not those of the model."""


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

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState) -> Path:
        """Start to write ``step{N}``; the model may change as soon as this returns.

        ``state.lanes`` holds the newest state of this rank's lanes. Raises ``RunError`` if the
        write before it failed, and what ``from_main`` does if this cannot start.
        """
        self.wait()
        final = self.folder / f"step{state.step}"
        self.part = final.with_name(f".{final.name}-tmp")
        from_main(self._make_part)
        lanes, random = merge_lanes(gather(state.lanes)), gather(random_state())
        counters = json.dumps(asdict(replace(state, lanes=lanes, world_size=get_world_size())))
        model_state, optim_state = get_state_dict(model, optimizer)
        for group in cast(list[dict[str, Any]], optim_state["param_groups"]):
            group.pop("fused", None)  # of this device: the run may go on on another
        tensors: dict[str, Any] = {"model": model_state, "optim": optim_state}
        if state.step >= self.config.max_duration and not self.config.save_final_optim:
            del tensors["optim"]
        written = dcp.async_save(
            tensors,
            checkpoint_id=self.part / SHARDED,
            process_group=self.group,
        )
        assert isinstance(written, Future)
        self.pending = self.thread.submit(self._finish, written, counters, random, final)
        return final

    def _make_part(self) -> None:
        shutil.rmtree(self.part, ignore_errors=True)  # of an earlier process
        (self.part / STATE_FILE).parent.mkdir(parents=True)

    @property
    def failed(self) -> bool:
        """Whether this rank knows that the write under way has failed; ``wait`` then raises."""
        return self.pending is not None and self.pending.done() and bool(self.pending.exception())

    def wait(self) -> None:
        """Until the last checkpoint is whole; ``RunError``, on every rank, if it failed."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        error = pending.exception()
        failures = torch.tensor([float(error is not None)])
        if not all_reduce_sum(failures, self.group).item():
            return
        if is_main():
            shutil.rmtree(self.part, ignore_errors=True)
        whole = latest_checkpoint(self.folder)
        raise RunError(
            f"{self.part}: the checkpoint could not be written: "
            f"{_cause(error) if error else 'another rank failed'}{_free(self.folder)}. "
            + (f"The newest whole one is {whole}" if whole else "There is no earlier one")
        ) from error

    def close(self) -> None:
        """Let a write under way end; its failure is only logged."""
        if self.pending is not None and (error := self.pending.exception()) is not None:
            log.error("%s: the checkpoint could not be written: %s", self.part, _cause(error))
        self.thread.shutdown()

    def _finish(
        self, written: Future[Any], counters: str, random: list[dict[str, Tensor]], final: Path
    ) -> None:
        """In the writer's thread. Rank 0's write ends after that of all ranks."""
        written.result()
        if not is_main():
            return
        state_file, config_file = self.part / STATE_FILE, self.part / CONFIG_FILE
        state_file.write_text(counters)
        for rank, state in enumerate(random):
            torch.save(state, random_file(self.part, rank))
        self.config.save(config_file)
        small = (*state_file.parent.iterdir(), config_file)
        for path in (*small, self.part / SHARDED, state_file.parent, self.part):
            _fsync(path)
        if final.exists() or final.is_symlink():
            log.warning("%s: what was there is now %s", final, set_aside(final))
        self.part.rename(final)
        _fsync(self.folder)
        log.info("saved %s", final)
        step = int(final.name.removeprefix("step"))
        retain(self.folder, step, self.config.save_num_checkpoints_to_keep)


def merge_lanes(ranks: list[dict[int, LaneState]]) -> dict[int, LaneState]:
    """The newest state of every lane. After a resume a rank also holds old states of the lanes
    that others move on; ``next_id`` only grows."""
    found = [item for lanes in ranks for item in lanes.items()]
    return dict(sorted(found, key=lambda item: item[1]["next_id"]))


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, reset: bool = False
) -> TrainerState:
    """Restore model, optimizer and random state in place; any number of ranks.

    Learning rates, decay and betas stay those of ``optimizer``, which the config sets. A tensor
    that did not train before has a fresh state, with ``reset`` every tensor. Everything is read and
    checked first: a ``CheckpointError``, the same on every rank, leaves model and optimizer as they
    were; a ``MisfitError`` if names or shapes do not fit. ``ValueError`` if the optimizer's state
    was not saved.
    """
    state, now = everywhere(lambda: read_state(folder)), get_world_size()
    file = random_file(folder, get_rank())
    random = everywhere(lambda: read_random_state(file) if state.world_size == now else None)
    source = everywhere(lambda: DcpSource(folder))
    everywhere(lambda: check_tensors(source.reader))
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    model_state, optim_state = get_state_dict(model, optimizer)
    everywhere(lambda: NativeWeights(cast(dict[str, Tensor], model_state), source), MisfitError)
    states = cast(dict[str, dict[str, Tensor]], optim_state["state"])
    kept = {} if reset else _saved_states(folder, source.reader.entries, states)
    read_into(source.reader, {"model": model_state, "optim": {"state": kept}})
    for value in (v for name in states.keys() - kept.keys() for v in states[name].values()):
        value.zero_()
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optim_state)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)
    if random is not None:
        set_random_state(random)
    elif is_main():
        log.warning("resuming %d ranks on %d: dropout differs", state.world_size, now)
    return state


def check_tensors(reader: CheckpointReader) -> None:
    """Read this rank's share of all tensors of a checkpoint, model and optimizer.

    Every part is a zip archive of ``torch.save`` with a checksum for each member, which torch's
    reader does not look at. ``CheckpointError``, naming file and tensor, for a wrong checksum or
    type, and for whatever ``CheckpointReader.read_chunk`` refuses.
    """
    weight_table(  # the optimizer's are numbers of the same kind
        reader.folder, [(k, e.shape, e.dtype) for k, e in reader.entries.items() if e.dtype]
    )
    chunks, rank = reader.chunks(), get_rank()
    start, stop = (len(chunks) * r // get_world_size() for r in (rank, rank + 1))
    for chunk in chunks[start:stop]:

        def damaged(reason: str, chunk: Chunk = chunk) -> CheckpointError:
            where = f"{reader.folder / chunk.file}: {chunk.name}"
            return CheckpointError(f"{where} is damaged: {reason}")

        with foreign(damaged):
            with reader.open(chunk) as file, zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise ValueError(f"wrong checksum of {bad}")
            reader.read_chunk(chunk)


def _saved_states(
    folder: Path, entries: Collection[str], states: dict[str, dict[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Those of ``states``, by name of the parameter, that ``entries`` holds; says what differs."""
    prefix, suffix = "optim.state.", ".step"
    steps = [key for key in entries if key.startswith(prefix) and key.endswith(suffix)]
    saved = {key.removeprefix(prefix).removesuffix(suffix) for key in steps}
    if not saved:
        raise ValueError(
            f"{folder} holds no state of the optimizer (save_final_optim=False): go on with a "
            "fresh one by --reset_optimizer_state"
        )
    new, gone = states.keys() - saved, saved - states.keys()
    for names, what in ((new, "trained without before: fresh"), (gone, "no longer train: no")):
        if names and is_main():
            groups = ", ".join(sorted({group_of(name) for name in names}))
            log.warning("%s: %d tensors of %s %s optimizer state", folder, len(names), groups, what)
    return {name: state for name, state in states.items() if name in saved}


def save_unsharded(
    model: nn.Module, config: TrainConfig, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write ``config.yaml`` and ``model.safetensors`` of a model on one process. Nothing is
    written, but a ``CheckpointError`` raised, if a weight is not finite as ``dtype``."""
    from safetensors.torch import save_file

    tensors = {
        k: check_finite(v.detach(), folder, k, dtype).to(dtype or v.dtype).contiguous()
        for k, v in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"))
    config.save(folder / "config.yaml")


def _cause(error: BaseException) -> str:
    """The first failure inside DCP's exception, which lists one per rank."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {describe(cause)}"
    return describe(error)


def _free(folder: Path) -> str:
    """Room left: torch words a full disk as an unexpected position in a file."""
    return f" ({shutil.disk_usage(folder).free / 2**30:.1f} GiB free)" if folder.is_dir() else ""


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
