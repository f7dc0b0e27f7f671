"""From a ``TrainConfig`` to a finished run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from olmo.data.examples import ExampleSource
from olmo.data.loader import RowShare, build_train_loader
from olmo.data.mixture import MixtureConfig
from olmo.distributed import from_main, get_rank, get_world_size, is_main
from olmo.models.loading import load_weights, select_checkpoint
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.parallel import build_mesh, checkpoint_activations, compile_blocks, shard
from olmo.models.weight_files import has_weights
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.train.callbacks import JsonlCallback, ProgressCallback, WandbCallback, check_wandb
from olmo.train.config import TrainConfig, WandbConfig
from olmo.train.identity import check_ranks, identity_of
from olmo.train.lora import choose_trained, reset_adapters
from olmo.train.optim import build_optimizer, group_sizes
from olmo.train.resume import resume
from olmo.train.signals import folder_lock
from olmo.train.state import TrainerState
from olmo.train.trainer import Callback, Trainer

log = logging.getLogger(__name__)


def train(config: TrainConfig, device: torch.device) -> Trainer:
    """Build everything, resume if there is something to resume, and train to the end.

    Returns early, with a checkpoint, after SIGTERM or SIGINT.
    """
    if not config.save_folder.strip():
        raise ValueError("--save_folder=DIR is missing: the folder of this run, and of no other")
    folder = Path(config.save_folder)
    with contextlib.ExitStack() as stack:
        from_main(lambda: stack.enter_context(_claimed(folder, config)))
        trainer = build_trainer(config, device)
        if trainer.state.step < trainer.last_step:
            trainer.fit()
        elif is_main():
            log.warning(
                "the run in %s is finished: step %d, --max_duration=%d, --stop_at=%s; nothing was "
                "trained. To train longer, give a larger --max_duration (and --stop_at); for "
                "another run, another --save_folder",
                *(folder, trainer.state.step, config.max_duration, config.stop_at),
            )
        return trainer


@contextlib.contextmanager
def _claimed(folder: Path, config: TrainConfig) -> Iterator[None]:
    """W&B can be reached as asked, and ``folder`` is this run's alone."""
    if (wandb := _wandb(config)) is not None:
        check_wandb(wandb.mode)
    inside = folder.resolve()
    checkpoint = next((p for p in (inside, *inside.parents) if has_weights(p)), None)
    if checkpoint is not None:  # it would go when the other run deletes its checkpoint
        raise ValueError(f"--save_folder={folder} is in the checkpoint {checkpoint}: take another")
    with folder_lock(folder):
        yield


def build_trainer(config: TrainConfig, device: torch.device) -> Trainer:
    """Model, optimizer and loader, from the newest checkpoint of the run or from its start."""
    config.check_ranks(get_world_size())
    if config.precision is None:
        config.precision = "amp_bf16" if device.type == "cuda" else "fp32"
    in_loop = in_loop_callbacks(config)  # now: its mistakes need no model
    torch.manual_seed(config.seed + get_rank())  # ranks drop out different units
    mixture = MixtureConfig.load(config.data.mixture).open(
        config.data.split,
        config.data.skip_missing,
        config.data.custom,
        config.data.max_line_bytes,
    )
    check_ranks(mixture)
    model = build_model(config, device)
    optimizer = build_optimizer(model, config.optimizer)
    identity = from_main(lambda: identity_of(config, mixture))
    state = resume(config, identity, model, optimizer)
    if state is None:
        state = TrainerState()
        _load_start(config, model)
    elif not config.restore_dataloader:
        state.lanes = {}
    state.identity = identity
    preprocessor = config.model.build_preprocessor(
        config.model.build_tokenizer(), config.data.sequence_length
    )
    max_frames, max_removed = _bounds(config, preprocessor)
    collator = config.model.build_collator(
        config.data.sequence_length, config.data.pad, max_frames, max_removed
    )
    loader = build_train_loader(
        config.data,
        ExampleSource(mixture, preprocessor, config.data.seed, config.data.shuffle),
        collator,
        RowShare(
            config.global_train_batch_size,
            config.device_train_microbatch_size,
            *(get_rank(), get_world_size()),
        ),
        state.lanes,
        pin_memory=device.type == "cuda",
    )
    _say_what_trains(config, model)
    callbacks = [*in_loop, *own_callbacks(config)]
    return Trainer(config, model, optimizer, loader, device, state, callbacks)


def _load_start(config: TrainConfig, model: Molmo2) -> None:
    start = config.initial_model_checkpoint
    if start is None:
        raise ValueError("training starts from a checkpoint: initial_model_checkpoint is not set")
    checkpoint = from_main(lambda: select_checkpoint(start))
    if checkpoint.resolve().is_relative_to(Path(config.save_folder).resolve()):
        raise ValueError(
            f"--save_folder={config.save_folder} holds the start checkpoint {checkpoint}, and this "
            "run's checkpoints would stand for it: take another"
        )
    load_weights(model, checkpoint, scorer_seed=config.seed)
    reset_adapters(model, config.seed)


def _say_what_trains(config: TrainConfig, model: Molmo2) -> None:
    sizes = group_sizes(model)
    log.info(
        "%d steps of %d rows on %d processes, %s; parameters: %s",
        config.max_duration,
        config.global_train_batch_size,
        get_world_size(),
        config.precision,
        ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
    )


def build_model(config: TrainConfig, device: torch.device) -> Molmo2:
    """Model on ``device`` with uninitialised weights: frozen, wrapped, compiled and sharded."""
    model = config.model.build("meta")
    choose_trained(model, config)
    checkpoint_activations(model)
    compile_blocks(model, config.compile_llm)
    if get_world_size() > 1:
        autocast = torch.bfloat16 if config.precision == "amp_bf16" else None
        mesh = build_mesh(device.type, config.fsdp.replicas)
        shard(model, mesh, config.fsdp.precision, autocast)
    model.to_empty(device=device)
    return model


def _bounds(config: TrainConfig, preprocessor: ExamplePreprocessor) -> tuple[int | None, int]:
    """Most frames (None: no bound) and most removed tokens of one row."""
    packing, budget = config.data.packing, config.model.budget
    if packing is None or config.data.sequence_length is None:
        n_frames = config.model.mm_preprocessor.video.max_frames
        return preprocessor.visual.max_frames(), budget.removed(n_frames)
    share = budget.topk
    return packing.max_images, int(config.data.sequence_length * share / (1 - share))


def in_loop_callbacks(config: TrainConfig) -> list[Callback]:
    """Evaluation and pictures on the way, in which every rank takes part. ``ValueError`` for tasks
    and data that cannot be used."""
    callbacks: list[Callback] = []
    if config.in_loop.eval_interval > 0:
        from olmo.train.in_loop import EvaluationCallback  # imported late: needed only here

        callbacks.append(EvaluationCallback(config.in_loop))
    if config.in_loop.picture_interval > 0:
        from olmo.train.in_loop import PictureCallback

        callbacks.append(PictureCallback(config.in_loop.picture_interval))
    return callbacks


def own_callbacks(config: TrainConfig) -> list[Callback]:
    """What rank 0 does beside the steps."""
    if not is_main():
        return []
    config.save(Path(config.save_folder) / "config.yaml")
    callbacks: list[Callback] = [ProgressCallback(), JsonlCallback()]
    if (wandb := _wandb(config)) is not None:
        callbacks.append(WandbCallback(wandb))
    return callbacks


def _wandb(config: TrainConfig) -> WandbConfig | None:
    """The settings of W&B where it is on."""
    return config.wandb if config.wandb and config.wandb.chosen_project else None
