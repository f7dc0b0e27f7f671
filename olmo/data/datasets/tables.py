"""Records made when they are asked for: from rows with images, masks or much text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.messages import merged
from olmo.data.records import DatasetFormatError, Flaw, LeftOut, Record, reading

Row = dict[str, Any]
Convert = Callable[[list[Row]], Record]
"""Rows of one example -> its record."""
Messages = Callable[[Row], Record | Iterable[Record]]
"""A row -> its message, or several."""
Media = str | list[str]


@dataclass
class TableRecords(Sequence[Record]):
    """Example ``i`` is made by ``convert`` of the rows ``groups[i]``. ``media`` has the path of
    each example's file (or several), which becomes its key ``kind``, and is None where the rows
    hold the images themselves."""

    rows: Sequence[Row]
    convert: Convert
    groups: Sequence[Sequence[int]] | np.ndarray
    media: Sequence[Media] | None = None
    kind: str = "image"

    @classmethod
    def single(
        cls,
        rows: Sequence[Row],
        convert: Convert,
        indices: Sequence[int] | np.ndarray | None = None,
        media: Sequence[Media] | None = None,
        kind: str = "image",
    ) -> TableRecords:
        """One row per example: all, or those of ``indices``; ``media`` goes with these."""
        chosen = np.arange(len(rows)) if indices is None else np.asarray(indices, dtype=np.int64)
        return cls(rows, convert, chosen[:, None], media, kind)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, idx: Any) -> Any:
        if not 0 <= idx < len(self):
            raise IndexError(f"no example {idx!r} among {len(self)}")

        def where() -> str:
            file = getattr(self.rows, "where", "") or (self.media[idx] if self.media else "")
            return f"{file}: row {', '.join(map(str, self.groups[idx]))}"

        try:
            with reading(where):
                record = self.convert([self.rows[int(i)] for i in self.groups[idx]])
        except LeftOut as e:
            raise DatasetFormatError(f"{where()}: {e}") from e
        return record if self.media is None else {self.kind: self.media[idx], **record}

    def at(self, indices: list[int]) -> TableRecords:
        """Some of the examples."""
        media = None if self.media is None else [self.media[i] for i in indices]
        groups = [self.groups[i] for i in indices]
        return TableRecords(self.rows, self.convert, groups, media, self.kind)


@dataclass
class LazyTable:
    """An Arrow table of the catalogue whose rows are read when they are asked for, because they
    hold images or much text.

    Attributes:
        folder, split: where the table is.
        columns: those that it must have, or else a ``ValueError`` names one.
        messages: makes the messages of a row.
        image: the column of the images: one, or a list. Rows without one are left out.
        linked: the folder of the images, where that column has their addresses.
        joined: messages become a list; rows on the same linked images are one example.
    """

    folder: str
    split: str
    columns: Sequence[str]
    messages: Messages
    image: str | None = None
    linked: str | None = None
    joined: bool = False

    def open(self, disk: Disk) -> TableRecords:
        """Examples in the order of their first row; what is left out is counted."""
        names = [*self.columns, *([self.image] if self.image else [])]
        rows = disk.table(self.folder, self.split, *names)
        cells: Sequence[Any] = [True] * len(rows)
        if self.image:
            cells = rows.column(self.image) if self.linked else rows.has_value(self.image)

        found: dict[str, tuple[Media, list[int]]] = {}
        disk.losses.n_rows += len(rows)
        for i, cell in enumerate(cells):
            try:
                media = self._media(cell)
            except LeftOut as e:
                disk.place = (self.folder, "row", i)
                disk.losses.add(e, disk.at)
            else:
                key = str(media) if self.linked and self.joined else str(i)
                found.setdefault(key, (media, []))[1].append(i)
        groups = [group for _, group in found.values()]
        linked = [media for media, _ in found.values()] if self.linked else None
        shown = None if self.linked else self.image
        convert = partial(_record, messages=self.messages, image=shown, joined=self.joined)
        return TableRecords(rows, convert, groups, linked)

    def _media(self, cell: Any) -> Media:
        """Path of the image, or of several, if they are linked. ``cell`` is false without one."""
        if not cell:
            raise LeftOut("no image")
        if not self.linked:
            return ""
        paths = [
            f"{self.linked}/{address_name(a)}" for a in (cell if isinstance(cell, list) else [cell])
        ]
        return paths if isinstance(cell, list) else paths[0]


def _record(rows: list[Row], messages: Messages, image: str | None, joined: bool) -> Record:
    """The example of these rows: a flat one for a single message that is not ``joined``."""
    found: list[Record] = []
    for row in rows:
        made = messages(row)
        found += [made] if isinstance(made, dict) else made
    if not found:
        raise Flaw("no question")
    record = next(merged(found, "row", lambda: 0)) if joined or len(found) > 1 else found[0]
    return ({"image": pictures(rows[0][image])} if image else {}) | record


def address_name(address: str) -> str:
    """File name of a downloaded image: the SHA-256 of its address."""
    if not isinstance(address, str):
        raise Flaw("the address of an image is not text")
    return hashlib.sha256(address.encode()).hexdigest()


def picture(cell: Row) -> bytes:
    """The image file in a cell of a hub table; it is decoded with the other images."""
    data: bytes = cell["bytes"]
    return data


def pictures(cell: Row | list[Row]) -> bytes | list[bytes]:
    """The image file in a cell, or those in a list."""
    return [picture(c) for c in cell] if isinstance(cell, list) else picture(cell)
