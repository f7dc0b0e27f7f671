"""``TrainConfig``: everything a training run depends on; saved with every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from olmo.config import Config
from olmo.data.loader import DataConfig
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.parallel import FsdpPrecision
from olmo.models.registry import model_config_from_dict
from olmo.train.optim import OptimizerConfig, SchedulerConfig


@dataclass
class WandbConfig(Config):
    """Weights & Biases. ``mode=offline`` writes files for a later ``wandb sync``."""

    legacy_keys: ClassVar[frozenset[str]] = frozenset(
        {"log_artifacts", "rank_zero_only", "finish_on_sigterm"}
    )

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


@dataclass
class TrainConfig(Config):
    """A training run. Key names follow the native ``config.yaml``."""

    model: Molmo2Config = field(default_factory=Molmo2Config)
    run_name: str = "train"
    seed: int = 6198
    dry_run: bool = False
    ft_llm: bool = True
    ft_vit: bool = True
    ft_connector: bool = True
    ft_temporal_token_scorer: bool = True
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    save_folder: str = "runs/train"
    save_interval: int = 1000
    """Steps between checkpoints; 0 saves at the end only."""
    save_num_checkpoints_to_keep: int = 2
    """-1 keeps all."""
    initial_model_checkpoint: str | None = None
    allow_resume: bool = True
    """Continue from the newest checkpoint in ``save_folder``."""
    restore_dataloader: bool = True
    max_duration: int = 10000
    """Optimizer steps."""
    global_train_batch_size: int = 64
    """Rows per optimizer step, over all ranks."""
    device_train_microbatch_size: int = 2
    """Rows per forward pass on one rank."""
    max_grad_norm: float | None = 1.0
    """Clip, per parameter group."""
    precision: Literal["amp_bf16", "fp32"] | None = None
    """None: amp_bf16 on a GPU, fp32 on the CPU."""
    fsdp_precision: FsdpPrecision = "mixed"
    softmax_auxiliary_loss: bool = True
    """z-loss."""
    softmax_auxiliary_loss_scale: float = 1e-4
    compile_llm: bool = False
    console_log_interval: int = 20
    wandb: WandbConfig | None = None

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The class of ``model`` follows its ``model_name``."""
        if isinstance(data.get("model"), dict):
            data["model"] = model_config_from_dict(data["model"])
        return data

    def __post_init__(self) -> None:
        for name in ("max_duration", "global_train_batch_size", "device_train_microbatch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
