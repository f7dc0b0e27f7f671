"""Find and read checkpoints.

RUN/step{N}/config.yaml + model_and_optim/          sharded (torch.distributed.checkpoint)
RUN/step{N}-unsharded/config.yaml + model.safetensors (or model.pt)
FOLDER/config.json + model.safetensors (or shards)  Hugging Face, either layout
any folder of one of the first two forms
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olmo.config import ConfigError, merge, section
from olmo.distributed import is_main
from olmo.models.hf_layout.fields import STTS_KEYS
from olmo.models.hf_layout.folder import HF_CONFIG, read_hf_folder
from olmo.models.hf_layout.keys import SCORER, VIT_BLOCK, native_name
from olmo.models.lora import native_state
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
from olmo.models.pruning_choice import no_scorer, resolve_pruning
from olmo.models.registry import model_config_from_dict
from olmo.models.run_folder import config_file, model_of_file, select_checkpoint
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig, sync_topk
from olmo.models.weight_files import SHARDED, CheckpointError, WeightSource, open_weights
from olmo.models.weights import NativeWeights, assign_whole, has_tied_head, missing_keys
from olmo.nn.image_vit import VitConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.token_scorer import TemporalTokenScorer

__all__ = [
    "SHARDED",
    "CheckpointError",
    "load_model",
    "load_model_config",
    "load_weights",
    "merged_model_config",
    "model_of_file",
    "select_checkpoint",
]

log = logging.getLogger(__name__)


def load_model_config(
    path: Path, overrides: dict[str, Any] | None = None, stored: dict[str, Any] | None = None
) -> Molmo2Config:
    """Model config of a checkpoint folder, with nested ``overrides`` laid on top.

    Overrides may use the flat spellings of ``mm_preprocessor``; one of the two ``topk`` fields
    is enough. ``stored``: the ``model_section`` of ``path``, if it has been read already.
    """
    stored = model_section(path) if stored is None else stored
    try:
        return merged_model_config(stored, overrides or {})
    except ConfigError:
        with _named(path):
            merged_model_config(stored, {})
        raise  # the overrides are at fault


def model_section(path: Path) -> dict[str, Any]:
    """The ``model`` part of a ``config.yaml``, or what a ``config.json`` says in its place; flat
    keys of the preprocessor are where they belong."""
    file = config_file(path)
    if file.name == HF_CONFIG:
        found = read_hf_folder(path)
        found["llm"]["weight_tying"] = has_tied_head(open_weights(path))
    else:
        found = model_of_file(file)
    with _named(path):
        section(found, "vision_backbone", "vit")  # overrides are laid over it
        return Molmo2Config.upgrade(found)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the config file of the folder ``path`` in errors."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{config_file(path)}: {e}") from e


def merged_model_config(data: dict[str, Any], overrides: dict[str, Any]) -> Molmo2Config:
    """Lay ``overrides`` over the model section ``data`` and build the config."""
    data, overrides = map(Molmo2Config.upgrade, (data, overrides))
    name = overrides.get("model_name", data.get("model_name"))
    if name == TemporalVideoOlmoConfig.model_name:
        overrides = sync_topk(overrides)
    else:
        _refuse_pruning(overrides, name)
    return model_config_from_dict(merge(data, overrides))


def _refuse_pruning(overrides: dict[str, Any], name: object) -> None:
    """``ConfigError`` for settings of token pruning that would change nothing."""
    vit = section(overrides, "vision_backbone", "vit")
    keys = [f"vision_backbone.vit.{key}" for key in vit if key in STTS_KEYS]
    if "topk" in section(overrides, "mm_preprocessor", "video"):
        keys.append("mm_preprocessor.topk")
    if keys:
        raise ConfigError(
            f"{', '.join(keys)}: no effect on a dense model, which model_name={name} is. Add "
            f"model_name={TemporalVideoOlmoConfig.model_name} (--use_temporal_video_olmo to train) "
            "and, for a checkpoint without a trained scorer, "
            "vision_backbone.vit.prune_method=easy (or evs, heuristic, random)"
        )


def load_model(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[Molmo2, Molmo2Config]:
    """Build the model of a checkpoint and load its weights, in evaluation mode.

    ``overrides`` follow the rule of ``pruning_choice``. ``dtype`` None keeps float32 parameters.
    ``CheckpointError`` if the model has a token scorer and the checkpoint none.
    """
    folder = select_checkpoint(path)
    stored = model_section(folder)
    config = load_model_config(folder, resolve_pruning(stored, overrides or {}, folder), stored)
    model = config.build("meta")
    weights = check_weights(model, folder)
    if dtype is not None:
        model = model.to(dtype)
    model = model.to_empty(device=device)
    weights.copy_into(model.state_dict())
    return model.eval(), config


def open_checkpoint(folder: Path, config: Molmo2Config) -> WeightSource:
    """The weights of ``folder``. ``CheckpointError`` for a ViT that is deeper than ``config`` says,
    from whose end the connector's layers are counted (in transformers' layout they are not)."""
    source, depth = open_weights(folder), config.vision_backbone.vit.image_num_layers
    for key in source.shapes if source.layout != "transformers" else ():
        block = VIT_BLOCK.match(native_name(key, source.rules))
        if block and int(block[1]) >= depth:
            raise CheckpointError(
                f"{source.where}: {key!r} is there, but the ViT has {depth} blocks by its config "
                "(image_num_layers)"
            )
    return source


def check_weights(
    model: Molmo2,
    folder: Path,
    scorer_seed: int | None = None,
    unread: re.Pattern[str] | None = None,
) -> NativeWeights:
    """The weights of ``folder``, once every name and shape fits ``model``, which may be on the
    meta device: so a file that does not fit its config costs no memory.

    ``CheckpointError`` for a missing or misshapen tensor, one without a place in the model, or what
    ``open_checkpoint`` refuses. With a ``scorer_seed`` the checkpoint may lack the scorer.
    ``unread``: names of tensors that the model lacks on purpose.
    """
    source, params = open_checkpoint(folder, model.config), native_state(model)
    scorer = [k for k in params if k.startswith(SCORER)]
    # half a scorer is damage, not a dense checkpoint
    if scorer and len(missing_keys(scorer, source)) == len(scorer):
        if scorer_seed is None:
            raise no_scorer(folder, scorer)
        params = {k: v for k, v in params.items() if k not in scorer}
    return NativeWeights(params, source, unread)


def load_weights(
    model: Molmo2,
    folder: Path,
    scorer_seed: int | None = None,
    unread: re.Pattern[str] | None = None,
) -> list[str]:
    """Copy a checkpoint's weights into ``model`` in place; sharded parameters are welcome.

    An error of ``check_weights``, which explains ``unread``, leaves ``model`` as it was. Values
    that are not finite are a ``CheckpointError`` as well, but are found on the way.

    ``scorer_seed`` is for training: a scorer that the checkpoint lacks is initialised with it, said
    in the log, and the names of its parameters are returned.
    """
    weights, params = check_weights(model, folder, scorer_seed, unread), native_state(model)
    weights.copy_into(params)
    absent = [name for name in params if name not in weights.plan]
    if absent:
        assert scorer_seed is not None  # or check_weights had raised
        _initialise_scorer(params, model.config.vision_backbone.vit, scorer_seed)
        if is_main():
            log.warning("%s has no token scorer: initialised %d tensors", folder, len(absent))
    return absent


@torch.no_grad()
def _initialise_scorer(params: dict[str, Tensor], vit: VitConfig, seed: int) -> None:
    """The same fresh scorer on any number of ranks: drawn whole, then copied into shards."""
    assert isinstance(vit, TemporalVitConfig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device("cpu"):
            scorer = TemporalTokenScorer(vit, vit.initial_score)
        scorer.reset_parameters()
    for key, value in scorer.state_dict().items():
        assign_whole(params[SCORER + key], value)
