"""The endless, deterministic stream of example ids of a mixture.

Every rank and worker sees the same stream. Data sets are drawn by rate; each is gone through in
a fresh shuffle per epoch, and wholly before any of its examples repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from olmo.data.mixture import Mixture

CHUNK = 4096
"""Ids whose data sets are drawn at once."""
KEPT_CHUNKS = 32
"""Chunks kept: lanes go through the stream at different speeds, and a chunk that was given up
costs a walk from the start of the stream."""


@dataclass(frozen=True)
class ExampleRef:
    """What id ``i`` of a stream stands for."""

    dataset: str
    index: int
    epoch: int


@dataclass(frozen=True)
class _Chunk:
    """Data set number, index and epoch of ``CHUNK`` ids, an array each."""

    dataset: np.ndarray
    index: np.ndarray
    epoch: np.ndarray


@dataclass
class MixtureStream:
    """The endless stream of a mixture; ``stream[i]`` for any ``i`` is cheap when ids rise."""

    mixture: Mixture
    seed: int
    shuffle: bool = True
    _next: int = 0
    """Chunk that the generator stands before."""
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Examples that were drawn of each data set so far."""
    _choices: np.random.RandomState = field(default_factory=np.random.RandomState)
    _chunks: dict[int, _Chunk] = field(default_factory=dict)
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = self.mixture.names
        self._sizes = np.array([len(self.mixture.datasets[n]) for n in self._names])
        self._rewind()

    def __getitem__(self, example_id: int) -> ExampleRef:
        number, i = divmod(example_id, CHUNK)
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._build(number)
        name = self._names[chunk.dataset[i]]
        return ExampleRef(name, int(chunk.index[i]), int(chunk.epoch[i]))

    def _rewind(self) -> None:
        self._next = 0
        self._counts = np.zeros(len(self._names), np.int64)
        self._choices = np.random.RandomState(self.seed)

    def _build(self, number: int) -> _Chunk:
        if number < self._next:
            self._rewind()
        while self._next < number:
            self._counts += np.bincount(self._draw(), minlength=len(self._names))
        drawn = self._draw()
        index, epoch = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64)
        for d in np.unique(drawn):
            places = np.flatnonzero(drawn == d)
            epoch[places], position = divmod(
                self._counts[d] + np.arange(len(places)), self._sizes[d]
            )
            for e in np.unique(epoch[places]):
                now = epoch[places] == e
                index[places[now]] = self._order(int(d), int(e))[position[now]]
            self._counts[d] += len(places)
        while len(self._chunks) >= KEPT_CHUNKS:
            del self._chunks[min(self._chunks)]
        self._chunks[number] = _Chunk(drawn, index, epoch)
        return self._chunks[number]

    def _draw(self) -> np.ndarray:
        """Data sets of the next chunk's ids."""
        rates = np.array([self.mixture.rates[n] for n in self._names], np.float32)
        self._next += 1
        return self._choices.choice(len(rates), size=CHUNK, p=rates / rates.sum())

    def _order(self, dataset: int, epoch: int) -> np.ndarray:
        key = (dataset, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != dataset}
            order = np.arange(self._sizes[dataset], dtype=np.int32)
            if self.shuffle:
                sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, 1))
                np.random.RandomState(np.random.MT19937(sequence)).shuffle(order)
            self._orders[key] = order
        return self._orders[key]


def example_rng(seed: int, index: int, epoch: int) -> np.random.RandomState:
    """Generator of all random choices for one example in one epoch."""
    sequence = np.random.SeedSequence([seed, index], spawn_key=(epoch,))
    return np.random.RandomState(np.random.MT19937(sequence))
