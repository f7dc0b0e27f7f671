"""Registry of data sets: a name and a split in, a ``Dataset`` out.

The catalogue registers its sets on import. It is imported on first use, so that this module does
not depend on it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from olmo.text import nearest

CATALOGUE = f"{__package__}.datasets.catalogue"
"""The module that registers the data sets of this project."""


class Dataset(Protocol):
    """A map-style data set of raw examples."""

    def __len__(self) -> int: ...

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        """Example ``idx``; every random choice is drawn from ``rng``. The dict is the caller's."""
        ...


DatasetBuilder = Callable[[str], Dataset]
B = TypeVar("B", bound=DatasetBuilder)

SHORT_SPLITS = {"val": "validation"}


_ENTRIES: dict[str, tuple[DatasetBuilder, tuple[str, ...]]] = {}
"""What builds a data set, and its splits, by name."""


class MissingDataError(FileNotFoundError):
    """Files of a data set are absent. Lists them, and ``root``, where they were looked for."""

    def __init__(
        self,
        dataset: str,
        missing: Sequence[str | Path],
        root: str | Path,
        hint: str = "",
        limit: int = 10,
    ) -> None:
        self.dataset, self.root, self.hint = dataset, Path(root), hint
        self.missing = [str(m) for m in missing]
        shown = "".join(f"\n  {m}" for m in self.missing[:limit])
        more = len(self.missing) - limit
        shown += f"\n  ... and {more} more" if more > 0 else ""
        super().__init__(
            f"{dataset}: {len(self.missing)} missing under {self.root}:{shown}"
            + (f"\n{hint}" if hint else "")
        )

    def brief(self) -> str:
        """One line, for a list of several data sets."""
        n, first = len(self.missing), self.missing[0] if self.missing else ""
        what = first if n == 1 else f"{n} files, first {first}"
        return f"missing under {self.root}: {what}" + (f"; {self.hint}" if self.hint else "")


def data_root() -> Path:
    """Folder of all data sets: ``MOLMO_DATA_DIR``, or ``~/.cache/olmo_stts``."""
    return Path(os.environ.get("MOLMO_DATA_DIR") or Path.home() / ".cache" / "olmo_stts")


def register_dataset(name: str, splits: Sequence[str]) -> Callable[[B], B]:
    """Decorator that registers a ``(split) -> Dataset`` function, called with one of ``splits``.
    A name is taken only once."""

    def register(builder: B) -> B:
        if name in _ENTRIES:
            both = f"{_ENTRIES[name][0].__module__} and {builder.__module__}"
            raise ValueError(f"data set {name!r} is registered twice, by {both}: rename one")
        _ENTRIES[name] = (builder, tuple(splits))
        return builder

    return register


def dataset_names() -> list[str]:
    """Names of all registered data sets, sorted."""
    importlib.import_module(CATALOGUE)
    return sorted(_ENTRIES)


def check_split(name: str, split: str) -> str:
    """``split`` of data set ``name`` as it is registered (``val`` may stand for ``validation``).
    ``ValueError`` for an unknown data set, with the nearest known one, or an unknown split."""
    known = dataset_names()
    if name not in _ENTRIES:
        raise ValueError(f"unknown data set {name!r}; {nearest(name, known, listed=True)}")
    _, splits = _ENTRIES[name]
    split = split if split in splits else SHORT_SPLITS.get(split, split)
    if split not in splits:
        raise ValueError(f"data set {name!r} has no split {split!r}, only {', '.join(splits)}")
    return split


def get_dataset(name: str, split: str) -> Dataset:
    """Build data set ``name``. Errors of ``check_split``; absent files are a
    ``MissingDataError``."""
    split = check_split(name, split)
    build, _ = _ENTRIES[name]
    return build(split)
