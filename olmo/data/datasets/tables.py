"""Records made when they are asked for: from rows with images, masks or much text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from olmo.data.arrow import ArrowRows
from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.messages import merged
from olmo.data.records import Flaw, LeftOut, PackedRecords, Record, reading

Messages = Callable[[Row], Record | Iterable[Record]]
"""A row -> its message, or several."""


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

    def open(self, disk: Disk) -> PackedRecords:
        """Examples in the order of their first row; what is left out is counted."""
        names = [*self.columns, *([self.image] if self.image else [])]
        rows = disk.table(self.folder, self.split, *names)
        cells: Sequence[Any] = [True] * len(rows)
        if self.image:
            cells = rows.column(self.image) if self.linked else rows.has_value(self.image)

        def known(cell: Any) -> Record:
            LeftOut.when(not cell, "no image")
            one: Record = {"rows": [disk.place[-1]]}
            if not self.linked:
                return one
            if isinstance(cell, list):
                return one | {"image": [f"{self.linked}/{address_name(a)}" for a in cell]}
            return one | {"image": f"{self.linked}/{address_name(cell)}"}

        found: dict[str, Record] = {}
        for one in disk.each(disk.numbered(self.folder, cells), known):
            key = str(one["image"] if self.linked and self.joined else one["rows"])
            found.setdefault(key, one | {"rows": []})["rows"] += one["rows"]
        shown = None if self.linked else self.image
        complete = partial(
            of_rows, table=rows, messages=self.messages, image=shown, joined=self.joined
        )
        return PackedRecords.pack(found.values(), complete=complete)


def of_rows(
    known: Record,
    table: ArrowRows,
    messages: Messages,
    image: str | None = None,
    joined: bool = False,
) -> Record:
    """The example of ``rows`` of a table: a flat one for a single message that is not
    ``joined``."""
    numbers: list[int] = known["rows"]
    with reading(lambda: f"{table.where}: row {', '.join(map(str, numbers))}"):
        found: list[Record] = []
        for row in map(table.__getitem__, numbers):
            shown = {"image": pictures(row[image])} if image else {}
            made = messages(row)
            found += [made] if isinstance(made, dict) else made
        Flaw.when(not found, "no question")
        record = next(merged(found, "row", lambda: 0)) if joined or len(found) > 1 else found[0]
        return shown | record


def address_name(address: str) -> str:
    """File name of a downloaded image: the SHA-256 of its address."""
    Flaw.when(not isinstance(address, str), "the address of an image is not text")
    return hashlib.sha256(address.encode()).hexdigest()


def picture(cell: Row) -> bytes:
    """The image file in a cell of a hub table; it is decoded with the other images."""
    data: bytes = cell["bytes"]
    return data


def pictures(cell: Row | list[Row]) -> bytes | list[bytes]:
    """The image file in a cell, or those in a list."""
    return [picture(c) for c in cell] if isinstance(cell, list) else picture(cell)
