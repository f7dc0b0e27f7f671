"""Which checkpoint is chosen, what is read from it, and what is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from olmo.config import ConfigError
from olmo.models.loading import (
    CheckpointError,
    load_model,
    load_model_config,
    load_weights,
    merged_model_config,
    select_checkpoint,
)
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.models.registry import model_config_from_dict
from tests.models.conftest import FIXTURES, PRUNING, build, config_dict

SHARDED = FIXTURES / "molmo2_tiny_dcp"
SCORER = "vision_backbone.image_vit.transformer.temporal_token_scorer."
TEMPORAL = {"model_name": "temporal_video_olmo"}


def weights() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "molmo2_tiny" / "weights.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder that only lacks its weights."""
    shutil.copyfile(SHARDED / "step10" / "config.yaml", tmp_path / "config.yaml")
    return tmp_path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_highest_step_is_selected(tmp_path: Path) -> None:
    metadata = "model_and_optim/.metadata"
    touch(tmp_path, f"step9/{metadata}", f"step10/{metadata}", "step10-unsharded/model.pt")
    touch(tmp_path, f"step11-tmp/{metadata}", "step12/config.yaml", "xstep13/model.pt", "step14")
    assert select_checkpoint(tmp_path) == tmp_path / "step10"
    assert select_checkpoint(str(tmp_path / "step9")) == tmp_path / "step9"
    touch(tmp_path, "step20-unsharded/model.safetensors")
    assert select_checkpoint(tmp_path).name == "step20-unsharded"
    touch(tmp_path, "model.safetensors")
    assert select_checkpoint(tmp_path) == tmp_path


def test_unfinished_step_alone_is_no_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path, "step5-tmp/model_and_optim/.metadata")
    with pytest.raises(FileNotFoundError, match="neither a checkpoint"):
        select_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        select_checkpoint(tmp_path / "none")
    touch(tmp_path, "file")
    with pytest.raises(FileNotFoundError, match="neither a checkpoint"):
        select_checkpoint(tmp_path / "file")


def test_sharded_checkpoint_is_read_exactly() -> None:
    """Two shards of another code base, whose metadata names a class of its own."""
    model, config = load_model(SHARDED)
    assert not model.training and config.bi_directional_attn == "image_tokens"
    state, want = model.state_dict(), weights()
    assert state.keys() == want.keys()
    assert all(torch.equal(state[k], want[k]) for k in want)


