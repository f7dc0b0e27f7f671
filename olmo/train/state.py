"""What a checkpoint holds beside tensors: counters, lanes and identity of the run, random state.

    RUN/step{N}/config.yaml           the resolved ``TrainConfig``
    RUN/step{N}/train/state.json      ``TrainerState`` and the number of ranks
    RUN/step{N}/train/rank{R}.pt      random state of each rank

All are read with every value checked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olmo.config import ConfigError, read_settings
from olmo.data.loader import LaneState
from olmo.models.json_files import read_json
from olmo.models.loading import CheckpointError
from olmo.models.run_folder import CONFIG_FILE
from olmo.models.tensors import torch_load
from olmo.train.config import TrainConfig

STATE_FILE = Path("train", "state.json")


@dataclass
class TrainerState:
    """Counters of a run, over all ranks, and what run it is."""

    step: int = 0
    examples_seen: int = 0
    tokens_seen: int = 0
    examples_skipped: int = 0
    bad_examples: list[str] = field(default_factory=list)
    """Names of the skipped ones, each once, sorted."""
    updates_skipped: int = 0
    wandb_id: str | None = None
    lanes: dict[int, LaneState] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    """Of ``olmo.train.identity``; empty in checkpoints that are older than it."""


@dataclass(frozen=True)
class StoredState:
    """A ``state.json``: the state, and the number of ranks that wrote it."""

    state: TrainerState
    world_size: int

    def text(self) -> str:
        return json.dumps({**asdict(self.state), "world_size": self.world_size})


def read_state(folder: Path, name: str | None = None) -> StoredState:
    """The state in the step folder ``folder``, which is to be called ``name`` (its own name).
    ``CheckpointError``, naming file and value, if it is not what ``StoredState.text`` wrote."""
    file = folder / STATE_FILE

    def wrong(reason: str) -> CheckpointError:
        return CheckpointError(f"{file}: {reason}")

    data = read_json(file, CheckpointError)
    for key in ("step", "lanes", "world_size"):
        if key not in data:
            raise wrong(f"{key!r} is missing")
    lanes = data.pop("lanes")
    for key, value in data.items():
        if key not in CHECKS or not CHECKS[key](value):
            raise wrong(f"{key} = {value!r:.80} is no valid state")
    if (name or folder.name) != f"step{data['step']}":
        raise wrong(f"it is of step {data['step']}, the folder is {folder.name}")
    world_size = data.pop("world_size")
    numbers = [str(j) for j in range(len(lanes))] if isinstance(lanes, dict) else []
    if not isinstance(lanes, dict) or set(lanes) != set(numbers):
        raise wrong(f"lanes = {lanes!r:.80}: expected lanes numbered from 0")
    for number, lane in lanes.items():
        if not _is_lane(lane):
            raise wrong(f"lane {number} = {lane!r:.80}: expected next_id and buffered ids")
    state = TrainerState(**data, lanes={int(j): lanes[j] for j in numbers})
    return StoredState(state, world_size)


def read_config(folder: Path) -> TrainConfig:
    """The config in a step folder; ``CheckpointError`` if it is none."""
    file = folder / CONFIG_FILE
    data = read_settings(file)
    try:
        return TrainConfig.from_dict(data)
    except ConfigError as e:
        raise CheckpointError(f"{file}: {e}") from e


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_lane(lane: object) -> bool:
    if not isinstance(lane, dict) or set(lane) != {"next_id", "buffered"}:
        return False
    buffered = lane["buffered"]
    return (
        _is_count(lane["next_id"]) and isinstance(buffered, list) and all(map(_is_count, buffered))
    )


def _is_identity(value: object) -> bool:
    """Whether it has the form that ``olmo.train.identity`` gives it."""
    if not isinstance(value, dict) or not set(value) <= {"start", "data"}:
        return False
    start, data = value.get("start", {"path": "", "sha256": ""}), value.get("data", {})
    if not isinstance(start, dict) or not isinstance(data, dict):
        return False
    return all(isinstance(start.get(key), str) for key in ("path", "sha256")) and all(
        isinstance(e, dict) and _is_count(e.get("examples")) and isinstance(e.get("rate"), float)
        for e in data.values()
    )


CHECKS = {f.name: _is_count for f in fields(TrainerState) if f.type == "int"} | {
    "wandb_id": lambda value: value is None or isinstance(value, str),
    "bad_examples": lambda value: (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    ),
    "identity": lambda value: _is_identity(value),
    "world_size": lambda value: _is_count(value) and value > 0,
}
"""What each value of ``state.json`` but the lanes must be."""


def random_file(folder: Path, rank: int) -> Path:
    return folder / "train" / f"rank{rank}.pt"


def random_state() -> dict[str, Tensor]:
    """Of this process and its GPU."""
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def read_random_state(file: Path) -> dict[str, Tensor]:
    """What ``random_state`` gave; ``CheckpointError`` if the file holds anything else."""
    state = torch_load(file, f"{file}")
    if not isinstance(state, dict) or "torch" not in state or set(state) - {"torch", "cuda"}:
        raise CheckpointError(f"{file}: not the random state of a rank")
    for name, expected in random_state().items():
        found = state.get(name, expected)
        fits = isinstance(found, Tensor) and found.dtype == expected.dtype
        if not fits or found.shape != expected.shape or found.device.type != "cpu":
            raise CheckpointError(f"{file}: {name!r} is no state of a random generator")
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
