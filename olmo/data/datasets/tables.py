"""Records made when they are asked for: from rows with images, masks or much text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.data.arrow import ArrowRows
from olmo.data.datasets.disk import Disk
from olmo.data.records import reading

Row = dict[str, Any]
Convert = Callable[[list[Row]], dict[str, Any]]
"""Rows of one example -> its record."""


@dataclass
class TableRecords(Sequence[dict[str, Any]]):
    """Example ``i`` is made by ``convert`` of the rows ``groups[i]``. ``media`` has the path of
    each example's file, which becomes its key ``kind``, and is None where the rows hold the
    images themselves."""

    rows: Sequence[Row]
    convert: Convert
    groups: list[np.ndarray]
    media: list[str] | None = None
    kind: str = "image"

    @classmethod
    def single(
        cls,
        rows: Sequence[Row],
        convert: Convert,
        indices: Sequence[int] | np.ndarray | None = None,
        media: list[str] | None = None,
        kind: str = "image",
    ) -> TableRecords:
        """One row per example: all, or those of ``indices``; ``media`` goes with these."""
        chosen = np.arange(len(rows)) if indices is None else np.asarray(indices, dtype=np.int64)
        return cls(rows, convert, list(chosen[:, None]), media, kind)

    @classmethod
    def by_address(
        cls,
        rows: ArrowRows,
        convert: Convert,
        folder: str,
        keep: np.ndarray | None = None,
        column: str = "image_url",
    ) -> TableRecords:
        """All rows (with ``keep`` True) on one image address per example; the image is in
        ``folder``, see :func:`address_name`."""
        found: dict[str, list[int]] = {}
        for i, address in enumerate(rows.column(column)):
            if keep is None or keep[i]:
                found.setdefault(address, []).append(i)
        media = [f"{folder}/{address_name(address)}" for address in found]
        return cls(rows, convert, [np.asarray(g) for g in found.values()], media)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, idx: Any) -> Any:
        if not 0 <= idx < len(self):
            raise IndexError(f"no example {idx!r} among {len(self)}")

        def where() -> str:
            file = getattr(self.rows, "where", "") or (self.media[idx] if self.media else "")
            return f"{file}: row {', '.join(map(str, self.groups[idx]))}"

        with reading(where):
            record = self.convert([self.rows[int(i)] for i in self.groups[idx]])
        return record if self.media is None else {self.kind: self.media[idx], **record}

    def present(self, disk: Disk) -> list[int]:
        """Indices of the examples whose image file is there."""
        if self.media is None:
            return list(range(len(self)))
        return [i for i, path in enumerate(self.media) if disk.exists(path)]

    def at(self, indices: list[int]) -> TableRecords:
        """Some of the examples."""
        media = None if self.media is None else [self.media[i] for i in indices]
        groups = [self.groups[i] for i in indices]
        return TableRecords(self.rows, self.convert, groups, media, self.kind)


def address_name(address: str) -> str:
    """File name of a downloaded image: the SHA-256 of its address."""
    return hashlib.sha256(address.encode()).hexdigest()


def picture(cell: Row) -> bytes:
    """The image file in a cell of a hub table; it is decoded with the other images."""
    data: bytes = cell["bytes"]
    return data
