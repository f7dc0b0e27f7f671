"""Every flag of the published training script: taken, another name, without effect, or refused
with the name of what to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch_scripts.train_image_video_sft import build_config, build_parser
from olmo import legacy
from olmo.config import ConfigError, merge, parse_overrides, read_settings
from olmo.mappings import flat
from olmo.train.config import TrainConfig
from tests.train.conftest import REPOSITORY

GROUPS = ("llm", "connector", "vit")
TAKEN: dict[str, Any] = {
    "run_name=x": "x",
    "run_name=null": "train",
    "seed=3": 3,
    "ft_llm=False": False,
    "ft_vit=no": False,
    "ft_connector=FALSE": False,
    "ft_embedding=wte": "wte",
    "restore_dataloader=False": False,
    "save_folder=DIR": "DIR",
    "save_interval=-1": -1,
    "save_final_optim=False": False,
    "save_num_checkpoints_to_keep=-1": -1,
    "reset_optimizer_state=False": False,
    "allow_resume=True": True,
    "max_duration=2e3": 2000,
    "max_duration=1_000": 1000,
    "stop_at=500": 500,
    "stop_at=null": None,
    "stop_after=10": 10,
    "global_train_batch_size=64": 64,
    "device_train_microbatch_size=2": 2,
    "max_grad_norm=null": None,
    "precision=amp_bf16": "amp_bf16",
    "precision=fp32": "fp32",
    "wandb=null": None,
    "wandb.tags=[a, b]": ["a", "b"],
    "wandb.allow_resume=False": False,
    "console_log_interval=5": 5,
    "softmax_auxiliary_loss=True": True,
    "softmax_auxiliary_loss_scale=1e-4": 1e-4,
    "time_limit=3600": 3600.0,
    "data.packing=null": None,
    "data.prefetch_factor=null": 4,
    "lora.targets=vit, llm": "llm,vit",
    "model.llm.activation_checkpoint=one_in_two": "one_in_two",
    "model.mm_preprocessor.image=null": None,
    "optimizer.betas=[0.9, 0.999]": (0.9, 0.999),
    "optimizer.eps=1e-8": 1e-8,
    "scheduler.t_max=1e3": 1000,
    "scheduler.alpha_f=0.2": 0.2,
    "scheduler.warmup_min_lr=null": None,
    "model.llm.residual_dropout=0.1": 0.1,
    **{f"fsdp.precision={p}": p for p in ("pure", "mixed", "float")},
    **{f"optimizer.{g}_learning_rate=1e-5": 1e-5 for g in GROUPS},
    **{f"optimizer.{g}_weight_decay=0.1": 0.1 for g in GROUPS},
    **{f"optimizer.{g}_betas=[0.9, 0.95]": (0.9, 0.95) for g in GROUPS},
    **{f"optimizer.{g}_eps=1e-6": 1e-6 for g in GROUPS},
    **{f"scheduler.{g}_t_warmup=200": 200 for g in (*GROUPS, "temporal_token_scorer")},
}
"""Flags that set the key which they name, and its value."""

ALIASES: dict[str, dict[str, Any]] = {
    "inf_eval_interval=7 --in_loop.tasks=mvbench": {"in_loop.eval_interval": 7},
    "inf_eval_interval=-1": {"in_loop.eval_interval": 0},
    "inf_eval_interval=null": {"in_loop.eval_interval": 0},
    "fsdp.hybrid_sharding_num_model_replicas=2": {"fsdp.replicas": 2},
    "activation_checkpointing=False": {
        "model.llm.activation_checkpoint": None,
        "model.vision_backbone.vit.activation_checkpointing": False,
        "model.vision_backbone.connector_activation_checkpointing": False,
    },
    "compile=null": {
        "compile_llm": False,
        "model.vision_backbone.compile_vit": None,
        "model.vision_backbone.compile_connector": None,
    },
    "compile.mode=default": {"compile_llm": True},
    "num_workers=2": {"data.num_workers": 2},
    "prefetch_factor=3": {"data.prefetch_factor": 3},
    "max_inf_eval_examples=9": {"in_loop.max_examples": 9},
}

NO_EFFECT = (
    *("model=video", "parallelism.context_parallel_config.degree=1", "parallelism=null"),
    *("parallelism.data_parallel_config.name=fsdp", "epoch=null", "fast_forward_batches=null"),
    *("evaluators=[]", "inf_evaluators=[]", "eval_interval=-1", "eval_on_last_step=True"),
    *("eval_on_load=False", "eval_on=[]", "inf_eval_config.distributed=True"),
    *("save_inloop_predictions=True", "checkpointer_config.pre_download=False"),
    *("canceled_check_interval=50", "save_at=null", "save_final_unsharded_checkpoint=False"),
    *("save_interval_ephemeral=null", "save_overwrite=True", "load_path=null"),
    *("reset_trainer_state=False", "batch_divisor=global_batch", "max_grad_norm_ratio=null"),
    *("wandb.log_artifacts=True", "wandb.rank_zero_only=True", "wandb.finish_on_sigterm=True"),
    *("beaker_log_interval=50", "speed_monitor.window_size=20", "gen1_gc_interval=1"),
    *("compile_loss=True", "fused_loss=False", "runtime_data=null"),
    *("activation_checkpointing=True", "fsdp.fsdp2=True", "fsdp.use_orig_params=True"),
    *("fsdp.wrapping_strategy=null", "fsdp.sharding_strategy=FULL_SHARD"),
    *("response_logits_only=True", "saliency_score_loss_wt=null", "frame_score_loss_wt=null"),
    *("frame_score_loss_type=mse", "frame_score_loss_target=0.7", "extra_steps_after_cancel=0"),
    *("python_profiling=False", "torch_profiling=False", "max_loss_examples=2048"),
    *("cp_degree=1", "optimizer.name=adamw", "optimizer.learning_rate=1e-4"),
    *("optimizer.weight_decay=0.0", "optimizer.frame_selector_learning_rate=1e-4"),
    *("optimizer.frame_selector_weight_decay=0.1", "optimizer.frame_selector_betas=[0, 0]"),
    *("optimizer.frame_selector_eps=1", "optimizer.metrics_log_interval=-1"),
    *("scheduler.name=multimodal", "scheduler.name=cosine_with_warmup", "scheduler.units=steps"),
    *("scheduler.t_warmup=100", "scheduler.frame_selector_t_warmup=200"),
    *("scheduler.grad_clip_warmup_steps=null", "scheduler.grad_clip_warmup_factor=null"),
)

REFUSED = {
    "ft_embedding=head": ("'lm_head', 'ln_f', 'wte', 'all'",),
    "parallelism.context_parallel_config.degree=2": ("context parallelism is not offered",),
    "cp_degree=2": ("context parallelism is not offered",),
    "epoch=2": ("data.seed",),
    "fast_forward_batches=5": ("restore_dataloader=False",),
    "evaluators=[x]": ("in_loop.tasks",),
    "inf_evaluators=[x]": ("in_loop.tasks",),
    "eval_interval=1000": ("in_loop.eval_interval",),
    "in_loop.eval_interval=7": ("tasks names nothing",),
    "eval_on_last_step=False": ("only True",),
    "eval_on_load=True": ("in_loop.eval_interval",),
    "eval_on=[3]": ("in_loop.eval_interval",),
    "save_at=5": ("save_interval",),
    "save_num_checkpoints_to_keep=0": ("at least 1, or -1 for all",),
    "save_final_unsharded_checkpoint=True": ("scripts/export_unsharded.py",),
    "save_interval_ephemeral=5": ("save_interval with save_num_checkpoints_to_keep",),
    "save_overwrite=False": ("allow_resume=False",),
    "load_path=x": ("the CHECKPOINT argument", "save_folder"),
    "reset_trainer_state=True": ("a new save_folder",),
    "max_duration=1ep": ("optimizer steps", "1ep"),
    "max_duration=2e12T": ("optimizer steps", "2e12T"),
    "max_grad_norm=0": ("above 0, or null",),
    "max_grad_norm=None": ("null is allowed",),
    "batch_divisor=instance": ("only 'global_batch'",),
    "max_grad_norm_ratio=1": ("max_grad_norm",),
    "precision=amp_fp16": ("'amp_bf16', 'fp32'",),
    "precision=bf16": ("'amp_bf16', 'fp32'",),
    "precision=None": ("null is allowed",),
    "compile.mode=max-autotune": ("mode=default",),
    "compile.fullgraph=True": ("only False",),
    "response_logits_only=False": ("only True",),
    "saliency_score_loss_wt=1": ("only null",),
    "extra_steps_after_cancel=3": ("only 0",),
    "python_profiling=True": ("scripts/benchmark.py",),
    "torch_profiling=True": ("scripts/benchmark.py",),
    "fsdp.fsdp2=False": ("only True",),
    "debug=True": ("make_tiny_checkpoint",),
    "wandb=None": ("null is allowed",),
    "compile=True": ("only null, a mapping",),
    "ft_llm=0": ("true or false",),
    "optimizer.name=lionw": ("only 'adamw'",),
    "optimizer.learning_rate=3e-5": ("llm_learning_rate", "vit_learning_rate"),
    "optimizer.weight_decay=0.1": ("llm_weight_decay", "connector_weight_decay"),
    "optimizer.llm_learning_rate=-1e-5": ("at least 0",),
    "optimizer.metrics_log_interval=5": ("only '<= 0'",),
    "optimizer.betas=0.9,0.999": ("[...]",),
    "scheduler.name=linear": ("'cosine_with_warmup', 'multimodal'",),
    "scheduler.units=tokens": ("only 'steps'",),
    "scheduler.t_warmup=50": ("llm_t_warmup",),
    "scheduler.llm_t_warmup=0.5": ("expected int",),
    "scheduler.warmup_min_lr=1": ("llm_learning_rate",),
    "scheduler.grad_clip_warmup_steps=5": ("only null",),
    "in_loop.device_batch_size=0": ("at least 1",),
    "in_loop.max_examples=0": ("at least 1, or -1",),
    "fsdp.replicas=0": ("at least 1",),
    "scheduler.t_max=0": ("at least 1, got 0",),
    "model.mm_preprocessor.frame_sample_mode=uniform": ("takes no max_fps", "null"),
    "model.llm.activation_checkpoint=False": ("'whole_layer'", "null is allowed"),
    "data.packing={}": ("--seq_len",),
    "data.sequence_length=0": ("at least 1, got 0",),
    "data.num_workers=-1": ("at least 0, got -1",),
    "data.prefetch_factor=0": ("at least 1, got 0",),
    "lora.alpha=0": ("in (0, inf), got 0",),
    "softmax_auxiliary_loss_scale=-1": ("at least 0, got -1",),
    "train.peak_tflops=-1": ("at least 0, got -1",),
}


def config_of(flags: str = "") -> TrainConfig:
    given = [f"--{flag.removeprefix('--')}" for flag in flags.split(" --")] if flags else []
    args, rest = build_parser().parse_known_args(["tiny", "debug", "--dry_run", *given])
    return build_config(args, parse_overrides(rest))


def at(config: TrainConfig, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("flag", TAKEN)
def test_taken(flag: str) -> None:
    assert at(config_of(flag), flag.partition("=")[0]) == TAKEN[flag]


@pytest.mark.parametrize("flags", ALIASES)
def test_another_name(flags: str) -> None:
    config = config_of(flags)
    assert {key: at(config, key) for key in ALIASES[flags]} == ALIASES[flags]


def test_without_effect() -> None:
    plain = dict(flat(config_of().to_dict())) | {"wandb": None}
    for flag in NO_EFFECT:
        found = dict(flat(config_of(flag).to_dict()))
        if flag.startswith("wandb."):
            found = {k: v for k, v in found.items() if not k.startswith("wandb.")} | {"wandb": None}
        assert found == plain, flag


@pytest.mark.parametrize("flag", REFUSED)
def test_refused(flag: str) -> None:
    with pytest.raises(ValueError) as error:
        config_of(flag)
    key = flag.partition("=")[0].rpartition(".")[2]
    for words in (key, *REFUSED[flag]):
        assert words in str(error.value)


def test_every_row_of_the_table_is_tried() -> None:
    tried = {f.partition("=")[0] for f in (*ALIASES, *NO_EFFECT, *REFUSED)}
    parts = {"": "TrainConfig", "fsdp.": "FsdpConfig", "optimizer.": "OptimizerConfig"}
    for prefix, name in (
        parts | {"scheduler.": "SchedulerConfig", "wandb.": "WandbConfig"}
    ).items():
        for key in legacy._table()[name]:
            if key != "fsdp_precision":
                found = [t for t in tried if t == prefix + key or t.startswith(f"{prefix}{key}.")]
                assert found, f"{name}.{key}"


def test_a_config_file_of_the_reference_is_read() -> None:
    """As its training script writes it; the file is one of class defaults."""
    folder = REPOSITORY / "tests" / "fixtures" / "molmo2_tiny_dcp" / "step10"
    data = read_settings(folder / "config.yaml")
    script = {"optimizer": {"name": "adamw"}, "eval_interval": -1, "save_overwrite": True}
    data = merge(data, {**script, "scheduler": {"warmup_min_lr": 0.0}})
    del data["data"]
    config = TrainConfig.from_dict(data)
    assert config.ft_embedding == "lm_head" and config.fsdp.precision == "pure"
    assert config.model.vision_backbone.compile_vit is None  # by compile: null
    with pytest.raises(ConfigError, match="only 'adamw'"):
        TrainConfig.from_dict(data | {"optimizer": {"name": "lionw"}})


STTS = "model.vision_backbone.vit.topk: 0.5\nmodel.model_name: temporal_video_olmo\n"


def from_file(text: str, folder: Path, flags: str = "") -> TrainConfig:
    file = folder / "own.yaml"
    file.write_text(text)
    return config_of(f"config={file}{flags}")


def test_keys_of_a_config_file_have_dots_or_nest(tmp_path: Path) -> None:
    found = from_file(STTS + "optimizer: {llm_learning_rate: 1e-4}\n", tmp_path)
    deep = "model: {model_name: temporal_video_olmo, vision_backbone.vit: {topk: 0.5}}"
    assert from_file(deep, tmp_path).model == found.model
    assert at(found, "model.vision_backbone.vit.topk") == 0.5
    assert found.optimizer.llm_learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STTS + "model: {model_name: x}\n", "the key 'model.model_name' stands twice"),
        ("model:\n", "model: expected a mapping, got None"),
    ],
)
def test_wrong_config_files_are_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"own.yaml: {words}"):
        from_file(text, tmp_path)


def test_a_switch_that_is_off(tmp_path: Path) -> None:
    """Also what a file has on; settings that have then no effect are refused."""
    flag = "--use_temporal_video_olmo=false"
    with pytest.raises(ValueError, match=r"use_temporal_video_olmo=False.*contradict"):
        config_of(f"{flag} --model.model_name=temporal_video_olmo")
    with pytest.raises(ConfigError, match=r"vit\.topk: no effect on a dense model"):
        from_file(STTS, tmp_path, f" {flag}")
    assert config_of(flag).model.model_name == "video_olmo"
    packs = "data.packing.buffer_size: 4\n"
    assert from_file(packs, tmp_path, " --seq_len=99").data.packing is not None
    for flags in (" --packing=false", " --seq_len=99 --packing --packing=false"):
        assert from_file(packs, tmp_path, flags).data.packing is None
