"""The catalogue: the data sets of ``configs/datasets.yaml``, a row each.

A row says what a data set is called, which splits it has, where it comes from, and how it is read:

    video_datasets:                 # or torch_datasets: the folder of the data root
      social_iq2:
        groups: [video_academic]
        splits: {train: train, validation: val, test: test}
        files: ["social-iq2/qa/qa_{split}.json"]     # their rows, one after another
        video: "social-iq2/video/{vid_name}.mp4"     # filled in from the row
        fields: {question: q, options: [a0, a1, a2, a3], answer_idx: answer_idx}
        style: video_multiple_choice
        sources: [{hub: PediaMedAI/Social-IQ-Video, into: social-iq2}]

Where columns alone do not say it, ``row: module.function`` names a function (of a module beside
this one) that makes the messages of a row, and ``read: module.function`` one that reads the files
itself. Both yield *records* (``olmo.data.records``), one for each message, in which what is random
is only announced (see ``draws``). ``merge`` says which of them are one example of training. An
evaluation has one question per example.
"""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

import olmo.data.datasets.synthetic.video  # noqa: F401 (registers its sets)
from olmo.config import Config, ConfigError, convert, nearest, read_settings, section
from olmo.data.datasets.disk import Disk, Row, structs
from olmo.data.datasets.draws import drawn
from olmo.data.datasets.messages import (
    even_parts,
    in_merged_order,
    known,
    merged,
    plain_messages,
    single_questions,
)
from olmo.data.datasets.sources import LinkedImages, Source, source_of
from olmo.data.datasets.tables import LazyTable
from olmo.data.records import (
    DatasetFormatError,
    Flaw,
    LeftOut,
    PackedRecords,
    Record,
    RecordDataset,
    reading,
)
from olmo.data.registry import MissingDataError, data_root, register_dataset
from olmo.outside import OutsideError
from olmo.preprocessing.prompts import check_style

log = logging.getLogger(__name__)

CATALOGUE = Path(__file__).parents[3] / "configs" / "datasets.yaml"
HOMES = ("video_datasets", "torch_datasets")


