"""The fine-tuning recipe (``olmo/recipe.yaml``) laid over a start checkpoint, and what to say when
a run begins: what the recipe changed, and which settings do not fit the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olmo.config import read_settings, section
from olmo.mappings import flat
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.train.config import TrainConfig
from olmo.train.dry_run import full_row
from olmo.train.optim import OptimizerConfig, learning_rate

RECIPE = Path(__file__).parents[1] / "recipe.yaml"
PUBLISHED_FRAME = [378, 378]
"""Pixels of the frames of the published models. Others keep their video section and length."""
LONG_VIDEO = 2048
"""Tokens of a video beside which a row of text is short."""


def recipe_for(model: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings for a run that starts from the model section ``model``."""
    recipe = read_settings(RECIPE)
    over = dict(recipe["model"])
    preprocessor = dict(over["mm_preprocessor"])
    if section(model, "vision_backbone", "vit")["image_default_input_size"] != PUBLISHED_FRAME:
        del preprocessor["video"]
        over["llm"] = {k: v for k, v in over["llm"].items() if k != "max_sequence_length"}
    if section(model, "mm_preprocessor").get("image", {}) is None:
        del preprocessor["image"]  # images are refused
    return recipe | {"model": over | {"mm_preprocessor": preprocessor}}


def changed_by_recipe(
    start: dict[str, Any], recipe: dict[str, Any], model: Molmo2Config
) -> list[str]:
    """A line for every value of the model section ``start`` that the ``recipe`` for it changed on
    the way to ``model``."""
    before, now = dict(flat(start)), dict(flat(model.to_dict()))
    return [
        f"the recipe sets model.{key}={value}, the checkpoint has {before[key]}"
        for key, value in flat(recipe["model"])
        if key in now and now[key] == value and before.get(key, value) != value
    ]


def misfits(config: TrainConfig) -> list[str]:
    """A line for every setting that makes little sense in this run, with the flag to change."""
    lines = [_warmups(config), _scorer(config), *_adapters(config), *_rows(config), *_idle(config)]
    return [line for line in lines if line]


def _warmups(config: TrainConfig) -> str:
    schedule = config.scheduler
    total = schedule.t_max or config.max_duration
    end = min(total, config.last_step)
    warmups = {group: getattr(schedule, f"{group}_t_warmup") for group in config.trained}
    late = {group: warmup for group, warmup in warmups.items() if warmup >= end}
    if not late:
        return ""
    flags = " ".join(f"--scheduler.{group}_t_warmup={warmup}" for group, warmup in late.items())
    group, warmup = next(iter(late.items()))
    peak = config.optimizer.of(group, "learning_rate")
    reached = learning_rate(config.last_step, peak, warmup, total, schedule)
    return (
        f"{flags}: not over within {end} steps, the learning rate of {group} ends at "
        f"{reached:.1e} of {peak:.1e}. Give a shorter one, such as {end // 10}"
    )


def _scorer(config: TrainConfig) -> str:
    vit, group = config.model.vision_backbone.vit, "temporal_token_scorer"
    if not isinstance(vit, TemporalVitConfig) or not vit.method.learned:
        return ""
    if config.model.budget.topk == 0:
        return (
            "nothing is removed, so the token scorer does not train: "
            f"model.vision_backbone.vit.topk={vit.topk}, prune={vit.prune}"
        )
    if group in config.frozen:
        return "the token scorer prunes, but does not train: --ft_temporal_token_scorer=False"
    if config.optimizer.of(group, "learning_rate") == 0:
        return f"the token scorer prunes, but does not train: --optimizer.{group}_learning_rate=0"
    return ""


def _adapters(config: TrainConfig) -> Iterator[str]:
    why = "--lora.targets" if "llm" in config.adapted else "" if config.ft_llm else "--ft_llm=False"
    if why and config.ft_embedding != "lm_head":
        yield (
            f"--ft_embedding={config.ft_embedding} changes nothing: {why} freezes embeddings, "
            "final norm and head"
        )
    for group in config.adapted:
        rate = config.optimizer.of(group, "learning_rate")
        if rate <= OptimizerConfig().of(group, "learning_rate"):
            yield (
                f"--optimizer.{group}_learning_rate={rate} is a rate of full training: adapters "
                "want about ten times that"
            )
    vit, llm = config.model.vision_backbone.vit, config.model.llm
    for group, width in (("llm", llm.d_model), ("vit", vit.image_emb_dim)):
        if group in config.adapted and config.lora is not None and config.lora.rank > width // 2:
            yield (
                f"--lora.rank={config.lora.rank} is more than half of the width {width} of the "
                f"{group}: its adapters are as large as its matrices"
            )


def _rows(config: TrainConfig) -> Iterator[str]:
    frames = config.model.mm_preprocessor.video.max_frames
    videos, row = full_row(config)
    tokens, limit = round(row.tokens / videos), config.data.sequence_length
    if config.data.packing is None and tokens >= LONG_VIDEO:
        yield (
            f"rows hold one example each, and short ones are padded to videos of {tokens} tokens: "
            "--packing with --seq_len=N fills them"
        )
    if limit is not None and tokens > limit:
        yield (
            f"a video of {frames} frames has about {tokens} tokens after pruning, more than "
            f"--seq_len={limit}: longer examples are left out. Give fewer "
            "--model.mm_preprocessor.max_frames or a larger --seq_len"
        )


def _idle(config: TrainConfig) -> Iterator[str]:
    given = {key: getattr(config.in_loop, key) for key in ("tasks", "metric", "scorer")}
    flags = [f"--in_loop.{key}={value}" for key, value in given.items() if value]
    if flags and config.in_loop.eval_interval <= 0:
        yield f"{' '.join(flags)}: nothing is evaluated without --in_loop.eval_interval=N"
    wandb = config.wandb
    if wandb and wandb.chosen_project is None and (wandb.entity or wandb.group or wandb.name):
        yield "nothing goes to W&B, which has no project: give --wandb.project=NAME"
