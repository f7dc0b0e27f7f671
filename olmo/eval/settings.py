"""What an evaluation run is asked to do, checked before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from olmo.config import Config, FilePath, merge, section
from olmo.data.frame_sampling import FrameSampling
from olmo.eval.answer import Generation
from olmo.eval.own_data import resolve_scored
from olmo.eval.tasks import Task
from olmo.mappings import flat
from olmo.models.loading import (
    check_weights,
    load_model_config,
    model_section,
    select_checkpoint,
)
from olmo.models.pruning_choice import resolve_pruning
from olmo.models.run_folder import CONFIG_FILE, STEP_FOLDER

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2Config

MIN_SEQUENCE_LENGTH = 64_000
"""Longest prompt with its answer, unless the checkpoint or the command line allows more: long
videos exceed what a model was trained with."""

MIN_IMAGE_LIMITS = {"max_crops": 24, "max_images": 20}
"""Crops of a single image and images of a list, likewise: benchmarks have finer images, and more
of them, than training, and published figures are measured so."""

RUN_FILES = (CONFIG_FILE, "metrics.jsonl")
"""A folder with one of them is that of a training run."""


@dataclass
class EvalSettings(Config):
    """How one task is run. ``device_batch_size`` None means the task's own, ``max_examples`` None
    (or -1) all, ``max_new_tokens`` None the task's own limit; a limited run takes the first
    examples of an order drawn from ``seed``. ``generation``: see ``olmo.eval.answer``."""

    device_batch_size: int | None = None
    max_examples: int | None = None
    max_new_tokens: int | None = None
    seed: int = 691203
    num_workers: int = 0
    generation: Generation = "exact"

    def __post_init__(self) -> None:
        if self.max_examples == -1:
            self.max_examples = None
        self.at_least(1, "device_batch_size", "max_examples", "max_new_tokens")
        self.at_least(0, "num_workers")
        self.check_seed()

    def limit(self, task: Task) -> int:
        """Tokens of the longest answer."""
        return self.max_new_tokens or task.max_new_tokens

    def batch_size(self, task: Task) -> int:
        """Examples that a rank loads at once."""
        return self.device_batch_size or task.batch_size


@dataclass
class EvalConfig(EvalSettings):
    """One evaluation run. ``checkpoint`` is a checkpoint folder or a run folder (then its newest
    checkpoint); ``metric`` names the scorer of own data, ``scorer`` gives one as
    ``FILE.py:FUNCTION``; ``save_folder``: see ``results_folder``; ``model`` holds
    overrides of the checkpoint's model config; ``weights`` None is bf16 on a GPU, else fp32;
    ``pictures`` limits the failures of a task that the report shows with their kept tokens."""

    checkpoint: FilePath = field(kw_only=True)
    mode: str | None = None
    tasks: str | None = None
    metric: str | None = None
    scorer: str | None = None
    save_folder: FilePath | None = None
    eval_name: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    fsdp: bool = False
    weights: Literal["bf16", "fp32"] | None = None
    pictures: int = 4
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "pictures")


@dataclass
class EvalPlan:
    """A checked ``EvalConfig``: everything that can be known before the model is loaded.

    ``overrides`` are those of the config and what evaluation itself sets."""

    config: EvalConfig
    checkpoint: Path
    model_config: Molmo2Config
    tasks: list[Task]
    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)


def plan_evaluation(config: EvalConfig) -> EvalPlan:
    """Find the checkpoint, its model config and the tasks.

    Raises ``ValueError`` (``ConfigError``) or ``FileNotFoundError`` for what a user got wrong.
    """
    tasks = resolve_scored(config.mode, config.tasks, config.metric, config.scorer)
    checkpoint = select_checkpoint(config.checkpoint)
    overrides = evaluation_overrides(checkpoint, config.model)
    model_config = load_model_config(checkpoint, overrides or None)
    check_weights(model_config.build("meta"), checkpoint)
    folder = Path(config.save_folder or results_folder(checkpoint))
    name = config.eval_name or set_up_name(checkpoint, config.model)
    return EvalPlan(config, checkpoint, model_config, tasks, folder / name, overrides)


def results_folder(checkpoint: Path) -> Path:
    """``RUN/eval`` for a checkpoint of a training run that can be written to, else
    ``runs/eval/NAME`` under the current folder: what came from elsewhere stays as it is. ``NAME``
    is the checkpoint's, or that of the folder above a ``step{N}``."""
    whole = checkpoint.resolve()
    is_step = STEP_FOLDER.fullmatch(whole.name) is not None
    run = whole.parent
    if is_step and any((run / name).is_file() for name in RUN_FILES) and os.access(run, os.W_OK):
        return run / "eval"
    return Path("runs", "eval", (run if is_step else whole).name)


def evaluation_overrides(checkpoint: Path, given: dict[str, Any]) -> dict[str, Any]:
    """``given`` overrides of the model config, what they mean for pruning (``pruning_choice``) and
    what evaluation itself sets."""
    stored = model_section(checkpoint)
    overrides = given = resolve_pruning(stored, given, checkpoint)
    config = load_model_config(checkpoint, given, stored)
    FrameSampling.from_config(config.mm_preprocessor.video)  # not one video after the other
    llm = section(given, "llm")
    if config.llm.max_sequence_length < MIN_SEQUENCE_LENGTH and "max_sequence_length" not in llm:
        overrides = merge(overrides, {"llm": {"max_sequence_length": MIN_SEQUENCE_LENGTH}})
    image, preprocessor = config.mm_preprocessor.image, section(given, "mm_preprocessor")
    named = {*preprocessor, *section(preprocessor, "image")}
    for name, least in MIN_IMAGE_LIMITS.items():
        if image is not None and name not in named and (getattr(image, name) or 0) < least:
            overrides = merge(overrides, {"mm_preprocessor": {"image": {name: least}}})
    return overrides


def set_up_name(checkpoint: Path, overrides: dict[str, Any]) -> str:
    """Folder of a set-up: the checkpoint's name and the overrides, ``step100-topk=0.3``."""
    given = sorted(flat(overrides))
    last = [key.rpartition(".")[2] for key, _ in given]
    parts = [checkpoint.resolve().name]
    for (key, value), short in zip(given, last, strict=True):
        name = short if last.count(short) == 1 else key
        value = {"true": True, "false": False}.get(str(value), value)  # one folder per set-up
        parts.append(f"{name}={value}".replace("/", "_").replace(" ", ""))
    return "-".join(parts)