@pytest.mark.parametrize("form", ["model.pt", "model.safetensors"])
def test_single_file_is_read_exactly(folder: Path, form: str) -> None:
    state = weights()
    save = torch.save if form == "model.pt" else save_file
    save(state, folder / form)
    model, _ = load_model(folder)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_dtype_is_cast(folder: Path) -> None:
    save_file(weights(), folder / "model.safetensors")
    model, _ = load_model(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    key = "transformer.ln_f.weight"
    assert torch.equal(model.state_dict()[key], weights()[key].bfloat16())


def with_scorer() -> Molmo2:
    """The pruning model of ``SHARDED``, without weights."""
    return load_model_config(SHARDED / "step10", TEMPORAL).build("meta").to_empty(device="cpu")


def test_training_starts_a_missing_scorer_alike(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was drawn before; everything else comes from the checkpoint."""
    first, second = with_scorer(), with_scorer()
    new = load_weights(first, SHARDED / "step10", scorer_seed=0)
    assert "no token scorer: initialised 14 tensors" in caplog.text
    torch.rand(5)
    assert load_weights(second, SHARDED / "step10", scorer_seed=0) == new
    a, b, want = first.state_dict(), second.state_dict(), weights()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(torch.equal(a[k], want[k]) for k in want)
    assert len(new) == 14 and set(a) - set(want) == set(new)
    load_weights(second, SHARDED / "step10", scorer_seed=1)
    assert not torch.equal(a[f"{SCORER}mlp.w1.weight"], b[f"{SCORER}mlp.w1.weight"])
    spread = a[f"{SCORER}mlp.w1.weight"].std().item()
    assert 0.95 < spread / (2 * 48) ** -0.5 < 1.05
    assert not a[f"{SCORER}mlp.w1.bias"].any()


def test_nothing_else_starts_a_missing_scorer() -> None:
    message = rf"step10 has no token scorer: 14 missing keys, first '{SCORER}.*easy, evs, .*train"
    with pytest.raises(CheckpointError, match=message):
        load_model(SHARDED, TEMPORAL)
    model = with_scorer()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, SHARDED / "step10")
    after = model.state_dict()
    assert all(torch.equal(before[k].view(torch.uint8), after[k].view(torch.uint8)) for k in before)
    easy = {"vision_backbone": {"vit": {"prune_method": "easy"}}}
    loaded, _ = load_model(SHARDED, {**TEMPORAL, **easy})
    assert loaded.state_dict().keys() == weights().keys()


def test_half_a_scorer_is_damage(tmp_path: Path) -> None:
    model = build(PRUNING)
    state = model.state_dict()
    del state[f"{SCORER}mlp.w1.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 missing keys, first '{SCORER}mlp\.w1\.weight'"):
        load_weights(model, tmp_path, scorer_seed=0)


def test_stored_scorer_is_read(tmp_path: Path) -> None:
    model = build(PRUNING)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = model_config_from_dict(config_dict(PRUNING)).build()
    other.reset_parameters()
    assert load_weights(other, tmp_path) == []
    want = model.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in other.state_dict().items())


def test_flat_overrides() -> None:
    over = {**TEMPORAL, "mm_preprocessor": {"max_frames": 4, "max_fps": 1, "topk": 0.25}}
    before = copy.deepcopy(over)
    config = load_model_config(SHARDED / "step10", over)
    assert over == before
    video = config.mm_preprocessor.video
    assert (video.max_frames, video.max_fps, video.pooling_w) == (4, [1], 3)
    assert video.topk == config.vision_backbone.vit.topk == config.budget.topk == 0.25


def test_old_config_file(tmp_path: Path) -> None:
    """Flat preprocessor keys, and keys that later versions dropped, as published files have."""
    data = config_dict(
        {
            "debug": False,
            "shared_low_high_embedding": False,
            "llm": {"mm_rope": None, "debug": None},
            "vision_backbone": {
                "fix_image_padding": True,
                "residual_patch_features": False,
                "patch_residual": None,
                "patch_residual_thresh": 0.0,
                "image_pooling_h": 2,
                "image_pooling_w": 2,
                "vit": {"truncate_pos_ids": True},
            },
            "mm_preprocessor": {
                "max_frames": 384,
                "frame_sample_mode": "uniform_last_frame",
                "candidate_sampling_fps": [0.25, 0.5],
                "cache_videos": True,
                "loading_method": "torchcodec_exact",
                "max_fps": 2,
                "time_mode": "per-frame-compact",
                "pooling_w": 3,
                "pooling_h": 3,
                "use_frame_special_tokens": True,
                "max_crops": 1,
                "periodic_high_res_frame": None,
                "image_padding_mask": False,
                "query_based_resolution_selection": False,
            },
        }
    )
    from omegaconf import OmegaConf

    OmegaConf.save(OmegaConf.create({"model": data}), tmp_path / "config.yaml")
    video = load_model_config(tmp_path).mm_preprocessor.video
    assert (video.max_frames, video.max_fps) == (384, [2])
    assert video.per_frame_special_token
    data = config_dict({"vision_backbone": {"image_pooling_h": 3}})
    with pytest.raises(ConfigError, match=r"image_pooling_h: 3 is not supported, only 2"):
        merged_model_config(data, {})


@pytest.mark.parametrize(
    "over",
    [
        {"vision_backbone": {"vit": {"topk": 0.25}}},
        {"mm_preprocessor": {"video": {"topk": 0.25}}},
        {"mm_preprocessor": {"topk": 0.25}},
    ],
)
def test_one_topk_sets_both(over: dict[str, Any]) -> None:
    """Also over a config that already holds another value in both places."""
    stored = merged_model_config(config_dict(PRUNING), {}).to_dict()
    assert stored["mm_preprocessor"]["video"]["topk"] == 0.5
    config = merged_model_config(stored, over)
    assert config.vision_backbone.vit.topk == config.mm_preprocessor.video.topk == 0.25


def test_two_topk_values() -> None:
    over = {"vision_backbone": {"vit": {"topk": 0.25}}, "mm_preprocessor": {"topk": 0.75}}
    with pytest.raises(ValueError, match=r"0\.75.*0\.25"):
        merged_model_config(config_dict(PRUNING), over)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model\.vision_backbone\.vit\.top_k.*'topk'"):
        merged_model_config(config_dict(PRUNING), {"vision_backbone": {"vit": {"top_k": 0.5}}})
    with pytest.raises(ConfigError, match=r"model\.mm_preprocessor.*max_frame.*'max_frames'"):
        merged_model_config(config_dict(PRUNING), {"mm_preprocessor": {"video": {"max_frame": 3}}})
    with pytest.raises(ConfigError, match=r"'video_olm' is not one of temporal_video_olmo"):
        merged_model_config(config_dict(), {"model_name": "video_olm"})


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"vision_backbone": {"vit": {"topk": 0.3}}}, "vision_backbone.vit.topk"),
        ({"vision_backbone": {"vit": {"prune_at": 1}}}, "vision_backbone.vit.prune_at"),
        ({"mm_preprocessor": {"topk": 0.3}}, "mm_preprocessor.topk"),
        ({"mm_preprocessor": {"video": {"topk": 0.3}}}, "mm_preprocessor.topk"),
    ],
)
def test_pruning_settings_of_a_dense_model_are_refused(overrides, key):
    data = merged_model_config(config_dict({}), {}).to_dict()
    with pytest.raises(ConfigError, match=f"{key}: no effect.*=temporal_video_olmo"):
        merged_model_config(data, overrides)
    assert merged_model_config(data, {**overrides, "model_name": "temporal_video_olmo"})
