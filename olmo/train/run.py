"""From a ``TrainConfig`` to a finished run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from olmo.data.loader import build_train_loader
from olmo.data.mixture import MixtureConfig
from olmo.distributed import get_rank, get_world_size, is_main
from olmo.models.loading import load_weights, select_checkpoint
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.parallel import checkpoint_activations, compile_blocks, shard
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.train.callbacks import JsonlCallback, ProgressCallback, WandbCallback
from olmo.train.checkpoint import TrainerState, latest_checkpoint, load_checkpoint
from olmo.train.config import TrainConfig
from olmo.train.optim import build_optimizer, freeze
from olmo.train.trainer import Callback, Trainer

log = logging.getLogger(__name__)


def train(config: TrainConfig, device: torch.device) -> Trainer:
    """Build everything, resume if there is something to resume, and train to the end."""
    torch.manual_seed(config.seed)
    if config.precision is None:
        config.precision = "amp_bf16" if device.type == "cuda" else "fp32"
    resume = latest_checkpoint(config.save_folder) if config.allow_resume else None
    mixture = MixtureConfig.load(config.data.mixture).open(config.data.split)
    model = build_model(config, device)
    optimizer = build_optimizer(model, config.optimizer)
    state = TrainerState()
    if resume is not None:
        state = load_checkpoint(resume, model, optimizer)
        log.info("resumed from %s", resume)
        if not config.restore_dataloader:
            state.lanes = {}
    elif config.initial_model_checkpoint is not None:
        load_weights(model, select_checkpoint(config.initial_model_checkpoint))
    else:
        raise ValueError("training starts from a checkpoint: initial_model_checkpoint is not set")
    preprocessor = config.model.build_preprocessor(
        config.model.build_tokenizer(), config.data.sequence_length
    )
    max_frames, max_removed = _bounds(config, preprocessor)
    collator = config.model.build_collator(
        config.data.sequence_length, config.data.pad, max_frames, max_removed
    )
    loader = build_train_loader(
        config.data,
        mixture,
        preprocessor,
        collator,
        config.global_train_batch_size,
        config.device_train_microbatch_size,
        get_rank(),
        get_world_size(),
        state.lanes,
        pin_memory=device.type == "cuda",
    )
    trainer = Trainer(config, model, optimizer, loader, device, state, _callbacks(config))
    if state.step >= config.max_duration:
        log.info("%s is finished: step %d of %d", resume, state.step, config.max_duration)
        return trainer
    trainer.fit()
    return trainer


def build_model(config: TrainConfig, device: torch.device) -> Molmo2:
    """Model on ``device`` with uninitialised weights: frozen, wrapped, compiled and sharded."""
    model = config.model.build("meta")
    freeze(
        model,
        [
            group
            for group, on in {
                "llm": config.ft_llm,
                "vit": config.ft_vit,
                "connector": config.ft_connector,
                "temporal_token_scorer": config.ft_temporal_token_scorer,
            }.items()
            if not on
        ],
    )
    checkpoint_activations(model)
    compile_blocks(model, config.compile_llm)
    if get_world_size() > 1:
        autocast = torch.bfloat16 if config.precision == "amp_bf16" else None
        shard(model, config.fsdp_precision, autocast)
    model.to_empty(device=device)
    return model


def _bounds(config: TrainConfig, preprocessor: ExamplePreprocessor) -> tuple[int | None, int]:
    """Most frames (None: no bound) and most removed tokens of one row."""
    one, packing = preprocessor.output_bounds(), config.data.packing
    if packing is None or config.data.sequence_length is None:
        return one.max_frames, one.max_removed
    share = config.model.removed_share
    return packing.max_images, int(config.data.sequence_length * share / (1 - share))


def _callbacks(config: TrainConfig) -> list[Callback]:
    if not is_main():
        return []
    Path(config.save_folder).mkdir(parents=True, exist_ok=True)
    config.save(Path(config.save_folder) / "config.yaml")
    callbacks: list[Callback] = [ProgressCallback(), JsonlCallback()]
    wandb = config.wandb
    if wandb is not None and (wandb.project or os.environ.get("WANDB_PROJECT")):
        callbacks.append(WandbCallback())
    return callbacks