@dataclass
class DatasetRow(Config):
    """A declared data set.

    Attributes:
        name: the registered name.
        home: folder of ``data_root()`` that all paths are relative to.
        splits: our name of a split -> its name in the files, which ``{split}`` stands for.
        sources: how to get it (``olmo.data.datasets.sources``).
        groups: names that stand for it and others.
        files: annotation files in the order in which they are read, by their suffix: csv, tsv,
            json, jsonl, parquet, or a folder with an Arrow table; of a list the first there.
        suffix: the suffix that the files should have, where theirs is another one; ``mapping`` for
            JSON files that are a mapping of rows.
        rows: the key of a JSON file under which the rows are.
        items: the column with a list of questions: each of them, with the other columns of its
            row, is read as a row.
        columns: columns of an Arrow table whose rows are read when they are asked for, because they
            hold images or much text.
        video, image: the media file of a row. Its ``{split}``, its ``{file}`` and its
            ``{row_number}`` in that (its key in a mapping) are further columns, here and for
            ``row``. Of a list the first that is there; ``module.function`` looks for it (disk,
            row). With ``columns``, ``image`` is the column of its image, or of the address where
            one of ``sources`` is linked images.
        fields: keys of a message -> columns of a row, for plain rows.
        style: style of the messages of plain rows.
        row, read, arguments: functions instead of ``fields``, and what they get as keywords.
        merge: what becomes one example of training: all messages on one media file (``media``),
            on one clip of one (``clip``), with one ``example_id`` (``id``), of one row (``row``),
            or each record as it is (``none``). In the evaluation of a video set with a training
            split these stand one after another, but each is an example.
        max_messages: examples with more are split evenly.
        max_lost: the share of the rows that may be unusable.
        only_present: leave examples without their media out of an evaluation, too.
    """

    name: str
    home: str
    splits: dict[str, str]
    sources: list[dict[str, Any]]
    groups: list[str] = field(default_factory=list)
    files: list[str | list[str]] = field(default_factory=list)
    suffix: str | None = None
    rows: str | None = None
    items: str | None = None
    columns: list[str] = field(default_factory=list)
    video: str | list[str] | None = None
    image: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    style: str | None = None
    row: str | None = None
    read: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    merge: Literal["media", "clip", "id", "row", "none"] = "media"
    max_messages: int | None = None
    max_lost: float = 0.5
    only_present: bool = False
    origins: list[Source] = field(init=False, repr=False)
    """``sources``, typed."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.fields, self.row, self.read))) != 1:
            raise ValueError("expected one of fields, row and read")
        if bool(self.files) == bool(self.read):
            raise ValueError("expected files, or read, which opens its own")
        if self.columns and (len(self.files) != 1 or self.max_messages):
            raise ValueError("columns are those of one table, whose examples are not split")
        check_style(self.style or "")
        self.in_range("[0, 1]", "max_lost")
        self.at_least(1, "max_messages")
        self.origins = [source_of(s, f"sources[{i}]") for i, s in enumerate(self.sources)]

    def folder(self) -> Path:
        """Where the files are looked for."""
        return data_root() / self.home

    def records(self, split: str) -> tuple[Disk, PackedRecords]:
        """All records of one of ``splits``, whether their media are there or not; outside training
        one per question. What rows are left out, and why, is in ``losses`` of the disk. Absent
        files are a ``MissingDataError``, other layouts a ``DatasetFormatError``."""
        disk = Disk(self.folder())
        files, absent = [], []
        for names in self.files:
            listed = [f.format(split=self.splits[split]) for f in alternatives(names)]
            there = list(filter(disk.glob, listed))
            files += there[:1]
            absent += [] if there else [" or ".join(listed)]
        if absent:
            raise MissingDataError(self.name, absent, disk.home, self._hint())
        read = self._reader(split)
        try:
            with reading(lambda: f"data set {self.name!r}: {disk.at}"):
                found = read(disk, files)
                if not isinstance(found, PackedRecords):
                    if split == "train":
                        found = merged(found, self.merge, lambda: disk.place)
                    else:
                        # the order of published evaluations, for which images have no rule
                        trained = self.home == "video_datasets" and "train" in self.splits
                        order = self.merge if trained else "none"
                        found = single_questions(in_merged_order(found, order))
                    found = PackedRecords.pack(even_parts(found, self.max_messages), disk.lose)
        except OutsideError as e:
            if isinstance(lost := e.__cause__, FileNotFoundError):
                name = str(lost.filename or lost).removeprefix(f"{disk.home}/")
                raise MissingDataError(self.name, [name], disk.home, self._hint()) from e
            if not isinstance(e, DatasetFormatError):  # of a row, where nothing counts it
                raise DatasetFormatError(f"data set {self.name!r}: {disk.at}: {e}") from e
            raise
        losses = disk.losses
        if losses.n_unusable > self.max_lost * losses.n_rows or not len(found):
            reasons = losses.text() if losses else "it has no rows"
            raise DatasetFormatError(f"data set {self.name!r}: {disk.home}: {reasons}")
        return disk, found

    def _reader(self, split: str) -> Callable[[Disk, list[str]], Iterable[Record]]:
        """What makes records of the files of a split."""
        word = self.splits[split]
        if self.read is not None:
            read = function_of(self.read)
            return lambda disk, files: read(disk, word, **self.arguments)
        convert = partial(plain_messages, fields=self.fields, style=self.style)
        if self.row is not None:
            convert = partial(function_of(self.row), **self.arguments)
        if self.columns:
            images = [s for s in self.origins if isinstance(s, LinkedImages)]
            linked = next((s.into for s in images if s.column == self.image), None)
            joined = split == "train" and self.merge != "none"
            about = self.columns, convert, self.image, linked, joined
            return lambda disk, files: LazyTable(files[0], word, *about).open(disk)
        media = {k: v for k in ("video", "image") if (v := getattr(self, k)) is not None}

        def of_files(disk: Disk, files: list[str]) -> Iterator[Record]:
            def messages(row: Row) -> Iterator[Record]:
                Flaw.when(not isinstance(row, dict), "a row is no object")
                file, *_, number = disk.place
                row = row | {"split": word, "file": file, "row_number": number}
                shown = {kind: media_file(path, disk, row) for kind, path in media.items()}
                found = convert(row)
                for message in [found] if isinstance(found, dict) else found:
                    yield shown | message

            def records(row: Row) -> Iterable[Record]:
                if self.items is None:
                    return messages(row)
                LeftOut.when(row.get(self.items) is None, f"it has no {self.items!r}")
                items = structs(row[self.items])
                disk.losses.n_rows -= 1  # its items count, each as a row
                return disk.each(items, lambda item: messages(row | item))

            opened = (disk.rows_of(file, word, self.rows, self.suffix) for file in files)
            return disk.each(itertools.chain.from_iterable(opened), records)

        return of_files

    def open(self, split: str) -> DeclaredDataset:
        """The data set, errors as in ``records``. Examples without their media are left out of a
        training split; an evaluation keeps them, and counts them as unreadable (but see
        ``only_present``)."""
        disk, records = self.records(split)
        if disk.losses:
            log.warning("%s:%s: %s", self.name, split, disk.losses.text())
        there = present(disk, records)
        if len(there) < len(records):
            media = (path for i in range(len(records)) for path in records.media(i))
            first = next(path for path in media if not disk.exists(path))
            if not there:
                missing = [f"all media, first {first}"]
                raise MissingDataError(self.name, missing, disk.home, self._hint())
            keep = split != "train" and not self.only_present
            log.warning(
                "%s:%s: the media of %d of %d examples are absent, first %s: %s",
                self.name,
                split,
                len(records) - len(there),
                len(records),
                disk.home / first,
                "they will count as unreadable" if keep else "left out",
            )
            records = records if keep else records.at(there)
        return DeclaredDataset(self.name, split, disk.home, records)

    def _hint(self) -> str:
        return f"get it with: python scripts/download_datasets.py {self.name}"


class DeclaredDataset(RecordDataset):
    """Examples of one split of a declared data set."""

    def drawn(self, record: Record, rng: np.random.RandomState) -> Record:
        return drawn(record, rng)


def present(disk: Disk, records: PackedRecords) -> list[int]:
    """Indices of the records whose media files are all there."""
    return [i for i in range(len(records)) if all(map(disk.exists, records.media(i)))]


def alternatives(names: str | list[str]) -> list[str]:
    """One name, or those of a list."""
    return names if isinstance(names, list) else [names]


def media_file(path: str | list[str], disk: Disk, row: Row) -> str:
    """The file of a row that ``DatasetRow.video`` tells."""
    row = known(row)
    first, *others = alternatives(path)
    if "{" not in first:
        found: str = function_of(first)(disk, row)
        return found
    paths = [p.format_map(row) for p in (first, *others)]
    return disk.first(*paths) if others else paths[0]


def function_of(name: str) -> Callable[..., Any]:
    """The function ``module.function`` of this package."""
    module, _, function = name.rpartition(".")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"{__package__}.{module}"), function
    )
    return found


def load(path: Path = CATALOGUE) -> tuple[dict[str, str], dict[str, DatasetRow]]:
    """Groups with their titles, and the rows by name, sorted. ``ConfigError`` names what is
    wrong in the file."""
    content = read_settings(path)
    titles = convert(dict[str, str], content.pop("groups", {}), f"{path.name}: groups")
    rows: dict[str, DatasetRow] = {}
    for home in HOMES:
        for name, row in section(content, home).items():
            where = f"{path.name}: {name}"
            rows[name] = DatasetRow.from_dict({"name": name, "home": home, **row}, where)
            for group in rows[name].groups:
                if group not in titles:
                    raise ConfigError(f"{where}: unknown group {group!r}; {nearest(group, titles)}")
    if unknown := set(content) - set(HOMES):
        raise ConfigError(f"{path.name}: unknown key {unknown.pop()!r}, expected {HOMES}")
    return titles, dict(sorted(rows.items()))


GROUPS, _ROWS = load()
"""Titles of the groups, by name; and the rows."""
for _row in _ROWS.values():
    register_dataset(_row.name, tuple(_row.splits))(_row.open)


def dataset_rows() -> dict[str, DatasetRow]:
    """All declared data sets, by name."""
    return _ROWS


def select_rows(names: Iterable[str]) -> list[DatasetRow]:
    """Rows named one by one or by group; an unknown name is a ``ValueError`` with all groups."""
    rows = dataset_rows()
    found: dict[str, DatasetRow] = {}
    for name in names:
        members = [r for r in rows.values() if name == r.name or name in r.groups]
        if not members:
            hint = nearest(name, {*GROUPS, *rows})
            raise ValueError(
                f"unknown data set or group {name!r}; {hint} Groups: {', '.join(sorted(GROUPS))}. "
                f"Data sets: {', '.join(rows)}"
            )
        found |= {r.name: r for r in members}
    return list(found.values())
