"""Mixtures: rates, epochs, resuming from any id, and what a mistake says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.data.mixture import Mixture, MixtureConfig, MixtureGroup, WeightedDataset
from olmo.data.records import DatasetFormatError
from olmo.data.registry import MissingDataError, register_dataset
from olmo.data.stream import CHUNK, KEPT_CHUNKS, MixtureStream, example_rng

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "fixtures/data_sets/mixture_rates.json").read_text()
)
SIZES = (0, 400, 10_000, 90_000, 1_000_000)


class Numbers:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        return {"idx": idx}


for size in SIZES:
    register_dataset(f"d_{size}", ("train",))(lambda split, size=size: Numbers(size))

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


@pytest.mark.slow
def test_any_id_can_be_asked_first() -> None:
    whole = MixtureStream(MIXTURE, seed=3)
    ids = [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 17]
    expected = [whole[i] for i in ids]
    assert [MixtureStream(MIXTURE, seed=3)[i] for i in ids[1::3]] == expected[1::3]
    assert [whole[i] for i in reversed(ids)] == expected[::-1]
    assert [MixtureStream(MIXTURE, seed=4)[i] for i in range(50)] != [whole[i] for i in range(50)]


def test_lanes_far_apart_do_not_walk_the_stream_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Mixture({"a": Numbers(3000), "b": Numbers(1000)}, {"a": 3.0, "b": 1.0})
    stream, built = MixtureStream(large, seed=3), []
    build = MixtureStream._build

    def counting(self: MixtureStream, number: int) -> Any:
        built.append(number)
        return build(self, number)

    monkeypatch.setattr(MixtureStream, "_build", counting)
    behind, ahead = 0, 9 * CHUNK
    for step in range(0, 3 * CHUNK, 500):
        assert stream[behind + step] == stream[behind + step]
        stream[ahead + step]
    assert len(built) == len(set(built)) == 3 + 3  # every chunk once
    for number in range(KEPT_CHUNKS + 4):
        stream[number * CHUNK]
    assert len(stream._chunks) == KEPT_CHUNKS


def test_generators_differ_by_seed_index_and_epoch() -> None:
    draws = {
        example_rng(*key).randint(1 << 30) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(draws) == 4
    assert example_rng(1, 2, 3).randint(1 << 30) == example_rng(1, 2, 3).randint(1 << 30)


def rates(groups: list[dict[str, Any]]) -> dict[str, float]:
    mixture = MixtureConfig.from_dict({"groups": groups}).open("train")
    total = sum(mixture.rates.values())
    return {name: mixture.rates[name] / total for name in mixture.names}


@pytest.mark.parametrize(
    ("recorded", "groups"),
    [
        (
            "kwargs_mixture",
            [
                {
                    "rate": 0.2,
                    "datasets": [
                        {"name": "d_400"},
                        {"name": "d_10000", "root_size_factor": 60000},
                        {"name": "d_90000", "root_size_factor": 0.25},
                    ],
                },
                {
                    "rate": 0.6,
                    "datasets": [
                        {"name": "d_1000000", "sampling_rate": 0.4, "root_size_factor": 1}
                    ],
                },
            ],
        ),
        (
            "mixture",
            [
                {"rate": 0.75, "datasets": [{"name": "d_10000"}]},
                {"rate": 0.25, "datasets": [{"name": "d_400"}]},
            ],
        ),
        (  # weights 50, 20 and 50
            "root_size_mixture",
            [
                {
                    "rate": 1.0,
                    "datasets": [
                        {"name": "d_10000", "root_size_factor": 0.25},
                        {"name": "d_400"},
                        {"name": "d_90000", "root_size_factor": 2500},
                    ],
                }
            ],
        ),
    ],
)
def test_recorded_rates(recorded: str, groups: list[dict[str, Any]]) -> None:
    golden = dict(zip(GOLDEN[recorded]["order"], GOLDEN[recorded]["rates"], strict=True))
    assert rates(groups) == pytest.approx(golden, rel=1e-9)


def test_missing_data_lists_everything_and_where_it_looked(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingDataError) as caught:
        MixtureConfig.load("all-v5-video-academic-only").open("train")
    assert len(caught.value.missing) == 34
    text = str(caught.value)
    assert f"tgif: TGIF/Train_action_question.csv and 3 more, in {tmp_path}" in text
    assert "qv_highlights" in text and "--data.skip_missing" not in text, "nothing would be left"
    with pytest.raises(MissingDataError):  # nothing is left
        MixtureConfig.load("all-v5-video-academic-only").open("train", skip_missing=True)


def test_own_data_are_no_mixture() -> None:
    with pytest.raises(ConfigError, match=r"give custom, and --data\.custom=my/own\.jsonl$"):
        MixtureConfig.load("my/own.jsonl")


def test_missing_data_can_be_left_out(monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    home = tmp_path / "video_datasets/IntentQA"
    (home / "videos").mkdir(parents=True)
    (home / "videos/55.mp4").touch()
    (home / "train.csv").write_text("video_id,question,a0,a1,a2,a3,a4,answer\n55,why,a,b,c,d,e,1\n")
    own = tmp_path / "own.yaml"
    own.write_text(
        "groups:\n"
        "  - {rate: 0.5, datasets: [{name: intent_qa}, {name: tgif}, {name: intent_q}]}\n"
        "  - {rate: 0.3, datasets: [{name: star}]}\n"
        "  - {rate: 1.5, datasets: [{name: d_400}]}\n"
    )
    with pytest.raises(MissingDataError) as caught:
        MixtureConfig.load(str(own)).open("train")
    assert [m.split(":")[0] for m in caught.value.missing] == ["tgif", "intent_q", "star"]
    assert "--data.skip_missing" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        mixture = MixtureConfig.load(str(own)).open("train", skip_missing=True)
    assert mixture.rates == {"intent_qa": 0.5, "d_400": 1.5}, "a group keeps its rate"
    assert "left out, their files are absent: tgif, intent_q, star" in caplog.text
    assert "there is no data set 'intent_q'; did you mean 'intent_qa'?" in caplog.text
    cells = " ".join(mixture.table().replace("-", "").split())
    assert cells == "data set examples share d_400 400 75.00% intent_qa 1 25.00%"


def test_sets_in_another_layout_can_be_left_out(monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setenv("MOLMO_DATA_DIR", str(tmp_path))
    star = tmp_path / "video_datasets/STAR/STAR_train_qa.json"
    star.parent.mkdir(parents=True)
    star.write_text('[{"video": "a"}, {"video": "b"}]')
    own = tmp_path / "own.yaml"
    own.write_text("groups: [{rate: 1, datasets: [{name: star}, {name: tgif}, {name: d_400}]}]\n")
    with pytest.raises(DatasetFormatError) as caught:
        MixtureConfig.load(str(own)).open("train")
    text = str(caught.value)
    assert "'star': " in text and "2 of 2 rows left out: 2 no field 'video_id'" in text
    assert "tgif: TGIF/Train_action_question.csv" in text and "--data.skip_missing" in text
    with caplog.at_level(logging.WARNING):
        mixture = MixtureConfig.load(str(own)).open("train", skip_missing=True)
    assert mixture.names == ["d_400"]
    assert "left out, their files are absent: tgif" in caplog.text
    assert "left out, its files do not fit: data set 'star': " in caplog.text


def test_settings_of_a_mixture_reach_the_example() -> None:
    weight = {"weight": 0.2, "root_subsegments": False}
    entry = WeightedDataset("d_400", message_weight=weight, p_high_res=0.3)
    plain = WeightedDataset("d_10000")
    mixture = MixtureConfig([MixtureGroup(1.0, [entry, plain])]).open("train")
    example = mixture.example("d_400", 7, np.random.RandomState(0))
    assert example == {"idx": 7, "weight": weight, "p_high_res": 0.3}
    assert mixture.example("d_10000", 7, np.random.RandomState(0)) == {"idx": 7}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            "[{rate: 1, datasets: [{name: x}, {name: x}]}]",
            "'x' is listed twice: in group 1 and in group 1",
        ),
        (
            "[{rate: 1, name: qa, datasets: [{name: x}]}, {rate: 1, datasets: [{name: x}]}]",
            "'x' is listed twice: in group 'qa' and in group 2",
        ),
        ("[{rate: 0, datasets: [{name: x}]}]", "rate must be positive, got 0"),
        ("[{rate: 1, datasets: [{name: x, sampling_rate: -1}]}]", "sampling_rate must be positive"),
        ("[{rate: 1, datasets: [{name: x, message_weight: {wieght: 1}}]}]", "wieght"),
        ("[{rate: 1, datasets: [{name: x, root_size_factor: -1}]}]", "root_size_factor must be at"),
        ("[]", "at least one data set"),
    ],
)
def test_wrong_mixture_file(tmp_path: Path, groups: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"groups: {groups}\n")
    with pytest.raises(ConfigError, match=rf"own.yaml.*{message}"):
        MixtureConfig.load(str(file))


def test_an_empty_data_set_is_named() -> None:
    config = MixtureConfig([MixtureGroup(1.0, [WeightedDataset("d_0")])])
    with pytest.raises(ValueError, match="data set 'd_0' is empty"):
        config.open("train")


def test_own_data_in_a_mixture(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    line = {"video": "a.mp4", "question": "What?", "answer": "This."}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    path = str(tmp_path / "mine.jsonl")
    alone = MixtureConfig.load("custom").open("train", custom=path)
    assert alone.names == ["custom"] and len(alone.datasets["custom"]) == 1
    with pytest.raises(ConfigError, match=r"--data\.custom=FILE\.jsonl"):
        MixtureConfig.load("custom").open("train")
    file = tmp_path / "own.yaml"
    file.write_text("groups: [{rate: 3.0, datasets: [{name: d_400}, {name: a, path: mine.jsonl}]}]")
    config = MixtureConfig.load(str(file))
    assert config.open("train").names == ["a", "d_400"]
    added = config.open("train", custom=path)
    assert added.rates["custom"] == 3.0 == added.rates["a"] + added.rates["d_400"]
    assert [g.rate for g in config.groups] == [3.0], "the mixture itself is not changed"


def test_unknown_mixture_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'synthetic_video_qa'"):
        MixtureConfig.load("synthetic_video_q")


def test_own_mixture_file(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("groups:\n  - {rate: 1.0, datasets: [{name: x, smpling_rate: 2}]}\n")
    with pytest.raises(ConfigError, match=r"own.yaml.*smpling_rate.*sampling_rate"):
        MixtureConfig.load(str(file))


ITERATION = json.loads(
    (Path(__file__).parents[1] / "fixtures/data_sets/iteration.json").read_text()
)


@pytest.mark.parametrize("epoch", [0, 1])
def test_recorded_order_of_an_epoch(epoch: int) -> None:
    key = "epoch_order n=10 seed=50189: make_random_state(seed,epoch,1).shuffle(arange int32)"
    stream = MixtureStream(Mixture({"a": Numbers(10)}, {"a": 1.0}), seed=50189)
    refs = [stream[i] for i in range(10 * epoch, 10 * epoch + 10)]
    assert [r.index for r in refs] == ITERATION[key][str(epoch)]
    assert {r.epoch for r in refs} == {epoch}


def test_recorded_stream() -> None:
    key = "mixture a(n=5,0.8) b(n=11,0.2) seed=32 world1 worker1: first 20 (name,index,epoch)"
    mixture = Mixture({"a": Numbers(5), "b": Numbers(11)}, {"a": 0.8, "b": 0.2})
    stream = MixtureStream(mixture, seed=32)
    refs = [stream[i] for i in range(20)]
    assert [[r.dataset, r.index, r.epoch] for r in refs] == ITERATION[key]
    later = MixtureStream(mixture, seed=32)
    refs = [later[i] for i in range(8, 20)]
    key = "same, start_index=8: first 12"
    assert [[r.dataset, r.index, r.epoch] for r in refs] == ITERATION[key]
