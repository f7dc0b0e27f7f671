"""Presets: parameter counts of the published models, on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo.config import read_settings
from olmo.model_configs import LLMS, preset_model_config
from olmo.models.loading import merged_model_config
from olmo.models.molmo2.molmo2 import Molmo2

ROOT = Path(__file__).parents[2]


def meta_model(name: str) -> Molmo2:
    return merged_model_config(preset_model_config(name), {}).build("meta")


@pytest.mark.parametrize(
    ("name", "total", "vit", "connector", "n_keys"),
    [
        ("qwen3_4b", 4_461_913_040, 382_505_936, 56_939_008, 705),
        ("qwen3_4b_instruct", 4_461_913_040, 382_505_936, 56_939_008, 705),
        ("qwen3_8b", 8_661_703_120, 382_505_936, 88_461_824, 706),
        ("olmo3_7b_instruct", 7_760_786_896, 382_505_936, 80_269_824, 674),
    ],
)
def test_parameter_counts(name: str, total: int, vit: int, connector: int, n_keys: int) -> None:
    """As in the published checkpoints; the second embedding table counts as connector."""
    params = meta_model(name).state_dict()
    assert sum(p.numel() for p in params.values()) == total
    assert len(params) == n_keys
    in_vit = [p for k, p in params.items() if k.startswith("vision_backbone.image_vit.")]
    assert sum(p.numel() for p in in_vit) == vit
    around = [p for k, p in params.items() if k.startswith("vision_backbone.image_p")]
    new = params["transformer.wte.new_embedding"]
    assert sum(p.numel() for p in around) + new.numel() == connector


def test_tiny_is_the_tiny_config_file() -> None:
    file = read_settings(ROOT / "configs" / "tiny.yaml")["model"]
    assert merged_model_config(preset_model_config("tiny"), {}) == merged_model_config(file, {})


def test_presets_differ_where_they_should() -> None:
    base, instruct = LLMS["qwen3_4b"], LLMS["qwen3_4b_instruct"]
    assert {k for k in base if base[k] != instruct[k]} == {"rope_theta", "tokenizer"}
    olmo = merged_model_config(preset_model_config("olmo3_7b_instruct"), {}).llm
    scaled = [i for i in range(32) if olmo.yarn_of_layer(i)]
    assert scaled == [3, 7, 11, 15, 19, 23, 27, 31]
    assert olmo.special_ids()["<im_patch>"] == 100280


def test_a_preset_is_not_shared() -> None:
    preset_model_config("tiny")["llm"]["d_model"] = 1
    assert preset_model_config("tiny")["llm"]["d_model"] == 128


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="'qwen' is not a preset; the presets are qwen3_4b, "):
        preset_model_config("qwen")
