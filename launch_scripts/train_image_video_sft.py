"""Fine-tune a checkpoint on a mixture of images and videos, with or without STTS.

    torchrun --nproc-per-node 8 launch_scripts/train_image_video_sft.py CHECKPOINT MIXTURE \\
        --global_batch_size 64 --device_batch_size=2 --max_duration=6250 --seq_len 9686 --packing \\
        --save_folder=RUN --use_temporal_video_olmo --model.vision_backbone.vit.topk=0.5

What the command leaves open is that of olmo/recipe.yaml, whatever the checkpoint says. Every key of
the training config can be set as --a.b=value. Common ones:
  --max_duration=N                                steps
  --save_folder=DIR, --save_interval=N            the run's own folder; the same command resumes
  --stop_at=STEP, --stop_after=N, --time_limit=SECONDS    end earlier, within the same schedule
  --allow_changes, --allow_fallback=False         resuming: another start or data; a damaged newest
  --model.vision_backbone.vit.{topk,prune_at,prune_method}=...   STTS
  --model.mm_preprocessor.{max_frames,max_subtitle_tokens,use_frame_special_tokens}=...
  --optimizer.{llm,connector,vit,temporal_token_scorer}_learning_rate=LR
  --scheduler.{llm,connector,vit,temporal_token_scorer}_t_warmup=N
  --ft_{llm,connector,vit}=False, --ft_embedding={lm_head,ln_f,wte,all}    what trains
  --data.custom=FILE_OR_FOLDER                    own data (docs/datasets.md); mixture: custom
  --data.skip_missing                             leave absent data sets of the mixture out
  --data.num_workers=N                            loader processes per rank
  --wandb.project=NAME [--wandb.mode=offline]     Weights & Biases
  --train.on_nan={stop,skip}                      loss or gradient that is not finite
  --in_loop.{eval_interval,tasks,picture_interval}=...    evaluation and pictures on the way
  --in_loop.metric=NAME, --in_loop.scorer=FILE.py:FUNCTION    scoring of own data there

--dry_run prints parameters, tokens, FLOPs, memory and hours; it needs neither GPU nor data, and
takes the name of a preset (qwen3_4b, ...) in place of the checkpoint.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmo.command_line import Parser, exit_code, positive
from olmo.config import ConfigError, expand, merge, nearest, nested, read_settings, section
from olmo.mappings import flat

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2Config
    from olmo.train.config import TrainConfig

log = logging.getLogger("train")


KEYS = {
    "checkpoint": "initial_model_checkpoint",
    "mixture": "data.mixture",
    "global_batch_size": "global_train_batch_size",
    "device_batch_size": "device_train_microbatch_size",
    "seq_len": "data.sequence_length",
    "packing": "data.packing",
    "use_temporal_video_olmo": "model.model_name",
    "dry_run": "dry_run",
}
"""Flags of this script, and the keys of the config that they set."""
SWITCHES: dict[str, dict[bool, Any]] = {
    "packing": {True: {}, False: None},
    "use_temporal_video_olmo": {True: "temporal_video_olmo", False: "video_olmo"},
}
"""What a flag without a value sets, and its ``=false``."""


def build_parser() -> Parser:
    parser = Parser(__doc__, plugins=True)
    add = parser.add_argument
    add(
        "checkpoint",
        type=expand,
        help="checkpoint to start from: a step folder, or a run folder (its newest)",
    )
    add(
        "mixture",
        type=expand,
        help="file of configs/mixtures without .yaml, or the path of a mixture file",
    )
    add(
        "--config",
        type=expand,
        action="append",
        default=[],
        help="YAML laid over the defaults; repeatable",
    )
    add("--global_batch_size", type=positive, help="rows per step, over all ranks (64)")
    add("--device_batch_size", type=positive, help="rows per forward pass on a rank (2)")
    add("--seq_len", type=positive, help="longest row in tokens, counted after pruning")
    add("--packing", action="store_true", default=None, help="join several examples into one row")
    add("--model", choices=["video"], help=argparse.SUPPRESS)  # the only kind there is
    add(
        "--use_temporal_video_olmo",
        action="store_true",
        default=None,
        help="use the model with STTS",
    )
    add("--dry_run", action="store_true", default=None, help="print what would run, and stop")
    return parser


def build_config(args: argparse.Namespace, overrides: dict[str, Any]) -> TrainConfig:
    """The checkpoint's model, then the recipe, then ``--config`` files, then the command line."""
    from olmo.data.frame_sampling import FrameSampling
    from olmo.legacy import translate
    from olmo.models.loading import merged_model_config
    from olmo.train.config import TrainConfig
    from olmo.train.recipe import changed_by_recipe, misfits, recipe_for

    given = {flag: value for flag in KEYS if (value := getattr(args, flag)) is not None}
    wanted = {flag: SWITCHES[flag][v] if flag in SWITCHES else v for flag, v in given.items()}
    data = functools.reduce(merge, map(settings_of, args.config), {})
    for flag, value in wanted.items():
        data = merge(data, nested(KEYS[flag], value))
    data = translate(TrainConfig, merge(data, overrides))
    start = start_model(args.checkpoint, args.dry_run).to_dict()
    recipe = recipe_for(start)
    model = merge(start, recipe["model"])
    data = merge(recipe, data) | {"model": merged_model_config(model, section(data, "model"))}
    config = TrainConfig.from_dict(data)
    FrameSampling.from_config(config.model.mm_preprocessor.video)  # not one video after the other
    for flag, value in given.items():
        found = functools.reduce(getattr, KEYS[flag].split("."), config)
        packs = flag == "packing" and value and found is not None
        if found != wanted[flag] and not packs:
            raise ValueError(
                f"{flag}={value} and {KEYS[flag]}={found} contradict: give one of them"
            )
    if int(os.environ.get("RANK", 0)) == 0:
        for line in changed_by_recipe(start, recipe, config.model):
            log.info("%s", line)
        for line in misfits(config):
            log.warning("%s", line)
    return config


