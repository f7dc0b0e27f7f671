"""Mixtures: rates, epochs, resuming from any id, and what a mistake says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.data.mixture import (
    CHUNK,
    Mixture,
    MixtureConfig,
    MixtureStream,
    WeightedDataset,
    example_rng,
)
from olmo.data.registry import MissingDataError


class Numbers:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        return {"idx": idx}


MIXTURE = Mixture({"a": Numbers(7), "b": Numbers(11)}, {"a": 3.0, "b": 1.0})


def test_weights() -> None:
    def weight(factor: float | None, rate: float = 1.0) -> float:
        return WeightedDataset("x", factor, rate).weight(400)

    assert weight(None) == 20 and weight(0) == 1 and weight(0.25) == 10 and weight(900) == 30
    assert weight(None, 1.5) == 30


def test_every_data_set_is_gone_through_before_it_repeats() -> None:
    stream = MixtureStream(MIXTURE, seed=3)
    refs = [stream[i] for i in range(400)]
    for name, size in (("a", 7), ("b", 11)):
        own = [r for r in refs if r.dataset == name]
        for epoch in range(len(own) // size):
            part = own[epoch * size : (epoch + 1) * size]
            assert {r.epoch for r in part} == {epoch}
            assert sorted(r.index for r in part) == list(range(size))
    share = np.mean([r.dataset == "a" for r in refs])
    assert share == pytest.approx(0.75, abs=0.07)


def test_any_id_can_be_asked_first() -> None:
    whole = MixtureStream(MIXTURE, seed=3)
    ids = [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 17]
    expected = [whole[i] for i in ids]
    assert [MixtureStream(MIXTURE, seed=3)[i] for i in ids] == expected
    assert [whole[i] for i in reversed(ids)] == expected[::-1]
    assert [MixtureStream(MIXTURE, seed=4)[i] for i in range(50)] != [whole[i] for i in range(50)]


def test_generators_differ_by_seed_index_and_epoch() -> None:
    draws = {
        example_rng(*key).randint(1 << 30) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(draws) == 4
    assert example_rng(1, 2, 3).randint(1 << 30) == example_rng(1, 2, 3).randint(1 << 30)


def test_missing_data_lists_everything_and_where_it_looked(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingDataError) as caught:
        MixtureConfig.load("all-v5-video-academic-only").open("train")
    assert len(caught.value.missing) == 34
    assert str(tmp_path) in str(caught.value) and "tgif" in str(caught.value)


def test_unknown_mixture_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'synthetic_video_qa'"):
        MixtureConfig.load("synthetic_video_q")


def test_own_mixture_file(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("groups:\n  - {rate: 1.0, datasets: [{name: x, smpling_rate: 2}]}\n")
    with pytest.raises(ConfigError, match=r"own.yaml.*smpling_rate.*sampling_rate"):
        MixtureConfig.load(str(file))
