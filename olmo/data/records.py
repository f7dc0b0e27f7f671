"""Records: examples in plain JSON types, as files hold them, and the data sets made of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from olmo.outside import OutsideError, foreign
from olmo.types import MEDIA_KEYS

Record = dict[str, Any]
"""Paths are relative to the home of the data set, subtitles are lists ``[start, end, text]``."""


MAX_REASON = 300
"""Characters of a reason for a row left out: it may quote what stands in the row."""
MAX_REASONS = 5
"""Reasons for rows left out that a message lists."""


class DatasetFormatError(OutsideError):
    """Files of a data set are there but not in the layout that its reader expects."""


class CustomDataError(OutsideError):
    """A file of own data with mistakes; the message has them with their line numbers."""


class LeftOut(OutsideError):
    """A row that its data set does not use, by a rule: a list of corrupt clips, a flag, a range.
    The message is the rule, without what differs from row to row."""

    @classmethod
    def when(cls, condition: object, rule: str) -> None:
        """Raise it if ``condition`` holds."""
        if condition:
            raise cls(rule)


class Flaw(LeftOut):
    """A row that cannot be used, because its annotation is wrong."""


@contextlib.contextmanager
def explained(named: Callable[[str], OutsideError]) -> Iterator[None]:
    """Whatever reading annotations raises becomes ``named(reason)``."""
    with foreign(named):
        try:
            yield
        except OutsideError:
            raise
        except (ValueError, LookupError) as e:  # of the readers; these say it without their type
            raise named(f"no field {e}" if isinstance(e, KeyError) else str(e)) from e


@contextlib.contextmanager
def reading(where: Callable[[], str]) -> Iterator[None]:
    """Whatever reading annotations raises, also of a row that is left out too late, is a
    ``DatasetFormatError`` that begins with ``where()``, the file and the row."""
    try:
        with explained(lambda reason: DatasetFormatError(f"{where()}: {reason}")):
            yield
    except LeftOut as e:
        raise DatasetFormatError(f"{where()}: {e}") from e


@dataclass
class Losses:
    """Rows of the annotations that give no example, counted by reason."""

    n_rows: int = 0
    n_unusable: int = 0
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Reason -> how often, and where first."""

    def add(self, error: OutsideError, place: str) -> None:
        """Count the row at ``place``. All but those that a rule leaves out are unusable."""
        reason = str(error)[:MAX_REASON]
        count, first = self.reasons.get(reason, (0, place))
        self.reasons[reason] = count + 1, first
        self.n_unusable += isinstance(error, Flaw) or not isinstance(error, LeftOut)

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def text(self) -> str:
        """All in one line, the most frequent reasons first."""
        total = sum(n for n, _ in self.reasons.values())
        found = sorted(self.reasons.items(), key=lambda item: -item[1][0])
        shown = [f"{n:,} {reason} (first {first})" for reason, (n, first) in found[:MAX_REASONS]]
        more = [f"{len(found) - MAX_REASONS} more reasons"] * (len(found) > MAX_REASONS)
        return f"{total:,} of {self.n_rows:,} rows left out: " + "; ".join([*shown, *more])


@dataclass
class PackedRecords(Sequence[Record]):
    """Records as JSON in one buffer: small, and quick to hand to another process.

    Where rows hold images, masks or much text, only the media and what tells the rows are packed,
    and ``complete`` makes the record of that when it is asked for.
    """

    data: bytes
    ends: np.ndarray
    complete: Callable[[Record], Record] | None = None

    @classmethod
    def pack(
        cls,
        records: Iterable[Record],
        lose: Callable[[OutsideError], None] | None = None,
        complete: Callable[[Record], Record] | None = None,
    ) -> PackedRecords:
        """``lose`` is told of a record that is no JSON (dates, half a character), which is left
        out; without it, that is an ``OutsideError``."""
        parts = []
        for record in records:
            try:
                with explained(Flaw):
                    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
                    parts.append(text.encode())
            except OutsideError as e:
                if lose is None:
                    raise
                lose(e)
        ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
        return cls(b"".join(parts), ends, complete)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, idx: Any) -> Any:
        packed = self.packed(idx)
        if self.complete is None:
            return packed
        return {k: packed[k] for k in MEDIA_KEYS if k in packed} | self.complete(packed)

    def at(self, indices: Iterable[int]) -> PackedRecords:
        """Some of the records."""
        return self.pack(map(self.packed, indices), complete=self.complete)

    def media(self, idx: int) -> list[str]:
        """Paths of the media files of a record, which is not made for it."""
        return media_of(self.packed(idx))

    def packed(self, idx: Any) -> Record:
        """What is packed of a record: all, or its media and what it is made of."""
        if not isinstance(idx, (int, np.integer)) or not 0 <= idx < len(self):
            raise IndexError(f"no record {idx!r} among {len(self)}")
        start = int(self.ends[idx - 1]) if idx else 0
        record: Record = json.loads(self.data[start : int(self.ends[idx])])
        return record


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
