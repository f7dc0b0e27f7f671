"""Every key that a reference config has for its loader, its packing and its mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olmo.config import ConfigError
from olmo.data.loader import DataConfig
from olmo.data.mixture import MixtureConfig

TAKEN: dict[str, tuple[Any, ...]] = {
    "split": ("train", "validation"),
    "seed": (50189,),
    "pad": ("to_max",),
    "sequence_length": (None, 16384),
    "shuffle": (True, False),
    "num_workers": (0, 6),
    "pin_memory": (True, False),
    "prefetch_factor": (4,),
    "packing": (None,),
    "packing.buffer_size": (32, 48),
    "packing.text_weight": (1.0,),
    "packing.image_weight": (1.0, 30.0),
    "packing.shortcut_max_len_images": (False, True),
}
"""Keys that mean the same here."""
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("dataset", "mixture", "root_size_mixture", "kwargs_mixture"), (None,)),
    "max_text_seq_len": (None,),
    "start_index": (0,),
    "drop_last": (False, True),
    "persistent_workers": (False, True),
    "timeout": (0, 60),
    "enable_variable_sized_token_pooling": (True,),
    "packing.mode": ("dynamic_solver",),
    "packing.track_packing_state": (True, False),
    "packing.cp_world_size": (1,),
}
MIXTURE = "MIXTURE argument"
REFUSED: dict[str, tuple[Any, str]] = {
    "dataset": ({"name": "pixmo"}, MIXTURE),
    "mixture": ({"pixmo": 1.0}, MIXTURE),
    "root_size_mixture": ([{"rate": 1.0}], MIXTURE),
    "kwargs_mixture": ([{"rate": 1.0}], MIXTURE),
    "max_text_seq_len": (1024, "use sequence_length"),
    "start_index": (7, "only 0"),
    "packing.mode": ("greedy", "only 'dynamic_solver'"),
    "packing.cp_world_size": (2, "only 1"),
}
"""A value that cannot be followed, and what the message names."""


def config_of(key: str, value: Any) -> DataConfig:
    section, _, name = key.rpartition(".")
    data = {section: {name: value}} if section else {key: value}
    return DataConfig.from_dict(data, "data")


@pytest.mark.parametrize("key", TAKEN)
def test_taken(key: str) -> None:
    for value in TAKEN[key]:
        found: Any = config_of(key, value)
        for name in key.split("."):
            found = getattr(found, name)
        assert found == value


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_without_effect(key: str) -> None:
    for value in WITHOUT_EFFECT[key]:
        assert config_of(key, value) == (config_of("packing", {}) if "." in key else DataConfig())


@pytest.mark.parametrize("key", REFUSED)
def test_refused(key: str) -> None:
    value, named = REFUSED[key]
    with pytest.raises(ConfigError, match=named) as caught:
        config_of(key, value)
    assert f"data.{key}: " in str(caught.value)


def test_no_padding_named_is_the_longest() -> None:
    assert config_of("pad", None) == DataConfig(pad="longest")


def test_the_other_names_of_a_mixture(tmp_path: Path) -> None:
    ours = "{name: tgif, p_high_res: 0.3, sampling_rate: 2, root_size_factor: 0.5}"
    theirs = ours.replace("name", "dataset_name").replace("p_high_res", "override_p_high_res")
    found = []
    for entry in (ours, theirs):
        file = tmp_path / "m.yaml"
        file.write_text(f"groups: [{{rate: 1, name: x, datasets: [{entry}]}}]")
        found.append(MixtureConfig.load(str(file)))
    assert found[0] == found[1]
    file.write_text("groups: [{rate: 1, datasets: [{name: tgif, dataset_name: mvbench}]}]")
    with pytest.raises(ConfigError, match=r"dataset_name=mvbench and name=tgif contradict"):
        MixtureConfig.load(str(file))