def settings_of(file: str) -> dict[str, Any]:
    """The nested settings of a ``--config`` file, whose keys may have dots."""

    def expanded(level: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in level.items():
            part = nested(str(key), expanded(value) if isinstance(value, dict) else value)
            if twice := dict(flat(part)).keys() & dict(flat(found)).keys():
                raise ConfigError(f"{file}: the key {min(twice)!r} stands twice")
            found = merge(found, part)
        return found

    found = expanded(read_settings(file))
    if not isinstance(found.get("model", {}), dict):
        raise ConfigError(f"{file}: model: expected a mapping, got {found['model']!r}")
    return found


def start_model(checkpoint: str, dry_run: bool) -> Molmo2Config:
    """Model config of a checkpoint; of a preset as well where no weights are needed."""
    from olmo.model_configs import LLMS, preset_model_config
    from olmo.models.loading import load_model_config, merged_model_config, select_checkpoint

    if not Path(checkpoint).exists():
        if checkpoint in LLMS and dry_run:
            return merged_model_config(preset_model_config(checkpoint), {})
        if checkpoint in LLMS:
            raise ValueError(f"{checkpoint!r} is a preset without weights: use it with --dry_run")
        if dry_run:
            hint = nearest(checkpoint, LLMS)
            raise ValueError(f"{checkpoint}: no such checkpoint folder, and no preset; {hint}")
    return load_model_config(select_checkpoint(checkpoint))


def print_plan(config: TrainConfig) -> None:
    """Print what would run, for as many GPUs as torchrun started processes."""
    from olmo.train.dry_run import N_GPUS, describe_run
    from olmo.train.run import in_loop_callbacks

    in_loop_callbacks(config)  # for their mistakes
    if "WORLD_SIZE" in os.environ:
        config.check_ranks(int(os.environ["WORLD_SIZE"]))
    print(describe_run(config, int(os.environ.get("WORLD_SIZE", N_GPUS))))


def run(config: TrainConfig) -> None:
    """Train; ends early, but well, after SIGTERM or SIGINT."""
    from olmo.distributed import init_distributed, is_main
    from olmo.train.run import train

    trainer = train(config, init_distributed())
    if is_main():
        folder = Path(config.save_folder).resolve()
        log.info("%s after step %d: %s", trainer.outcome, trainer.state.step, folder)


@exit_code(log.error)
def main() -> int:
    """Exit code 0 if the run is done, or was stopped by a signal and left a checkpoint."""
    parser = build_parser()
    args, rest = parser.parse_known_args()
    if args.dry_run and int(os.environ.get("RANK", 0)) > 0:
        return 0  # rank 0 speaks for all; nothing heavy is imported for this
    from olmo.distributed import setup_logging
    from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
    from olmo.train.config import TrainConfig

    setup_logging()
    overrides = parser.overrides(rest, TrainConfig, TemporalVideoOlmoConfig)
    config = build_config(args, overrides)
    (print_plan if config.dry_run else run)(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
