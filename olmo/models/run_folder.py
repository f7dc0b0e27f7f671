"""Which folder is a whole checkpoint, and which one of a run counts.

One rule for all that keeps, resumes, loads or evaluates: a checkpoint is whole if its config can be
read and all files of its weights are there, none of them cut short. What is not whole is passed
over, and nothing here or in training deletes it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from olmo.config import ConfigError, read_settings
from olmo.mappings import flat
from olmo.models.hf_layout.folder import HF_CONFIG
from olmo.models.weight_files import CheckpointError, has_weights, open_weights
from olmo.outside import OutsideError, foreign

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
SIZES = ("llm.d_model", "vision_backbone.vit.image_emb_dim")
"""Keys that every whole model has, and no change of one."""
STEP_FOLDER = re.compile(r"step([0-9]{1,18})(-unsharded)?")


def flaw(folder: Path, more: Callable[[], object] = lambda: None) -> str | None:
    """Why ``folder`` is not a whole checkpoint, in any form; None if it is. No tensor is read.
    ``more`` checks what else is wanted of it, and raises."""
    try:
        with foreign(lambda reason: CheckpointError(f"{folder}: {reason}")):
            if not folder.is_dir():
                raise CheckpointError(f"{folder}: not a folder")
            if (file := config_file(folder)).name == CONFIG_FILE:
                model_of_file(file)
            open_weights(folder)
            more()
    except OutsideError as e:
        return str(e)
    return None


def config_file(folder: Path) -> Path:
    """The native config, else that of a Hugging Face folder; ``ConfigError`` without either."""
    for file in (folder / CONFIG_FILE, folder / HF_CONFIG):
        if file.is_file():
            return file
    raise ConfigError(f"{folder}: neither a {CONFIG_FILE} nor a {HF_CONFIG}")


def model_of_file(file: str | Path) -> dict[str, Any]:
    """The ``model`` part of a YAML file; ``ConfigError`` if it has none."""
    model = read_settings(file).get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{file}: no 'model' section")
    return model


def whole_model_of_file(file: str | Path) -> dict[str, Any]:
    """``model_of_file`` of a config with a whole model; ``ConfigError`` for one of settings that
    are laid over a checkpoint, which would be laid over defaults here."""
    model = model_of_file(file)
    given = dict(flat(model))
    for key in SIZES:
        if key not in given:
            raise ConfigError(
                f"{file}: no 'model.{key}': these are settings to lay over a checkpoint; expected "
                "a whole model, as in the config.yaml of a checkpoint or in configs/tiny.yaml"
            )
    return model


def select_checkpoint(path: str | Path) -> Path:
    """``path`` if it holds weights itself, else its newest whole ``step{N}`` folder.

    A sharded folder wins over an unsharded one of the same step. Newer folders that are not whole
    are named in a warning. If none is whole, the newest with weights is returned: to read it says
    what is wrong with it. ``FileNotFoundError`` if no folder has weights.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint folder")
    if has_weights(path):
        return path
    found = []
    for child in path.iterdir() if path.is_dir() else ():
        match = STEP_FOLDER.fullmatch(child.name)
        if match and child.is_dir():
            found.append((int(match[1]), not match[2], child))
    passed: list[tuple[Path, str]] = []
    for _, _, folder in sorted(found, reverse=True):
        reason = flaw(folder)
        if reason is None:
            for other, why in passed:
                log.warning("%s is passed over for %s: %s", other, folder, why)
            return folder
        passed.append((folder, reason))
    damaged = next((folder for folder, _ in passed if has_weights(folder)), None)
    if damaged is None:
        raise FileNotFoundError(
            f"{path}: neither a checkpoint (model_and_optim/, model.safetensors or model.pt) "
            "nor a run folder with step<N> checkpoints"
        )
    return damaged
