"""Start models: the language model and the ViT inside compute what their sources compute."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from transformers import (
    Olmo3Config,
    Olmo3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from olmo.hf_model.pretrained import StartOptions, build_start_model, llm_section, vit_section
from olmo.model_configs import preset_model_config
from olmo.models.loading import load_model, merged_model_config
from olmo.nn.image_vit import VitConfig
from olmo.nn.llm import LlmConfig
from olmo.tokenizer import ASSETS
from scripts.prepare_pretrained_model import prepare

TEXT = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 32,
    "vocab_size": 520,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
LLMS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=8, rope_theta=1e6),
    ),
    "qwen3 tied": (
        Qwen3ForCausalLM,
        Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True),
    ),
    "olmo3": (
        Olmo3ForCausalLM,
        Olmo3Config(**TEXT, num_key_value_heads=4, rope_theta=5e5, rope_scaling=YARN),
    ),
}
VIT = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "image_size": 19,
    "patch_size": 2,
}
OPTIONS = StartOptions(vit_layers=(-2, -3), max_sequence_length=128)


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) * 0.3 + (param.dim() == 1))
    return model.eval()


def llm_folder(name: str, folder: Path) -> tuple[PreTrainedModel, Path]:
    model_class, config = LLMS[name]
    model = randomised(model_class(config))
    model.save_pretrained(folder, max_shard_size="20KB")
    shutil.copyfile(ASSETS / "tiny_tokenizer" / "tokenizer.json", folder / "tokenizer.json")
    return model, folder


def vit_folder(folder: Path, with_text: bool = False) -> tuple[PreTrainedModel, Path]:
    config = SiglipVisionConfig(**VIT)
    if not with_text:
        model = randomised(SiglipVisionModel(config))
        model.save_pretrained(folder)
        return model, folder
    text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
    both = SiglipConfig(vision_config=config.to_dict(), text_config=text)
    model = randomised(SiglipModel(both))
    model.save_pretrained(folder)
    return model.vision_model, folder


@pytest.mark.parametrize("name", LLMS)
def test_language_model_is_the_source(name: str, tmp_path: Path) -> None:
    source, folder = llm_folder(name, tmp_path / "llm")
    _, vit = vit_folder(tmp_path / "vit")
    model = build_start_model(folder, vit, OPTIONS)
    assert model.config.llm.weight_tying == (name == "qwen3 tied")
    ids = torch.randint(1, 520, (2, 60))
    with torch.no_grad():
        # measured 0, of logits up to 8
        torch.testing.assert_close(model(ids).logits, source(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_text", [False, True])
def test_vit_is_the_source(with_text: bool, tmp_path: Path) -> None:
    """19 pixels hold 9 patches of 2, as 384 hold 27 of 14."""
    source, vit = vit_folder(tmp_path / "vit", with_text)
    _, llm = llm_folder("qwen3", tmp_path / "llm")
    model = build_start_model(llm, vit, OPTIONS)
    backbone = model.vision_backbone
    assert backbone.image_vit.n_layers == 4 and backbone.layers == (3, 2)
    frames = torch.rand(2, 3, 18, 18) * 2 - 1
    patches = rearrange(frames, "n c (h p) (w q) -> n (h w) (p q c)", p=2, q=2)
    with torch.no_grad():
        ours = backbone.image_vit(patches, (3, 2))
        theirs = source(frames, output_hidden_states=True).hidden_states
    for a, b in zip(ours, (theirs[4], theirs[3]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)  # measured 0, up to 32


def test_the_rest_is_initialised(tmp_path: Path) -> None:
    llm, vit = llm_folder("qwen3", tmp_path / "llm")[1], vit_folder(tmp_path / "vit")[1]
    model = build_start_model(llm, vit, OPTIONS)
    state = model.state_dict()
    assert state["transformer.wte.embedding"].shape == (520, 24)
    assert state["transformer.wte.new_embedding"].shape == (128, 24)
    assert model.special_ids["<im_patch>"] == 522
    assert 0.017 < state["transformer.wte.new_embedding"].std() < 0.023
    for key in ("image_projector.w1", "image_projector.w2", "image_pooling_2d.wq"):
        assert 0.015 < state[f"vision_backbone.{key}.weight"].std() < 0.025
    assert not state["vision_backbone.image_pooling_2d.wo.bias"].any()
    again = build_start_model(llm, vit, OPTIONS).state_dict()
    assert all(torch.equal(again[k], v) for k, v in state.items())
    other = build_start_model(llm, vit, dataclasses.replace(OPTIONS, seed=1)).state_dict()
    drawn = {k for k, v in state.items() if not torch.equal(other[k], v)}
    assert {k.partition("_2d.")[0].partition("_projector.")[0] for k in drawn} == {
        "transformer.wte.new_embedding",
        "vision_backbone.image_pooling",
        "vision_backbone.image",
    }


def test_script(tmp_path: Path) -> None:
    llm, vit = llm_folder("olmo3", tmp_path / "llm")[1], vit_folder(tmp_path / "vit")[1]
    folder = prepare(llm, vit, tmp_path / "out", OPTIONS)
    model, config = load_model(tmp_path / "out")
    want = build_start_model(llm, vit, OPTIONS)
    assert config == want.config and folder.name == "step0-unsharded"
    assert all(torch.equal(v, want.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="step0-unsharded exists"):
        prepare(llm, vit, tmp_path / "out", OPTIONS)


PUBLISHED = {
    "qwen3_4b_instruct": Qwen3Config(
        hidden_size=2560,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=9728,
        vocab_size=151936,
        rope_theta=5e6,
        tie_word_embeddings=True,
    ),
    "qwen3_8b": Qwen3Config(
        hidden_size=4096,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=12288,
        vocab_size=151936,
        rope_theta=1e6,
    ),
    "olmo3_7b_instruct": Olmo3Config(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        intermediate_size=11008,
        vocab_size=100278,
        rms_norm_eps=1e-6,
        rope_theta=5e5,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 8.0,
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32,
            "beta_slow": 1,
            "original_max_position_embeddings": 8192,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sections_of_published_models_are_the_presets(name: str) -> None:
    """Both forms of RoPE keys: transformers 5 writes one, the published files have the other."""
    new = json.loads(PUBLISHED[name].to_json_string(use_diff=False))
    old = dict(new)
    rope = old.pop("rope_parameters")
    full = dict(rope.get("full_attention", rope))
    old |= {"rope_theta": full.pop("rope_theta"), "rope_scaling": full}
    preset = merged_model_config(preset_model_config(name), {}).llm
    for data in (new, old):
        found = LlmConfig.from_dict(llm_section(data, Path("config.json")))
        for field in dataclasses.fields(LlmConfig):
            if field.name in ("tokenizer", "n_kv_heads", "head_dim", "fix_pad_tokenizer"):
                continue
            assert getattr(found, field.name) == getattr(preset, field.name), field.name
        assert (found.kv_heads, found.head_size) == (preset.kv_heads, preset.head_size)
        assert found.special_ids() == preset.special_ids()


def test_section_of_the_published_vit_is_the_preset() -> None:
    vision = {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    }
    found = vit_section({"model_type": "siglip", "vision_config": vision}, Path("config.json"))
    assert VitConfig.from_dict(found) == VitConfig()


def edit_json(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("llm", {"model_type": "llama"}, r"llm/config\.json: model_type 'llama' is not one of"),
        ("llm", {"hidden_act": "gelu"}, r"llm/config\.json: hidden_act is 'gelu', only 'silu'"),
        ("llm", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("llm", {"rope_parameters": 3}, r"llm/config\.json: a value is of the wrong kind"),
        ("vit", {"image_size": "18"}, r"vit/config\.json: a value is of the wrong kind"),
        ("llm", {"hidden_size": None}, r"llm/config\.json: no 'hidden_size'"),
        ("llm", {"vocab_size": 500}, "tokenizer has 512 entries, llm.vocab_size is 500"),
        ("llm", {"num_hidden_layers": 5}, r"index\.json: 8 missing keys, first 'model\.layers\.4"),
        (
            "llm",
            {"intermediate_size": 40},
            r"up_proj.* has shape \(32, 24\) \+ \(32, 24\), .* \(80, 24",
        ),
        ("vit", {"model_type": "clip_vision_model"}, r"vit/config\.json: .* is no SigLIP"),
        (
            "vit",
            {"image_size": 16},
            r"position_embedding.weight' has shape \(81, 16\), .* \(64, 16",
        ),
        ("vit", {"patch_size": 3, "image_size": 27}, r"patch_embedding.weight' has shape \(16, 3"),
    ],
)
def test_bad_sources(part: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    llm, vit = llm_folder("qwen3", tmp_path / "llm")[1], vit_folder(tmp_path / "vit")[1]
    edit_json(tmp_path / part / "config.json", change)
    with pytest.raises(ValueError, match=message):
        build_start_model(llm, vit, OPTIONS)


def test_missing_tensor_of_the_vit(tmp_path: Path) -> None:
    llm, vit = llm_folder("qwen3", tmp_path / "llm")[1], vit_folder(tmp_path / "vit")[1]
    file = vit / "model.safetensors"
    state = load_file(file)
    del state["encoder.layers.2.mlp.fc1.bias"]
    save_file(state, file)
    with pytest.raises(
        ValueError, match=r"model\.safetensors: 1 missing keys, .*2\.mlp\.fc1\.bias"
    ):
        build_start_model(llm, vit, OPTIONS)
