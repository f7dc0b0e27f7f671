"""Lanes: the same rows on any number of ranks and workers, and exact resuming."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from olmo.config import ConfigError, read_settings
from olmo.data.examples import ExampleSource
from olmo.data.loader import (
    DataConfig,
    Lane,
    MicroBatch,
    NoUsableExample,
    RowShare,
    build_train_loader,
)
from olmo.data.mixture import Mixture
from olmo.data.video_source import VideoReadError
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.registry import model_config_from_dict
from olmo.preprocessing.image_files import ImageReadError
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.preprocessing.packing import PackingConfig
from tests.train.conftest import REPOSITORY


class Texts:
    """Text-only examples of different lengths; index 5 cannot be read."""

    def __len__(self) -> int:
        return 23

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        if idx == 5:
            raise ValueError("broken example")
        return {
            "question": f"{idx} " * (1 + idx % 7),
            "answer": str(rng.randint(1000)),
            "style": "video_short_answer",
            "metadata": {"example_id": str(idx)},
        }


def loader(rank: int, world: int, states=None, workers: int = 0, packing: bool = True):
    from olmo.config import read_settings

    model = model_config_from_dict(read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"])
    config = DataConfig(
        num_workers=workers, packing=PackingConfig(buffer_size=4) if packing else None
    )
    mixture = Mixture({"texts": Texts()}, {"texts": 1.0})
    preprocessor = model.build_preprocessor(model.build_tokenizer(), 200)
    source = ExampleSource(mixture, preprocessor, config.seed, config.shuffle)
    share = RowShare(4, 1, rank, world)
    return build_train_loader(config, source, model.build_collator(200), share, states)


def test_nothing_but_broken_examples_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Texts, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        raise ValueError("broken example")

    monkeypatch.setattr(Texts, "get", broken)
    with pytest.raises(ValueError, match=r"101 examples in a row .* data.max_skipped=100"):
        take(1, 0, 1)


def take(n: int, *args, **kwargs) -> list[MicroBatch]:
    iterator = iter(loader(*args, **kwargs))
    return [next(iterator) for _ in range(n)]


def rows(batches: list[MicroBatch]) -> list[list[int]]:
    out = []
    for batch in batches:
        ids = batch.tensors["input_ids"]
        out += [row[row >= 0].tolist() for row in ids]
    return out


@pytest.mark.parametrize("packing", [True, False])
def test_rows_do_not_depend_on_ranks(packing: bool) -> None:
    alone = rows(take(12, 0, 1, packing=packing))
    first, second = (rows(take(6, r, 2, packing=packing)) for r in (0, 1))
    for step in range(3):
        own = alone[4 * step : 4 * step + 4]
        assert own[0::2] == first[2 * step : 2 * step + 2]
        assert own[1::2] == second[2 * step : 2 * step + 2]


@pytest.mark.parametrize("packing", [True, False])
def test_resumes_exactly_on_another_number_of_ranks(packing: bool) -> None:
    whole = take(20, 0, 1, packing=packing)
    states = {}
    for batch in whole[:8]:
        states |= batch.lanes
    assert set(states) == {0, 1, 2, 3}
    later = rows(whole[8:])
    assert rows(take(12, 0, 1, states=states, packing=packing)) == later
    assert rows(take(6, 1, 2, states=states, packing=packing)) == [
        row for i, row in enumerate(later) if i % 2 == 1
    ]


def test_packs_fit_and_skips_are_reported() -> None:
    batches = take(24, 0, 1)
    assert all(int((b.tensors["input_ids"] >= 0).sum()) <= 200 for b in batches)
    skipped = [one.text for b in batches for one in b.skipped]
    assert skipped and all("broken example" in reason for reason in skipped)
    assert all(b.example_ids for b in batches)


def test_sizes_must_divide() -> None:
    with pytest.raises(ValueError, match="must be a multiple of 3 ranks"):
        loader(0, 3)
    with pytest.raises(ValueError, match="3 lanes, global_batch_size is 4"):
        loader(0, 1, states={i: {"next_id": i, "buffered": []} for i in range(3)})


@pytest.mark.slow
def test_rows_do_not_depend_on_workers() -> None:
    alone = take(8, 0, 1)
    spread = take(8, 0, 1, workers=2)
    assert rows(spread) == rows(alone)
    assert [b.lanes for b in spread] == [b.lanes for b in alone]
    assert torch.equal(spread[0].tensors["labels"], alone[0].tensors["labels"])


class Few:
    """Examples of which some are bad, each in its own way."""

    def __init__(self, size: int, bad: dict[int, Any]) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def where(self, idx: int) -> str:
        return f"/x: y/my.jsonl:{idx + 1}"

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        example = {"question": "Q", "answer": "A", "metadata": {"example_id": str(idx)}}
        bad = self.bad.get(idx, {})
        if isinstance(bad, BaseException):
            raise bad
        return example | bad


@cache
def tiny() -> tuple[Molmo2Config, ExamplePreprocessor]:
    model = model_config_from_dict(read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"])
    return model, model.build_preprocessor(model.build_tokenizer(), 200)


def lane(dataset: Few, max_skipped: int = 100, step: int = 1) -> Lane:
    model, preprocessor = tiny()
    mixture = Mixture({"few": dataset}, {"few": 1.0}, {"few": {"weight": 0.5}})
    source = ExampleSource(mixture, preprocessor, 1)
    config = DataConfig(max_skipped=max_skipped)
    return Lane(config, source, model.build_collator(200), step, {"next_id": 0, "buffered": []})


@pytest.mark.parametrize("step", [1, 3])
def test_the_same_bad_examples_in_every_epoch(step: int) -> None:
    """Two of three are bad, which is tolerated, and stays so over a thousand epochs."""
    found = lane(Few(3, {0: OSError("gone"), 1: {"answer": None}}), max_skipped=2, step=step)
    rows = [found.next_row() for _ in range(300)]
    assert {row["metadata"]["example_id"] for row in rows} == {"2"}
    assert len(found.skipped) > 300
    assert {one.thing for one in found.skipped} == {"few 0", "few 1"}


def test_more_bad_examples_than_tolerated() -> None:
    bad = {i: OSError("gone") for i in range(4)}
    with pytest.raises(NoUsableExample, match=r"4 different ones, .*max_skipped=3; .*gone"):
        lane(Few(4, bad), max_skipped=3).next_row()
    with pytest.raises(NoUsableExample, match=r"101 examples in a row .* 4 different ones"):
        lane(Few(4, bad), max_skipped=4).next_row()


def test_a_file_of_many_examples_counts_once() -> None:
    """Its name may hold anything; what else is wrong with an example is its own."""
    source = lane(Few(3, {})).source

    def things(error: Exception) -> set[str]:
        return {source.skipped(i, error).thing for i in range(3)}

    for reason in ("it has no frames", "truncated: frames end at 1 s of 3 s"):
        assert things(VideoReadError("a b/c: d.mp4", reason)) == {"video a b/c: d.mp4"}
    assert things(ImageReadError("a.jpg", "gone")) == {"image a.jpg"}
    in_a_table = ImageReadError("(bytes)", "it is damaged")
    assert things(in_a_table) == things(ValueError("too long")) == {"few 0", "few 1", "few 2"}


def test_names_of_skipped_examples() -> None:
    _, preprocessor = tiny()
    for name in ("own", "my: own", "own (new)", "own 3"):
        source = ExampleSource(Mixture({name: Few(1, {})}, {name: 1.0}), preprocessor, 1)
        found = source.skipped(12, ValueError("frame 3: gone"))
        assert found == (f"{name} 0", f"{name} 0 (/x: y/my.jsonl:1): frame 3: gone")
    with pytest.raises(ConfigError, match="max_skipped must be at least 0, got -1"):
        DataConfig.from_dict({"max_skipped": -1}, "data")
    with pytest.raises(ConfigError, match=r"data: seed must be in \[0, 4294967295\], got -1"):
        DataConfig.from_dict({"seed": -1}, "data")


ODD: dict[str, Any] = {
    "a number for text": {"question": 5},
    "a list for text": {"answer": None, "text": ["x"]},
    "half of a character": {"question": "\ud800"},
    "no answer": {"answer": None},
    "an unknown weight": {"weight": {"no": 1}},
    "points without a scale": {"style": "pointing", "points": [[1, 2]], "point_scale": 0},
    "points out of this world": {"style": "pointing", "points": [[1e400, 2]], "point_scale": 1},
    "points of text": {"style": "pointing", "points": "abc", "point_scale": 1},
    "options that are no list": {"options": 5, "answer_idx": 0},
    "an odd index": {"options": ["a", "b"], "answer_idx": "0"},
    "no metadata": {"metadata": None},
    "odd messages": {"messages": 5},
    "odd media": {"image": 5},
    "depth": RecursionError("deep"),
    "a number too large": OverflowError("large"),
    "memory": MemoryError(),
    "an odd row": AttributeError("'NoneType' object has no attribute 'get'"),
    "a missing key": KeyError("key"),
}


ALWAYS = ("odd messages", "depth", "memory", "an odd row")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ALWAYS else pytest.mark.slow) for kind in ODD]
)
def test_no_odd_example_ends_a_run(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "olmo.data.loader")
    found = lane(Few(2, {0: ODD[kind]}))
    if kind == "an unknown weight":
        found.source.mixture.settings.clear()
    rows = [found.next_row() for _ in range(4)]
    assert [row["metadata"]["example_id"] for row in rows] == ["1"] * 4
    entry = found.skipped[0].text
    assert entry.startswith("few 0 (/x: y/my.jsonl:1): ") and len(entry) > 30
    assert entry in caplog.text


def test_what_may_be_a_bug_is_not_hidden(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "olmo.data.loader")
    rows = lane(Few(2, {0: TypeError("a bug")}))
    [rows.next_row() for _ in range(4)]
    assert "TypeError: a bug" in rows.skipped[0].text
    assert "perhaps a bug" in caplog.text and "Traceback" in caplog.text
    caplog.clear()
    rows = lane(Few(2, {0: OSError("no such file")}))
    [rows.next_row() for _ in range(4)]
    assert "no such file" in caplog.text and "Traceback" not in caplog.text
