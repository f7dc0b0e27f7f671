"""Mixtures of data sets: YAML in, open data sets with their sampling rates out."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from olmo.config import Config, ConfigError, FilePath, read_settings
from olmo.data.custom import MAX_LINE_BYTES, CustomDataset, is_own_data
from olmo.data.records import DatasetFormatError
from olmo.data.registry import Dataset, MissingDataError, data_root, dataset_names, get_dataset
from olmo.preprocessing.tokens import MessageWeight
from olmo.text import format_table, nearest

log = logging.getLogger(__name__)

MIXTURES = Path(__file__).parents[2] / "configs" / "mixtures"
CUSTOM = "custom"
"""Name of the data set that ``--data.custom`` gives."""


@dataclass
class WeightedDataset(Config):
    """One data set of a group.

    Its weight in the group is ``sqrt(len)``, or with ``root_size_factor`` f: 1 for 0,
    ``sqrt(len * f)`` below 1, ``sqrt(f)`` from 1 on; times ``sampling_rate``. ``message_weight``
    is the loss weight of its examples (a number, or the fields of ``MessageWeight``),
    ``p_high_res`` the share of its single images that get more crops. With ``path``, or with the
    name ``custom``, it is own data (``olmo.data.custom``).
    """

    name: str
    root_size_factor: float | None = None
    sampling_rate: float = 1.0
    message_weight: float | dict[str, float | bool] | None = None
    p_high_res: float | None = None
    path: FilePath | None = None

    def __post_init__(self) -> None:
        MessageWeight.of(self.message_weight)  # a wrong field fails here
        if self.sampling_rate <= 0:
            raise ValueError(f"sampling_rate must be positive, got {self.sampling_rate}")
        self.at_least(0, "root_size_factor")

    def weight(self, size: int) -> float:
        factor = self.root_size_factor
        if factor is None:
            base = size**0.5
        elif factor == 0:
            base = 1.0
        else:
            base = (size * factor if factor < 1 else factor) ** 0.5
        return base * self.sampling_rate

    def open(self, split: str, max_line_bytes: int = MAX_LINE_BYTES) -> Dataset:
        """The data set; ``max_line_bytes`` bounds the lines of own data. An unknown name and
        absent files are a ``MissingDataError``."""
        if self.name == CUSTOM and self.path is None:
            raise ConfigError(f"the mixture has {CUSTOM!r}: give --data.custom=FILE.jsonl")
        if self.path is not None:
            return CustomDataset.open(self.path, max_line_bytes, split)
        if self.name not in (known := dataset_names()):
            hint = nearest(self.name, known)
            raise MissingDataError(self.name, ["a reader of that name"], data_root(), hint)
        return get_dataset(self.name, split)

    @property
    def settings(self) -> dict[str, Any]:
        """What its examples carry beside their own fields."""
        found = {"weight": self.message_weight, "p_high_res": self.p_high_res}
        return {k: v for k, v in found.items() if v is not None}


@dataclass
class MixtureGroup(Config):
    """Data sets that share ``rate`` of the examples. ``name`` is for messages."""

    rate: float
    datasets: list[WeightedDataset]
    name: str = ""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")


@dataclass
class MixtureConfig(Config):
    """A mixture file: a list of groups; the rates need not add up to 1."""

    groups: list[MixtureGroup]

    def __post_init__(self) -> None:
        listed: dict[str, str] = {}
        for i, group in enumerate(self.groups, 1):
            where = f"group {group.name!r}" if group.name else f"group {i}"
            for name in (d.name for d in group.datasets):
                if name in listed:
                    raise ValueError(
                        f"data set {name!r} is listed twice: in {listed[name]} and in {where}"
                    )
                listed[name] = where
        if not listed:
            raise ValueError("a mixture needs at least one data set")

    @classmethod
    def load(cls, name: str) -> MixtureConfig:
        """Mixture by name (a file of ``configs/mixtures``) or by the path of a YAML file. A
        ``path`` in it is relative to the folder of that file."""
        path = mixture_file(name)
        if not path.is_file():
            known = sorted(p.stem for p in MIXTURES.glob("*.yaml"))
            hint = nearest(name, known, listed=True)
            if is_own_data(name):
                hint = f"for own data give custom, and --data.custom={name}"
            raise ConfigError(f"unknown mixture {name!r} (no file {path}); {hint}")
        config = cls.from_dict(read_settings(path), str(path))
        for entry in (d for g in config.groups for d in g.datasets):
            if entry.path is not None:
                entry.path = str(path.parent / entry.path)
        return config

    def with_custom(self, path: str) -> MixtureConfig:
        """The mixture with the own data at ``path`` as its data set ``custom``; where it has none,
        as a further group that makes up half of the examples."""
        groups = copy.deepcopy(self.groups)
        entries = [d for g in groups for d in g.datasets if d.name == CUSTOM]
        if not entries:
            entries = [WeightedDataset(CUSTOM)]
            groups.append(MixtureGroup(sum(g.rate for g in groups), entries))
        entries[0].path = path
        return MixtureConfig(groups)

    def open(
        self,
        split: str,
        skip_missing: bool = False,
        custom: str | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> Mixture:
        """Open every data set. A ``MissingDataError`` lists all that are absent, a
        ``DatasetFormatError`` also those in another layout; with ``skip_missing`` they are left
        out, and a table of the others goes to the log. A group keeps its rate when some of its
        data sets are left out. ``custom`` is the file or folder of the data set of that name,
        ``max_line_bytes`` the longest line of such files."""
        if custom is not None:
            return self.with_custom(custom).open(split, skip_missing, None, max_line_bytes)
        datasets: dict[str, Dataset] = {}
        rates: dict[str, float] = {}
        settings: dict[str, dict[str, Any]] = {}
        unusable: dict[str, MissingDataError | DatasetFormatError] = {}
        for group in self.groups:
            weights: dict[str, float] = {}
            for entry in group.datasets:
                try:
                    datasets[entry.name] = data = entry.open(split, max_line_bytes)
                except (MissingDataError, DatasetFormatError) as e:
                    unusable[entry.name] = e
                    continue
                weights[entry.name] = entry.weight(len(data))
                settings[entry.name] = entry.settings
            total = sum(weights.values()) or 1.0  # 0 of empty data sets, which Mixture names
            rates |= {name: group.rate * w / total for name, w in weights.items()}
        if unusable and not (skip_missing and datasets):
            raise _unusable(unusable, len(datasets))
        mixture = Mixture(datasets, rates, settings)
        if unusable:
            absent = [e for e in unusable.values() if isinstance(e, MissingDataError)]
            misfits = [e for e in unusable.values() if isinstance(e, DatasetFormatError)]
            if absent:
                names = ", ".join(error.dataset for error in absent)
                log.warning("left out, their files are absent: %s", names)
            for error in absent:
                if error.dataset not in dataset_names():
                    log.warning("there is no data set %r; %s", error.dataset, error.hint)
            for misfit in misfits:
                log.warning("left out, its files do not fit: %s", misfit)
            log.warning("what is left:\n%s", mixture.table())
        return mixture


@dataclass
class Mixture:
    """Open data sets, by name, with their sampling rates (any positive scale)."""

    datasets: dict[str, Dataset]
    rates: dict[str, float]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields that all examples of a data set get, by its name."""

    def __post_init__(self) -> None:
        for name, dataset in self.datasets.items():
            if len(dataset) == 0:
                raise ValueError(f"data set {name!r} is empty")

    @property
    def names(self) -> list[str]:
        return sorted(self.datasets)

    def example(self, name: str, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        """Raw example ``idx`` of a data set, with the fields that the mixture sets."""
        return self.datasets[name].get(idx, rng) | self.settings.get(name, {})

    def table(self) -> str:
        """Data sets with their numbers of examples and shares of the stream."""
        total = sum(self.rates.values())
        rows = [
            (name, f"{len(self.datasets[name]):,}", f"{self.rates[name] / total:.2%}")
            for name in sorted(self.names, key=lambda n: -self.rates[n])
        ]
        return format_table(["data set", "examples", "share"], rows)


def mixture_file(name: str) -> Path:
    """What ``MixtureConfig.load`` reads: a name's file of ``configs/mixtures``, or a path."""
    return Path(name) if name.endswith((".yaml", ".yml")) else MIXTURES / f"{name}.yaml"


def open_named(
    name: str, split: str, skip_missing: bool = False, evaluation: bool = False
) -> Mixture:
    """What a user names: a mixture, the YAML file of one, a data set, a file or folder of own
    data. Of own data named so, a line that cannot be used costs that line; for an ``evaluation``
    they need no answers."""
    if not is_own_data(name):
        if name.endswith((".yaml", ".yml")) or (MIXTURES / f"{name}.yaml").is_file():
            return MixtureConfig.load(name).open(split, skip_missing)
        if name in dataset_names() or not Path(name).is_dir():
            return Mixture({name: get_dataset(name, split)}, {name: 1.0})
    data = CustomDataset.open(name, split=split, evaluation=evaluation, lenient=True)
    return Mixture({CUSTOM: data}, {CUSTOM: 1.0})


def _unusable(
    errors: dict[str, MissingDataError | DatasetFormatError], n_present: int
) -> MissingDataError | DatasetFormatError:
    """One error for all data sets that cannot be opened, with the place where each was looked
    for."""
    entries, misfits = [], []
    for name, error in errors.items():
        if isinstance(error, DatasetFormatError):
            misfits.append(str(error))
            continue
        more = f" and {len(error.missing) - 1} more" if len(error.missing) > 1 else ""
        entries.append(f"{name}: {error.missing[0]}{more}, in {error.root}")
    hint = (
        f"{n_present} data sets are there. Set MOLMO_DATA_DIR to the data folder, get data sets "
        "with scripts/download_datasets.py"
    )
    if n_present:
        hint += ", or train on the others with --data.skip_missing"
    absent = MissingDataError("the mixture", entries, data_root(), hint, limit=len(entries))
    if not misfits:
        return absent
    also = f"\n{absent}" if entries else f"\n{hint}"
    return DatasetFormatError("\n".join(misfits) + also)
