"""Write and resume training checkpoints.

    RUN/step{N}/config.yaml           the resolved TrainConfig; the model is under ``model``
    RUN/step{N}/model_and_optim/      torch.distributed.checkpoint data
    RUN/step{N}/train/state.json      step, counters, state of the loader's lanes
    RUN/step{N}/train/rank{R}.pt      random state of each rank

A checkpoint is written to ``step{N}-tmp`` and renamed when it is complete.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from olmo.data.loader import LaneState
from olmo.distributed import barrier, gather_object, get_rank, get_world_size, is_main
from olmo.models.loading import SHARDED, CheckpointReader, is_checkpoint
from olmo.train.config import TrainConfig

log = logging.getLogger(__name__)


@dataclass
class TrainerState:
    """Counters of a run, over all ranks."""

    step: int = 0
    examples_seen: int = 0
    tokens_seen: int = 0
    examples_skipped: int = 0
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


def save_checkpoint(
    config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState
) -> Path:
    """Write ``step{N}``; every rank calls this. ``state.lanes`` holds this rank's lanes."""
    final = Path(config.save_folder) / f"step{state.step}"
    part = final.with_name(final.name + "-tmp")
    if is_main():
        shutil.rmtree(part, ignore_errors=True)
        (part / "train").mkdir(parents=True)
    barrier()
    model_state, optim_state = get_state_dict(model, optimizer)
    dcp.save(
        {"model": model_state, "optim": optim_state},
        checkpoint_id=part / SHARDED,
        no_dist=get_world_size() == 1,
    )
    torch.save(_random_state(), part / "train" / f"rank{get_rank()}.pt")
    gathered = gather_object(state.lanes)
    if gathered is not None:
        lanes = {j: lane for part_lanes in gathered for j, lane in part_lanes.items()}
        data = {**asdict(state), "lanes": lanes, "world_size": get_world_size()}
        (part / "train" / "state.json").write_text(json.dumps(data))
        config.save(part / "config.yaml")
    barrier()
    if is_main():
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _retain(Path(config.save_folder), config.save_num_checkpoints_to_keep)
    barrier()
    log.info("saved %s", final)
    return final


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainerState:
    """Restore model, optimizer and random state in place; any number of ranks."""
    model_state, optim_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optim": optim_state}
    dcp.load(
        state,
        storage_reader=CheckpointReader(folder / SHARDED),
        no_dist=get_world_size() == 1,
    )
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optim"],
    )
    data = json.loads((folder / "train" / "state.json").read_text())
    world_size = data.pop("world_size")
    lanes = {int(j): lane for j, lane in data.pop("lanes").items()}
    if world_size == get_world_size():
        file = folder / "train" / f"rank{get_rank()}.pt"
        _set_random_state(torch.load(file, weights_only=True))
    else:
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


def _retain(folder: Path, keep: int) -> None:
    if keep < 0:
        return
    steps = sorted(
        (int(m[1]), p) for p in folder.iterdir() if (m := re.fullmatch(r"step(\d+)", p.name))
    )
    for _, path in steps[: max(len(steps) - max(keep, 1), 0)]:
        shutil.rmtree(path)


def _random_state() -> dict[str, Any]:
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
