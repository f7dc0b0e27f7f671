"""The mission's command against the published recipe, value by value, from either kind of start."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("transformers.models.molmo2")

from olmo.config import merge, read_settings
from olmo.hf_model.export import ExportOptions, export_checkpoint
from olmo.mappings import flat
from olmo.models.loading import merged_model_config
from olmo.preprocessing.video import VideoPreprocessorConfig
from olmo.train.checkpoint import save_unsharded
from olmo.train.config import TrainConfig
from olmo.train.recipe import recipe_for
from tests.train.conftest import REPOSITORY
from tests.train.test_launch_script import MISSION

PUBLISHED: dict[str, Any] = {
    "model.llm.residual_dropout": 0.1,
    "model.llm.max_sequence_length": 16384,
    "model.vision_backbone.pooling_attention_mask": True,
    "model.vision_backbone.normalize_on_gpu": True,
    "model.data_formatter.message_format": "qwen3",
    "model.data_formatter.system_prompt": "demo_or_style_v2",
    "model.mm_preprocessor.loss_token_weighting": "root_subsegments_root_tokens",
    "model.mm_preprocessor.max_answer_len": None,
    "model.mm_preprocessor.max_text_tokens": None,
    "model.mm_preprocessor.last_message_loss_only": False,
    "model.mm_preprocessor.image.max_multi_image_crops": 8,
    "model.mm_preprocessor.image.max_images": 5,
    "model.mm_preprocessor.video.max_frames": 64,  # by the command; else 128
    "model.mm_preprocessor.video.max_fps": [2.0],
    "model.mm_preprocessor.video.time_sampling": True,
    "model.mm_preprocessor.video.time_mode": "per-frame-compact",
    "model.mm_preprocessor.video.frame_sample_mode": "uniform_last_frame",
    "model.mm_preprocessor.video.pooling_h": 3,
    "model.mm_preprocessor.video.pooling_w": 3,
    "model.mm_preprocessor.video.max_subtitle_tokens": None,
    "model.mm_preprocessor.video.use_frame_special_tokens": True,
    "model.mm_preprocessor.video.per_frame_special_token": False,
    "model.mm_preprocessor.video.subtitle_mode": "frame_1",
    **{f"ft_{part}": True for part in ("llm", "vit", "connector")},
    "ft_embedding": "lm_head",
    "optimizer.llm_learning_rate": 1e-5,
    "optimizer.connector_learning_rate": 5e-6,
    "optimizer.vit_learning_rate": 5e-6,
    "optimizer.temporal_token_scorer_learning_rate": 1e-4,
    **{f"optimizer.{g}_weight_decay": 0.0 for g in ("llm", "connector", "vit")},
    **{f"optimizer.{g}_betas": None for g in ("llm", "connector", "vit")},
    **{f"optimizer.{g}_eps": None for g in ("llm", "connector", "vit")},
    "optimizer.betas": [0.9, 0.95],  # of every group
    "optimizer.eps": 1e-6,
    **{
        f"scheduler.{g}_t_warmup": 200 for g in ("llm", "connector", "vit", "temporal_token_scorer")
    },
    "scheduler.alpha_f": 0.1,
    "scheduler.warmup_min_lr": 0.0,
    "scheduler.t_max": None,
    "max_duration": 6250,
    "stop_at": None,
    "global_train_batch_size": 64,
    "device_train_microbatch_size": 2,
    "data.sequence_length": 9686,
    "data.shuffle": True,
    "data.seed": 50189,
    "data.num_workers": 4,
    "data.prefetch_factor": 4,
    "data.pin_memory": True,
    "data.packing.buffer_size": 48,
    "data.packing.image_weight": 30.0,
    "data.packing.text_weight": 1.0,
    "max_grad_norm": 1.0,
    "softmax_auxiliary_loss": True,
    "softmax_auxiliary_loss_scale": 1e-4,
    "fsdp.precision": "pure",
    "precision": None,  # amp_bf16 on a GPU
    "seed": 6198,
    "run_name": "multitask_train",
    "save_interval": 2000,
    "allow_resume": True,
    "time_limit": None,
    "console_log_interval": 20,
}
"""What the published training script resolves to, with the mission's flags. Not followed: padding
to one size and compiled blocks (speed alone), one checkpoint kept and the last one without its
optimizer (a run could not go on)."""

ODD: dict[str, Any] = {
    "llm": {
        **{"residual_dropout": 0.3, "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8},
        **{"n_layers": 1, "mlp_hidden_size": 16, "vocab_size": 512, "additional_vocab_size": 16},
        "tokenizer": {"identifier": "olmo/tiny"},
        **{"max_sequence_length": 512, "weight_tying": False},
    },
    "vision_backbone": {
        "vit": {
            **{"image_emb_dim": 8, "image_num_heads": 1, "image_num_key_value_heads": 1},
            **{"image_head_dim": 8, "image_num_layers": 5, "image_mlp_dim": 8},
        },
        "vit_layers": [-1],
        "pooling_attention_mask": False,
    },
    "data_formatter": {"message_format": "none", "system_prompt": "style"},
    "mm_preprocessor": {
        "loss_token_weighting": "root_subsegments",
        **{"max_answer_len": 7, "max_text_tokens": 9, "last_message_loss_only": True},
        "image": {"max_multi_image_crops": 3, "max_images": 2, "max_crops": 5},
        "video": {
            **{"max_frames": 9, "max_fps": [1.0], "time_sampling": False, "subtitle_mode": "all"},
            **{"time_mode": "none", "max_subtitle_tokens": 5, "use_frame_special_tokens": False},
        },
    },
}
"""A checkpoint of 378-pixel frames, otherwise tiny, whose every value is another."""


def write(folder: Path, model: dict[str, Any]) -> Path:
    built = merged_model_config({}, model).build()
    built.reset_parameters()
    save_unsharded(built, TrainConfig(model=built.config), folder)
    return folder


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("native") / "step5", ODD)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    stock = merge(ODD, {"vision_backbone": {"pooling_attention_mask": True}})
    start = write(folder / "step5", stock)
    return export_checkpoint(start, folder / "out", ExportOptions("transformers"))


Resolved = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def resolved(
    run_script: Callable[..., tuple[int, str]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Resolved:
    """The config that a dry run prints, by dotted key, and what it logs."""
    caplog.set_level(logging.INFO)

    def resolve(*argv: str) -> tuple[dict[str, Any], str]:
        code, said = run_script(*argv, "--dry_run")
        text = capsys.readouterr().out
        assert code == 0, said
        return dict(flat(yaml.safe_load(text[: text.index("\nTrainable parameters")]))), said

    return resolve


@pytest.mark.parametrize("start", ["native", "hugging_face", "qwen3_4b"])
def test_the_command_resolves_to_the_recipe(
    start: str, request: pytest.FixtureRequest, resolved: Resolved
) -> None:
    checkpoint = start if start == "qwen3_4b" else str(request.getfixturevalue(start))
    found, said = resolved(checkpoint, "all-v5-video-academic-only", *MISSION)
    assert {key: found[key] for key in PUBLISHED} == PUBLISHED
    if start != "qwen3_4b":
        before = 0.3 if start == "native" else 0.0
        assert f"sets model.llm.residual_dropout=0.1, the checkpoint has {before}" in said
    if start == "native":
        assert found["model.mm_preprocessor.image.max_crops"] == 5  # kept from the checkpoint


def test_values_given_go_before_the_recipe(native: Path, resolved: Resolved) -> None:
    flags = ("--model.llm.residual_dropout=0", "--ft_embedding=all", "--fsdp_precision=float")
    found, said = resolved(str(native), "debug", *flags)
    assert found["model.llm.residual_dropout"] == 0.0 and found["ft_embedding"] == "all"
    assert found["model.mm_preprocessor.video.max_frames"] == 128
    assert found["fsdp.precision"] == "float"
    assert "residual_dropout" not in said and "max_frames=128, the checkpoint has 9" in said


def test_a_model_of_other_frames_keeps_its_video_section(resolved: Resolved) -> None:
    found, _ = resolved("tiny", "debug")
    assert found["model.llm.residual_dropout"] == 0.1
    assert found["model.mm_preprocessor.video.max_frames"] == 16
    assert found["model.mm_preprocessor.video.per_frame_special_token"] is True
    assert found["model.llm.max_sequence_length"] == 8192


def test_the_recipe_names_every_setting_of_a_video() -> None:
    """As the published script takes nothing of this section from the checkpoint."""
    model = merged_model_config({}, ODD).to_dict()
    own = {"decoder", "topk"}
    names = {f.name for f in dataclasses.fields(VideoPreprocessorConfig)} - own
    assert set(recipe_for(model)["model"]["mm_preprocessor"]["video"]) == names


def test_a_checkpoint_that_refuses_images_still_does() -> None:
    model = merged_model_config({}, merge(ODD, {"mm_preprocessor": {"image": None}})).to_dict()
    assert "image" not in recipe_for(model)["model"]["mm_preprocessor"]


@pytest.mark.parametrize("name", ["dense", "stts_30", "stts_50"])
def test_the_presets_leave_the_recipe_to_its_file(name: str) -> None:
    preset = dict(flat(read_settings(REPOSITORY / "configs" / f"{name}.yaml")))
    recipe = dict(flat(recipe_for(merged_model_config({}, ODD).to_dict())))
    both = preset.keys() & recipe.keys() - {"model.mm_preprocessor.video.max_frames"}
    assert not both


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--max_duration=20",),
            ("llm_t_warmup=200 --", "not over within 20 steps", "1.0e-06 of 1.0e-05", "such as 2"),
        ),
        (
            ("--stop_at=100", "--ft_llm=False", "--ft_vit=False"),
            ("--scheduler.connector_t_warmup=200 ", "not over within 100 steps"),
        ),
        (
            ("--scheduler.t_max=100", "--max_duration=1000", "--ft_llm=False", "--ft_vit=False"),
            ("--scheduler.connector_t_warmup=200 ", "not over within 100 steps", "5.0e-07"),
        ),
        (("--lora.rank=4",), ("--optimizer.llm_learning_rate=1e-05 ", "ten times")),
        (
            ("--in_loop.tasks=my.jsonl", "--in_loop.metric=anls"),
            ("=my.jsonl --in_loop.metric=anls: nothing is evaluated", "--in_loop.eval_interval=N"),
        ),
        (("--wandb.entity=me",), ("nothing goes to W&B", "--wandb.project")),
        (("--ft_temporal_token_scorer=False",), ("does not train: --ft_temporal",)),
        (
            ("--optimizer.temporal_token_scorer_learning_rate=0",),
            ("does not train: --optimizer.temporal_token_scorer_learning_rate=0",),
        ),
        (
            ("--model.mm_preprocessor.topk=0", "--model.mm_preprocessor.max_frames=64"),
            ("nothing is removed", "vit.topk=0.0"),
        ),
        (
            ("--ft_embedding=all", "--lora.rank=4", "--optimizer.llm_learning_rate=1e-4"),
            ("--ft_embedding=all changes nothing: --lora.targets",),
        ),
        (
            ("--ft_embedding=wte", "--ft_llm=False"),
            ("--ft_embedding=wte changes nothing: --ft_llm=False",),
        ),
        (
            ("--lora.rank=1000", "--lora.targets=vit", "--optimizer.vit_learning_rate=5e-5"),
            ("--lora.rank=1000", "of the vit"),
        ),
        (("--data.packing=null",), ("one example each", "--packing")),
        (
            ("--seq_len", "4000"),
            ("a video of 128 frames has about 6272 tokens", "more than --seq_len=4000"),
        ),
    ],
)
def test_settings_that_do_not_fit_the_run_are_said(
    native: Path, resolved: Resolved, flags: tuple[str, ...], said: tuple[str, ...]
) -> None:
    packed = ("--seq_len=9686", "--data.packing={}", "--use_temporal_video_olmo")
    plain = ("--model.vision_backbone.vit.prune_at=1", "--model.mm_preprocessor.topk=0.5")
    _, text = resolved(str(native), "debug", *packed, *plain, *flags)
    warned = [line for line in text.splitlines() if line.startswith("WARNING")]
    assert len(warned) == 1
    assert all(any(words in line for line in warned) for words in said)


def test_the_command_of_the_mission_fits(resolved: Resolved) -> None:
    _, text = resolved("qwen3_4b", "all-v5-video-academic-only", *MISSION)
    assert "WARNING" not in text
