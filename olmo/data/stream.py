"""The endless, deterministic stream of example ids of a mixture.

Every rank and worker sees the same stream. Data sets are drawn by rate; each is gone through in
a fresh shuffle per epoch, and wholly before any of its examples repeats.
"""

from __future__ import annotations

from dataclasses import dataclass

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


class MixtureStream:
    """The endless stream of a mixture; ``stream[i]`` for any ``i`` is cheap when ids rise."""

    def __init__(self, mixture: Mixture, seed: int, shuffle: bool = True) -> None:
        self.mixture, self.seed, self.shuffle = mixture, seed, shuffle
        self._names = mixture.names
        self._sizes = np.array([len(mixture.datasets[n]) for n in self._names])
        rates = np.array([mixture.rates[n] for n in self._names], np.float32)
        self._shares = rates / rates.sum()
        self._chunks: dict[int, np.ndarray] = {}
        """int64 ``[3, CHUNK]``: number of the data set, index and epoch of each id."""
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        """Epoch and order of each data set, by its number."""
        self._rewind()

    def __getitem__(self, example_id: int) -> ExampleRef:
        number, i = divmod(example_id, CHUNK)
        if number not in self._chunks:
            self._build(number)
        dataset, index, epoch = self._chunks[number][:, i].tolist()
        return ExampleRef(self._names[dataset], index, epoch)

    def _rewind(self) -> None:
        self._next = 0  # the chunk that the generator stands before
        self._counts = np.zeros(len(self._names), np.int64)  # examples drawn of each data set
        self._choices = np.random.RandomState(self.seed)

    def _build(self, number: int) -> None:
        if number < self._next:
            self._rewind()
        while self._next < number:
            self._counts += np.bincount(self._draw(), minlength=len(self._names))
        drawn = self._draw()
        chunk = np.empty((3, CHUNK), np.int64)
        for d in np.unique(drawn):
            places = np.flatnonzero(drawn == d)
            passed = self._counts[d] + np.arange(len(places))
            epochs, positions = divmod(passed, self._sizes[d])
            for epoch in np.unique(epochs):
                now = epochs == epoch
                chunk[1, places[now]] = self._order(int(d), int(epoch))[positions[now]]
            chunk[0, places], chunk[2, places] = d, epochs
            self._counts[d] += len(places)
        while len(self._chunks) >= KEPT_CHUNKS:
            del self._chunks[min(self._chunks)]
        self._chunks[number] = chunk

    def _draw(self) -> np.ndarray:
        """Data sets of the next chunk's ids."""
        self._next += 1
        return self._choices.choice(len(self._shares), size=CHUNK, p=self._shares)

    def _order(self, dataset: int, epoch: int) -> np.ndarray:
        """Indices of a data set in the order of an epoch; the latest one is kept."""
        if self._orders.get(dataset, (None,))[0] != epoch:
            order = np.arange(self._sizes[dataset], dtype=np.int32)
            if self.shuffle:
                sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, 1))
                np.random.RandomState(np.random.MT19937(sequence)).shuffle(order)
            self._orders[dataset] = (epoch, order)
        return self._orders[dataset][1]


def example_rng(seed: int, index: int, epoch: int) -> np.random.RandomState:
    """Generator of all random choices for one example in one epoch."""
    sequence = np.random.SeedSequence([seed, index], spawn_key=(epoch,))
    return np.random.RandomState(np.random.MT19937(sequence))
