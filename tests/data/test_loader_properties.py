"""Whatever the mixture, the ranks, the workers and the moment of an interruption: no example is
lost or comes twice, and a resumed stream equals the one that went on, packs included."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.data import loader as loader_module
from olmo.data import stream as stream_module
from olmo.data.examples import ExampleSource
from olmo.data.loader import DataConfig, LaneState, MicroBatch, RowShare, build_train_loader
from olmo.data.mixture import Mixture
from olmo.data.stream import MixtureStream
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.multimodal import Molmo2PreprocessorConfig
from olmo.preprocessing.packing import PackingConfig

LANES = 12
"""Rows of a step, for 1 to 4 ranks."""
SEQ_LEN = 60
SEED = 11
logging.getLogger("olmo.data.loader").setLevel(logging.ERROR)


@dataclass
class Texts:
    """Examples of 1 to 69 tokens, so that some are too long; every ``broken``-th is unreadable."""

    name: str
    size: int
    broken: int

    def __len__(self) -> int:
        return self.size

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        if self.broken and idx % self.broken == self.broken - 1:
            raise OSError(f"{self.name}/{idx}.mp4: broken")
        return {"tokens": rng.randint(0, 1000, 1 + idx * 37 % 69), "of": (self.name, idx)}


class Tokens:
    """Preprocessor of such examples."""

    config = Molmo2PreprocessorConfig()

    def __call__(
        self, example: dict[str, Any], video: None, rng: Any, for_inference: bool
    ) -> dict[str, Any]:
        ids = example["tokens"].astype(np.int64)
        return {
            "input_tokens": ids,
            "target_tokens": ids,
            "position_ids": np.arange(len(ids)),
            "loss_masks": np.ones(len(ids), np.float32),
            "num_images": np.zeros(0, np.int64),
            "multimodal_type": np.zeros(0, np.int64),
            "n_pruned": 0,
            "visual_end": 0,
            "metadata": {"example_id": example["of"], "draw": int(rng.randint(1 << 30))},
        }


@dataclass(frozen=True)
class Setting:
    """A mixture (size, broken, rate of each data set) and how it is packed and shuffled."""

    datasets: tuple[tuple[int, int, float], ...]
    buffer_size: int | None
    shuffle: bool

    def mixture(self) -> Mixture:
        datasets = {f"d{i}": Texts(f"d{i}", n, b) for i, (n, b, _) in enumerate(self.datasets)}
        return Mixture(dict(datasets), {f"d{i}": r for i, (_, _, r) in enumerate(self.datasets)})


@dataclass(frozen=True)
class Layout:
    """Who makes the rows."""

    world: int
    workers: int
    micro: int


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Streams drawn in small pieces: cheaper to build, and a test goes through several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "CHUNK", 128)
        yield


sizes = st.tuples(
    st.sampled_from([5, 7, 25, 35, 37]),  # no common divisor with LANES: every lane sees all
    st.sampled_from([0, 3, 5]),
    st.floats(0.05, 1.0),
)
settings_ = st.builds(
    Setting,
    st.lists(sizes, min_size=1, max_size=4).map(tuple),
    st.sampled_from([None, 1, 3, 6]),
    st.booleans(),
)
MICRO = {1: (1, 4), 2: (1, 3), 3: (1, 2), 4: (1, 3)}
layouts = st.integers(1, 4).flatmap(
    lambda world: st.builds(
        Layout, st.just(world), st.integers(0, 3), st.sampled_from(MICRO[world])
    )
)


def build(setting: Setting, layout: Layout, rank: int, states: dict[int, LaneState]) -> Any:
    size = setting.buffer_size
    packing = None if size is None else PackingConfig(buffer_size=size, max_wait=3)
    config = DataConfig(
        seed=SEED, shuffle=setting.shuffle, packing=packing, num_workers=layout.workers
    )
    preprocessor: Any = Tokens()
    source = ExampleSource(setting.mixture(), preprocessor, SEED, setting.shuffle)
    share = RowShare(LANES, layout.micro, rank, layout.world)
    return build_train_loader(config, source, Collator(SEQ_LEN, "longest", 4, 6), share, states)


def rank_batches(loader: Any) -> Iterator[MicroBatch]:
    """The micro-batches of a rank as ``DataLoader`` gives them, its workers played in turn."""
    n = loader.num_workers
    workers = []
    for worker in range(max(n, 1)):
        info = SimpleNamespace(id=worker, num_workers=n) if n else None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loader_module, "get_worker_info", lambda info=info: info)
            iterator = iter(loader.dataset)
            first = next(iterator)  # the generator asks for its worker when it starts
        workers.append((iterator, [first]))
    while True:
        for iterator, waiting in workers:
            yield waiting.pop() if waiting else next(iterator)


@dataclass
class Taken:
    """Rows by lane, the last state of every lane, and the skipped examples."""

    rows: dict[int, list[tuple]]
    states: dict[int, LaneState]
    skipped: list[str]


def take(setting: Setting, layout: Layout, steps: int, states: Any = None) -> Taken:
    """``steps`` rows of every lane."""
    out = Taken({lane: [] for lane in range(LANES)}, {}, [])
    for rank in range(layout.world):
        batches = rank_batches(build(setting, layout, rank, states or {}))
        for _ in range(steps * LANES // layout.world // layout.micro):
            batch = next(batches)
            add(out, batch)
    return out


def add(out: Taken, batch: MicroBatch) -> None:
    tensors = {k: v for k, v in batch.tensors.items() if v.ndim == 2}
    ids, start = list(batch.example_ids), 0
    for row, lane in enumerate(batch.lanes):
        kept = int((tensors["input_ids"][row] >= 0).sum())
        assert 0 < kept <= SEQ_LEN
        parts = int((tensors["position_ids"][row] == 0).sum())  # positions start in each example
        content = tuple((k, tuple(v[row, :kept].tolist())) for k, v in sorted(tensors.items()))
        out.rows[lane].append((ids[start : start + parts], content))
        start += parts
    assert start == len(ids)
    out.states |= batch.lanes
    out.skipped += [one.text for one in batch.skipped]


@settings(max_examples=20)
@given(settings_, layouts, st.integers(1, 12))
def test_nothing_is_lost_or_comes_twice(setting: Setting, layout: Layout, steps: int) -> None:
    taken = take(setting, layout, steps)
    mixture = setting.mixture()
    stream = MixtureStream(mixture, SEED, setting.shuffle)
    for lane in range(LANES):
        state = taken.states[lane]
        assert state["next_id"] % LANES == lane
    given_out = Counter(name for rows in taken.rows.values() for names, _ in rows for name in names)
    waiting = Counter(named(stream, i) for s in taken.states.values() for i in s["buffered"])
    skipped = Counter(text.split(":")[0] for text in taken.skipped)
    read = Counter(
        named(stream, i)
        for lane, state in taken.states.items()
        for i in range(lane, state["next_id"], LANES)
    )
    left_out = Counter({as_id(k): n for k, n in skipped.items()})
    assert given_out + waiting + left_out == read
    for name in mixture.names:
        check_epochs(stream, name, max(s["next_id"] for s in taken.states.values()))


def named(stream: MixtureStream, example_id: int) -> str:
    ref = stream[example_id]
    return str((ref.dataset, ref.index))


def as_id(described: str) -> str:
    name, index = described.split(" ")
    return str((name, int(index)))


def check_epochs(stream: MixtureStream, name: str, n: int) -> None:
    """Among the first ``n`` ids, every epoch of a data set has each of its examples once."""
    size = len(stream.mixture.datasets[name])
    refs = [ref for ref in (stream[i] for i in range(n)) if ref.dataset == name]
    for place, ref in enumerate(refs):
        assert ref.epoch == place // size
    for epoch in range(-(-len(refs) // size)):
        own = [ref.index for ref in refs[epoch * size : (epoch + 1) * size]]
        assert len(set(own)) == len(own)
    for epoch in range(len(refs) // size):
        own = [ref.index for ref in refs[epoch * size : (epoch + 1) * size]]
        assert sorted(own) == list(range(size))


interruptions = (settings_, layouts, layouts, st.integers(1, 8), st.integers(1, 4))


@settings(max_examples=15)
@given(*interruptions)
def test_a_resumed_stream_goes_on_exactly(
    setting: Setting, before: Layout, after: Layout, stop: int, more: int
) -> None:
    check_resumed(setting, before, after, stop, more)


@pytest.mark.slow
@settings(max_examples=400)
@given(*interruptions)
def test_a_resumed_stream_goes_on_exactly_in_many_cases(
    setting: Setting, before: Layout, after: Layout, stop: int, more: int
) -> None:
    check_resumed(setting, before, after, stop, more)


def check_resumed(setting: Setting, before: Layout, after: Layout, stop: int, more: int) -> None:
    whole = take(setting, before, stop + more)
    first = take(setting, before, stop)
    second = take(setting, after, more, first.states)
    for lane in range(LANES):
        assert first.rows[lane] + second.rows[lane] == whole.rows[lane]
    assert second.states == whole.states
    assert Counter(first.skipped) + Counter(second.skipped) == Counter(whole.skipped)


@settings(max_examples=10)
@given(settings_, layouts)
def test_rows_do_not_depend_on_who_makes_them(setting: Setting, layout: Layout) -> None:
    assert take(setting, layout, 3).rows == take(setting, Layout(1, 0, 1), 3).rows


def test_a_waiting_example_that_is_gone_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two halves of a run a file may vanish."""
    setting, layout = Setting(((40, 0, 1.0),), 6, True), Layout(1, 0, 1)
    states = take(setting, layout, 4).states
    gone = states[0]["buffered"][2]
    index = MixtureStream(setting.mixture(), SEED)[gone].index
    get = Texts.get

    def without_one(self: Texts, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        if idx == index:
            raise OSError("gone")
        return get(self, idx, rng)

    monkeypatch.setattr(Texts, "get", without_one)
    taken = take(setting, layout, 1, states)
    assert f"d0 {index}: gone" in taken.skipped
    assert gone not in taken.states[0]["buffered"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_real_worker_processes(world: int, workers: int) -> None:
    """Interrupted while the workers are ahead, and resumed with another number of them."""
    setting = Setting(((30, 5, 0.7), (7, 0, 0.3)), 4, True)
    whole = take(setting, Layout(1, 0, 1), 9)
    first = Taken({lane: [] for lane in range(LANES)}, {}, [])
    for rank in range(world):
        batches = iter(build(setting, Layout(world, workers, 1), rank, {}))
        for _ in range(5 * LANES // world):
            add(first, next(batches))
        del batches
    second = take(setting, Layout(3, 0, 1), 4, first.states)
    for lane in range(LANES):
        assert first.rows[lane] + second.rows[lane] == whole.rows[lane]
    assert second.states == whole.states
