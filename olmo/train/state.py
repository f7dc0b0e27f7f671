"""What a checkpoint holds beside tensors: counters, lanes and identity of the run, random state.

    RUN/step{N}/config.yaml           the resolved ``TrainConfig``
    RUN/step{N}/train/state.json      ``TrainerState``
    RUN/step{N}/train/rank{R}.pt      random state of each rank

All are read with every value checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
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
    world_size: int = 1
    """Ranks that wrote the checkpoint."""
    lanes: dict[int, LaneState] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    """Of ``olmo.train.identity``."""


COUNT = "a count"
LANE = {"next_id": COUNT, "buffered": [COUNT]}
START, DATA_SET = {"path": str, "sha256": str}, {"examples": COUNT, "rate": float, ...: object}
FORM: dict[str, Any] = {
    **{f.name: COUNT for f in fields(TrainerState) if f.type == "int"},
    **{"lanes": {...: LANE}, "bad_examples": [str], "wandb_id": str | None},
    "identity": {"start": START, "data": {...: DATA_SET}},
}
"""What each value of a ``state.json`` must be; ``...`` stands for any other key."""
OPTIONAL = ("start", "data")


def has_form(value: object, form: Any) -> bool:
    """Whether ``value`` is as ``form`` says: a type, a list of one form, or forms by key."""
    if form == COUNT:
        return type(value) is int and value >= 0
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(v, form[0]) for v in value)
    if not isinstance(form, dict):
        return isinstance(value, form)
    if not isinstance(value, dict) or form.keys() - value.keys() - {..., *OPTIONAL}:
        return False
    return all(has_form(v, form.get(k, form.get(..., ()))) for k, v in value.items())


def read_state(folder: Path, name: str | None = None) -> TrainerState:
    """The state in the step folder ``folder``, which is to be called ``name`` (its own name).
    ``CheckpointError``, naming file and value, if it holds no whole state."""
    file = folder / STATE_FILE

    def wrong(reason: str) -> CheckpointError:
        return CheckpointError(f"{file}: {reason}")

    data = read_json(file, CheckpointError)
    for key in ("step", "lanes", "world_size", "identity"):
        if key not in data:
            raise wrong(f"{key!r} is missing")
    for key, value in data.items():
        if key not in FORM or not has_form(value, FORM[key]):
            raise wrong(f"{key} = {value!r:.80} is not a valid state")
    step, lanes = data["step"], data["lanes"]
    if (name or folder.name) != f"step{step}":
        raise wrong(f"it is of step {step}, the folder is {folder.name}")
    if data["world_size"] < 1:
        raise wrong("world_size = 0: expected at least one rank")
    if set(lanes) != {str(j) for j in range(len(lanes))}:
        raise wrong(f"lanes = {lanes!r:.80}: expected lanes numbered from 0")
    numbered = {j: lanes[str(j)] for j in range(len(lanes))}
    return TrainerState(**{**data, "lanes": numbered})


def read_config(folder: Path) -> TrainConfig:
    """The config in a step folder; ``CheckpointError`` if it is none."""
    file = folder / CONFIG_FILE
    data = read_settings(file)
    try:
        return TrainConfig.from_dict(data)
    except ConfigError as e:
        raise CheckpointError(f"{file}: {e}") from e


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
            raise CheckpointError(f"{file}: {name!r} is not the state of a random generator")
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
