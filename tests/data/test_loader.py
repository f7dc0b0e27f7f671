"""Lanes: the same rows on any number of ranks and workers, and exact resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from olmo.data.loader import DataConfig, MicroBatch, build_train_loader
from olmo.data.mixture import Mixture
from olmo.models.registry import model_config_from_dict
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
    from olmo.config import read_yaml

    model = model_config_from_dict(read_yaml(REPOSITORY / "configs" / "tiny.yaml")["model"])
    config = DataConfig(
        num_workers=workers, packing=PackingConfig(buffer_size=4) if packing else None
    )
    return build_train_loader(
        config,
        Mixture({"texts": Texts()}, {"texts": 1.0}),
        model.build_preprocessor(model.build_tokenizer(), 200),
        model.build_collator(200),
        global_batch_size=4,
        device_batch_size=1,
        rank=rank,
        world_size=world,
        states=states,
    )


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
    skipped = [reason for b in batches for reason in b.skipped]
    assert skipped and all("broken example" in reason for reason in skipped)
    assert all(b.n_examples >= 1 for b in batches)


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
