"""``TrainConfig``: everything a training run depends on; saved with every checkpoint."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from olmo.config import Config, ConfigError, FilePath
from olmo.data.loader import DataConfig, RowShare
from olmo.models.lora import LoraConfig
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.parallel import FsdpConfig, n_shards
from olmo.models.registry import model_config_from_dict
from olmo.train.optim import (
    FROZEN_EMBEDDING,
    GROUPS,
    OptimizerConfig,
    SchedulerConfig,
    TrainedEmbedding,
)


@dataclass
class WandbConfig(Config):
    """Weights & Biases. ``mode=offline`` writes files for a later ``wandb sync``."""

    project: str | None = None
    """None: W&B is off (unless WANDB_PROJECT is set)."""
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: Literal["online", "offline"] | None = None
    log_interval: int = 1
    allow_resume: bool = False
    """Continue the W&B run of a resumed training run."""

    @property
    def chosen_project(self) -> str | None:
        """Where the run is logged; None: W&B is off."""
        return self.project or os.environ.get("WANDB_PROJECT") or None

    def __post_init__(self) -> None:
        self.at_least(1, "log_interval")


@dataclass
class LoopConfig(Config):
    """How the loop meets bad numbers, and how it computes the loss."""

    on_nan: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: end the run, or leave the update out."""
    max_skipped_in_a_row: int = 10
    """``skip`` ends the run as well after so many."""
    loss_chunk: int = 1024
    """Tokens whose logits are in memory at the same time."""
    peak_tflops: float | None = None
    """Dense bf16 TFLOP/s of one device, for the MFU; None: known for common GPUs."""

    def __post_init__(self) -> None:
        self.at_least(1, "loss_chunk", "max_skipped_in_a_row")
        self.at_least(0, "peak_tflops")


@dataclass
class InLoopConfig(Config):
    """What happens every so many steps besides training; 0 turns a thing off."""

    eval_interval: int = 0
    """Steps between evaluations; the last step counts as well."""
    tasks: str | None = None
    """Tasks or groups of ``olmo.eval.tasks``, or files of own data, separated by commas."""
    metric: str | None = None
    """Scorer of own data by its name; None: each example's own rule."""
    scorer: str | None = None
    """Scorer of own data as ``FILE.py:FUNCTION``."""
    max_examples: int | None = 256
    """Of each task; None takes all."""
    device_batch_size: int = 4
    picture_interval: int = 0
    """Steps between pictures of what pruning keeps of one clip of the training data."""

    def __post_init__(self) -> None:
        self.at_least(1, "device_batch_size")
        self.require("at least 1, or -1 for all", lambda n: n >= 1 or n == -1, "max_examples")
        if self.eval_interval > 0 and not self.tasks:
            raise ValueError("eval_interval is set, but tasks names nothing to evaluate")


