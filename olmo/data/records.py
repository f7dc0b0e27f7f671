"""Records: examples in plain JSON types, as files hold them, and the data sets made of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olmo.outside import OutsideError, foreign
from olmo.types import MEDIA_KEYS

Record = dict[str, Any]
"""Paths are relative to the home of the data set, subtitles are lists ``[start, end, text]``."""


class DatasetFormatError(OutsideError):
    """Files of a data set are there but not in the layout that its reader expects."""


class CustomDataError(OutsideError):
    """A file of own data with mistakes; the message has them with their line numbers."""


@contextlib.contextmanager
def reading(where: Callable[[], str]) -> Iterator[None]:
    """Whatever reading annotations raises is a ``DatasetFormatError`` that begins with
    ``where()``, the file and the row."""

    def named(reason: str) -> DatasetFormatError:
        return DatasetFormatError(f"{where()}: {reason}")

    with foreign(named):
        try:
            yield
        except OutsideError:
            raise
        except (ValueError, LookupError) as e:  # of the readers; these say it without their type
            raise named(f"no field {e}" if isinstance(e, KeyError) else str(e)) from e


@dataclass
class PackedRecords(Sequence[Record]):
    """Records as JSON in one buffer: small, and quick to hand to another process."""

    data: bytes
    ends: np.ndarray

    @classmethod
    def pack(cls, records: Iterable[Record]) -> PackedRecords:
        parts = [json.dumps(r, separators=(",", ":"), ensure_ascii=False).encode() for r in records]
        return cls(b"".join(parts), np.cumsum([len(p) for p in parts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, idx: Any) -> Any:
        if not isinstance(idx, (int, np.integer)) or not 0 <= idx < len(self):
            raise IndexError(f"no record {idx!r} among {len(self)}")
        start = int(self.ends[idx - 1]) if idx else 0
        return json.loads(self.data[start : int(self.ends[idx])])


@dataclass
class RecordDataset:
    """Examples of one split, made of records."""

    name: str
    split: str
    home: Path
    records: Sequence[Record]

    def __len__(self) -> int:
        return len(self.records)

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        """Example ``idx``: absolute paths, ``subtitle`` as ``{(start, end): text}`` or text."""
        with reading(lambda: f"{self.name}:{self.split} example {idx}"):
            example = self.drawn(self.records[idx], rng)
            for kind in set(MEDIA_KEYS) & set(example):
                example[kind] = self._absolute(example[kind])
            if isinstance(subtitle := example.get("subtitle"), list):
                example["subtitle"] = {(float(s), float(e)): text for s, e, text in subtitle}
            return example

    def drawn(self, record: Record, rng: np.random.RandomState) -> Record:
        """A copy of ``record`` with all that is random in it drawn from ``rng``."""
        return dict(record)

    def _absolute(self, media: Any) -> Any:
        if isinstance(media, list):
            return [self._absolute(medium) for medium in media]
        return str(self.home / media) if isinstance(media, str) else media


def media_of(record: Record) -> list[str]:
    """Paths of the media files of a record."""
    found: list[str] = []
    for key in MEDIA_KEYS:
        media = record.get(key)
        if isinstance(media, str):
            found.append(media)
        elif isinstance(media, list):
            found += [medium for medium in media if isinstance(medium, str)]
    return found
