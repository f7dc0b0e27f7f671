"""Mixtures of data sets: YAML in, an endless deterministic stream of example ids out.

Every rank and worker sees the same stream. Data sets are drawn by rate; each is gone through in
a fresh shuffle per epoch, and wholly before any of its examples repeats.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from olmo.config import Config, ConfigError, read_yaml
from olmo.data.registry import Dataset, MissingDataError, data_root, dataset_names, get_dataset

MIXTURES = Path(__file__).parents[2] / "configs" / "mixtures"
CHUNK = 4096


@dataclass
class WeightedDataset(Config):
    """One data set of a group. Its weight is ``sqrt(len)``, or with ``root_size_factor`` f:
    1 for 0, ``sqrt(len * f)`` below 1, ``sqrt(f)`` from 1 on; times ``sampling_rate``."""

    name: str
    root_size_factor: float | None = None
    sampling_rate: float = 1.0

    def weight(self, size: int) -> float:
        factor = self.root_size_factor
        if factor is None:
            base = size**0.5
        elif factor == 0:
            base = 1.0
        else:
            base = (size * factor if factor < 1 else factor) ** 0.5
        return base * self.sampling_rate


@dataclass
class MixtureGroup(Config):
    """Data sets that share ``rate`` of the examples."""

    rate: float
    datasets: list[WeightedDataset]


@dataclass
class MixtureConfig(Config):
    """A mixture file: a list of groups; the rates need not add up to 1."""

    groups: list[MixtureGroup]

    @classmethod
    def load(cls, name: str) -> MixtureConfig:
        """Mixture by name (a file of ``configs/mixtures``) or by the path of a YAML file."""
        path = Path(name) if name.endswith((".yaml", ".yml")) else MIXTURES / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in MIXTURES.glob("*.yaml"))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"unknown mixture {name!r} (no file {path}).{hint} Known: {', '.join(known)}"
            )
        return cls.from_dict(read_yaml(path), str(path))

    def open(self, split: str) -> Mixture:
        """Open every data set; ``MissingDataError`` lists all that are absent."""
        datasets: dict[str, Dataset] = {}
        missing: list[str] = []
        known = set(dataset_names())
        for entry in (d for g in self.groups for d in g.datasets):
            if entry.name in datasets:
                raise ConfigError(f"data set {entry.name!r} is listed twice in a mixture")
            if entry.name not in known:
                missing.append(f"{entry.name} (no reader for it is registered)")
                continue
            try:
                datasets[entry.name] = get_dataset(entry.name, split)
            except MissingDataError as e:
                missing.append(f"{entry.name}: {e}")
        if missing:
            raise MissingDataError(
                "the mixture", missing, data_root(), "set MOLMO_DATA_DIR to the data folder"
            )
        rates: dict[str, float] = {}
        for group in self.groups:
            weights = {d.name: d.weight(len(datasets[d.name])) for d in group.datasets}
            total = sum(weights.values())
            rates |= {name: group.rate * w / total for name, w in weights.items()}
        return Mixture(datasets, rates)


@dataclass
class Mixture:
    """Open data sets, by name, with their sampling rates (any positive scale)."""

    datasets: dict[str, Dataset]
    rates: dict[str, float]

    def __post_init__(self) -> None:
        for name, dataset in self.datasets.items():
            if len(dataset) == 0:
                raise ValueError(f"data set {name!r} is empty")

    @property
    def names(self) -> list[str]:
        return sorted(self.datasets)


@dataclass(frozen=True)
class ExampleRef:
    """What id ``i`` of a stream stands for."""

    dataset: str
    index: int
    epoch: int


@dataclass
class MixtureStream:
    """The endless stream of a mixture; ``stream[i]`` for any ``i`` is cheap when ids rise."""

    mixture: Mixture
    seed: int
    shuffle: bool = True
    _chunk: int = -1
    _refs: list[ExampleRef] = field(default_factory=list)
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    _choices: np.random.RandomState = field(default_factory=np.random.RandomState)
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def __getitem__(self, example_id: int) -> ExampleRef:
        chunk = example_id // CHUNK
        if chunk < self._chunk or self._chunk < 0:
            self._rewind()
        while self._chunk < chunk:
            self._advance(build=self._chunk + 1 == chunk)
        return self._refs[example_id % CHUNK]

    def _rewind(self) -> None:
        self._chunk = -1
        self._counts = np.zeros(len(self.mixture.names), np.int64)
        self._choices = np.random.RandomState(self.seed)

    def _advance(self, build: bool) -> None:
        names = self.mixture.names
        rates = np.array([self.mixture.rates[n] for n in names], np.float32)
        rates /= rates.sum()
        drawn = self._choices.choice(len(names), size=CHUNK, p=rates)
        if build:
            counts = self._counts.copy()
            self._refs = []
            for d in drawn:
                size = len(self.mixture.datasets[names[d]])
                epoch, position = divmod(int(counts[d]), size)
                index = int(self._order(int(d), epoch, size)[position])
                self._refs.append(ExampleRef(names[d], index, epoch))
                counts[d] += 1
        self._counts += np.bincount(drawn, minlength=len(names))
        self._chunk += 1

    def _order(self, dataset: int, epoch: int, size: int) -> np.ndarray:
        key = (dataset, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != dataset}
            order = np.arange(size, dtype=np.int32)
            if self.shuffle:
                sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, 1))
                np.random.RandomState(np.random.MT19937(sequence)).shuffle(order)
            self._orders[key] = order
        return self._orders[key]


def example_rng(seed: int, index: int, epoch: int) -> np.random.RandomState:
    """Generator of all random choices for one example in one epoch."""
    sequence = np.random.SeedSequence([seed, index], spawn_key=(epoch,))
    return np.random.RandomState(np.random.MT19937(sequence))