@dataclass
class TrainConfig(Config):
    """A training run. Key names follow the native ``config.yaml``."""

    model: Molmo2Config = field(default_factory=Molmo2Config)
    run_name: str = "train"
    seed: int = 6198
    """Of a fresh scorer, fresh adapters and dropout; the data have ``data.seed``."""
    dry_run: bool = False
    ft_llm: bool = True
    ft_vit: bool = True
    ft_connector: bool = True
    ft_temporal_token_scorer: bool = True
    ft_embedding: TrainedEmbedding = "lm_head"
    """What trains of word embeddings, final norm and output head, when the LLM does: ``lm_head``
    head and norm (a tied head is the embeddings, and so does not), ``ln_f`` the norm alone, ``wte``
    the embeddings alone, ``all``. The embeddings of the visual tokens are the connector's."""
    lora: LoraConfig | None = None
    """Train low-rank adapters in place of the groups that ``targets`` names."""
    frozen_precision: Literal["fp32", "bf16"] = "fp32"
    """How parameters that do not train are held; bf16 needs ``precision=amp_bf16``."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    save_folder: FilePath = ""
    """Of one run, and of no other; training needs it."""
    save_interval: int = 1000
    """Steps between checkpoints; 0 or less saves at the end only."""
    save_num_checkpoints_to_keep: int = 2
    """-1 keeps all."""
    save_final_optim: bool = True
    """False: the checkpoint of the last step holds no optimizer state."""
    initial_model_checkpoint: FilePath | None = None
    allow_resume: bool = True
    """Continue from the newest checkpoint in ``save_folder``; False: there must be none."""
    allow_fallback: bool = True
    """Where the newest checkpoint is damaged, continue from an older one."""
    allow_changes: bool = False
    """Continue although start checkpoint, data, seed or model are not those of the run in
    ``save_folder``."""
    restore_dataloader: bool = True
    """False: a resumed run takes its data from the start of the stream."""
    reset_optimizer_state: bool = False
    """A resumed run begins with a fresh optimizer."""
    max_duration: int = 10000
    """Optimizer steps."""
    stop_at: int | None = None
    """The step to end at, within the schedule of ``max_duration``."""
    stop_after: int | None = None
    """Steps after which this start of the run ends."""
    time_limit: float | None = None
    """Seconds after which the run saves a checkpoint and ends."""
    global_train_batch_size: int = 64
    """Rows per optimizer step, over all ranks."""
    device_train_microbatch_size: int = 2
    """Rows per forward pass on one rank."""
    max_grad_norm: float | None = 1.0
    """Clip of each parameter group; ``optimizer`` can set one of its own for a group."""
    precision: Literal["amp_bf16", "fp32"] | None = None
    """None: amp_bf16 on a GPU, fp32 on the CPU."""
    fsdp: FsdpConfig = field(default_factory=FsdpConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    in_loop: InLoopConfig = field(default_factory=InLoopConfig)
    softmax_auxiliary_loss: bool = True
    """z-loss."""
    softmax_auxiliary_loss_scale: float = 1e-4
    compile_llm: bool = False
    console_log_interval: int = 20
    wandb: WandbConfig | None = None

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The class of ``model`` follows its ``model_name``."""
        if re.fullmatch(r"[\d.e+]+(ep|T)", str(data.get("max_duration"))):
            given = data["max_duration"]
            raise ConfigError(f"max_duration: expected a number of optimizer steps, got {given!r}")
        if isinstance(data.get("model"), dict):
            data["model"] = model_config_from_dict(data["model"])
        if data.get("run_name", "") is None:
            del data["run_name"]
        return data

    @property
    def frozen(self) -> list[str]:
        """What does not train: parameter groups, and beginnings of names of parameters."""
        trains = {
            "llm": self.ft_llm,
            "vit": self.ft_vit,
            "connector": self.ft_connector,
            "temporal_token_scorer": self.ft_temporal_token_scorer and self.model.budget.topk > 0,
        }
        off = [group for group in GROUPS if not trains[group] or group in self.adapted]
        return [*off, *FROZEN_EMBEDDING[self.ft_embedding]]

    @property
    def adapted(self) -> list[str]:
        """Parameter groups in which low-rank adapters train in place of the parameters."""
        return [] if self.lora is None else self.lora.groups

    @property
    def trained(self) -> list[str]:
        """Parameter groups with something to train."""
        return [g for g in GROUPS if g not in self.frozen or g in self.adapted]

    @property
    def last_step(self) -> int:
        """Where the run ends, if nothing stops it before."""
        return min(self.max_duration, self.stop_at or self.max_duration)

    def check_ranks(self, n_ranks: int) -> None:
        """``ValueError`` if rows or weights cannot be shared out among so many."""
        n_shards(n_ranks, self.fsdp.replicas)
        RowShare(self.global_train_batch_size, self.device_train_microbatch_size, 0, n_ranks)

    def __post_init__(self) -> None:
        self.at_least(1, "max_duration", "stop_at", "stop_after", "console_log_interval")
        self.at_least(1, "global_train_batch_size", "device_train_microbatch_size")
        self.at_least(0, "softmax_auxiliary_loss_scale")
        kept = "save_num_checkpoints_to_keep"
        self.require("at least 1, or -1 for all", lambda n: n >= 1 or n == -1, kept)
        self.require("above 0, or null for none", lambda x: x > 0, "max_grad_norm", "time_limit")
        if self.data.packing is not None and self.data.sequence_length is None:
            raise ValueError("data.packing needs --seq_len")
        self.check_seed()
        for group in self.adapted:
            if not getattr(self, f"ft_{group}"):
                raise ValueError(
                    f"lora.targets has {group}, whose adapters would train, but ft_{group} is "
                    "False: leave one of the two out"
                )
        first = self.scheduler.warmup_min_lr or 0.0
        for group in self.trained:
            rate = self.optimizer.of(group, "learning_rate")
            if first and first >= rate:
                raise ValueError(
                    f"scheduler.warmup_min_lr={first} is not below "
                    f"optimizer.{group}_learning_rate={rate}, which the warm-up leads to"
                )
