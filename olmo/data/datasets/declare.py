"""The table of data sets on disk: a row is a decorated function that reads the annotations.

    @dataset(
        "intent_qa",
        {"train": "train", "validation": "val"},
        files=("IntentQA/{split}.csv",),
        media=("IntentQA/videos",),
        sources=(Manual("..."),),
        groups=(VIDEO_ACADEMIC,),
    )
    def intent_qa(disk: Disk, split: str) -> Iterator[Record]:
        for row in disk.csv(f"IntentQA/{split}.csv"):
            yield {"video": f"IntentQA/videos/{row['video_id']}.mp4", "question": ...}

The function yields *records* (``olmo.data.records``), in which what is random is only announced
(see ``draws``). ``DeclaredDataset`` makes an example of one with the generator it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo.data.datasets.disk import Disk
from olmo.data.datasets.draws import drawn
from olmo.data.datasets.sources import Source
from olmo.data.datasets.tables import TableRecords
from olmo.data.records import (
    DatasetFormatError,
    PackedRecords,
    Record,
    RecordDataset,
    media_of,
    reading,
)
from olmo.data.registry import MissingDataError, data_root, dataset_names, register_dataset

log = logging.getLogger(__name__)

VIDEO_HOME = "video_datasets"
IMAGE_HOME = "torch_datasets"

VIDEO_ACADEMIC, SHORT_VIDEO, LONG_VIDEO = "video_academic", "short_video", "long_video"
SINGLE_IMAGE, MULTI_IMAGE = "single_image", "multi_image"
VIDEO_POINTING, TRACKING = "video_pointing", "tracking"
IMAGE_ACADEMIC, IMAGE_POINTING, DEMO, NLP = "image_academic", "image_pointing", "demo", "nlp"
"""Groups of data sets: the names that download and status take."""

Reader = Callable[[Disk, str], Iterable[Record]]


@dataclass(frozen=True)
class DatasetRow:
    """A declared data set.

    Attributes:
        name: the registered name.
        splits: our name of a split -> its name in ``files`` and in the reader.
        files: annotation files (``{split}`` is filled in) that must exist.
        media: folders of the videos or images, for messages.
        sources: how to get it.
        groups: names that stand for it and others.
        home: folder of ``data_root()`` that all paths are relative to.
        read: reader, called with the split's name in the files.
    """

    name: str
    splits: Mapping[str, str]
    files: tuple[str, ...]
    media: tuple[str, ...]
    sources: tuple[Source, ...]
    groups: tuple[str, ...]
    home: str
    read: Reader

    def folder(self) -> Path:
        """Where the files are looked for."""
        return data_root() / self.home

    def missing_files(self, split: str) -> list[str]:
        """Annotation files of ``split`` that are absent; a glob must match at least one file."""
        disk, word = Disk(self.folder()), self.splits[split]
        return [f for f in (f.format(split=word) for f in self.files) if not disk.matches(f)]

    def records(self, split: str) -> tuple[Disk, Sequence[Record]]:
        """All records of one of ``splits``, whether their media are there or not; outside training
        one per question. Absent files are a ``MissingDataError``, other layouts a
        ``DatasetFormatError``."""
        missing = self.missing_files(split)
        if missing:
            raise MissingDataError(self.name, missing, self.folder(), self._hint())
        disk = Disk(self.folder())
        try:
            with reading(lambda: f"data set {self.name!r}: {disk.at}"):
                found = self.read(disk, self.splits[split])
                if not isinstance(found, Sequence):
                    found = found if split == "train" else single_questions(found)
                    found = PackedRecords.pack(found)
                return disk, found
        except DatasetFormatError as e:
            if isinstance(absent := e.__cause__, FileNotFoundError):
                name = absent.filename or str(absent)
                raise MissingDataError(self.name, [name], self.folder(), self._hint()) from e
            raise

    def open(self, split: str) -> DeclaredDataset:
        """The data set, errors as in ``records``. Examples without their media are left out of a
        training split; an evaluation keeps them, and counts them as unreadable."""
        disk, records = self.records(split)
        there = present(disk, records)
        if not len(there) and len(records):
            missing = [f"all media, in {m}" for m in self.media]
            raise MissingDataError(self.name, missing, disk.home, self._hint())
        if len(there) < len(records):
            keep = split != "train"
            log.warning(
                "%s:%s: the media of %d of %d examples are not in %s: %s",
                self.name,
                split,
                len(records) - len(there),
                len(records),
                ", ".join(str(disk.home / m) for m in self.media),
                "they will count as unreadable" if keep else "left out",
            )
            records = records if keep else records_at(records, there)
        return DeclaredDataset(self.name, split, disk.home, records)

    def _hint(self) -> str:
        return f"get it with: python scripts/download_datasets.py {self.name}"


class DeclaredDataset(RecordDataset):
    """Examples of one split of a declared data set."""

    def drawn(self, record: Record, rng: np.random.RandomState) -> Record:
        example = drawn(record, rng)
        if "message_list" in example:
            example["message_list"] = [drawn(m, rng) for m in example["message_list"]]
        return example


def present(disk: Disk, records: Sequence[Record]) -> list[int]:
    """Indices of the records whose media files are all there."""
    if isinstance(records, TableRecords):
        return records.present(disk)
    return [i for i, r in enumerate(records) if all(map(disk.exists, media_of(r)))]


def records_at(records: Sequence[Record], indices: list[int]) -> Sequence[Record]:
    """Some of the records."""
    if isinstance(records, TableRecords):
        return records.at(indices)
    return PackedRecords.pack(records[i] for i in indices)


def single_questions(records: Iterable[Record]) -> Iterator[Record]:
    """One record for each message of a list, for evaluation."""
    for record in records:
        messages = record.pop("message_list", [{}])
        yield from (record | message for message in messages)


def videos_of(records: Sequence[Record]) -> Iterable[str]:
    """Paths of the videos of the records, which are not made for it where rows hold much."""
    if isinstance(records, TableRecords):
        return records.media or () if records.kind == "video" else ()
    return (r["video"] for r in records if "video" in r)


def dataset(
    name: str,
    splits: Mapping[str, str],
    *,
    files: tuple[str, ...],
    media: tuple[str, ...] = (),
    sources: tuple[Source, ...] = (),
    groups: tuple[str, ...] = (),
    home: str = VIDEO_HOME,
) -> Callable[[Reader], Reader]:
    """Decorator that adds a row; see :class:`DatasetRow` for the arguments."""

    def add(read: Reader) -> Reader:
        row = DatasetRow(name, dict(splits), files, media, sources, groups, home, read)
        register_dataset(name, tuple(row.splits))(row.open)
        _ROWS[name] = row
        return read

    return add


_ROWS: dict[str, DatasetRow] = {}


def dataset_rows() -> dict[str, DatasetRow]:
    """All declared data sets, by name."""
    dataset_names()  # imports the modules that declare them
    return dict(sorted(_ROWS.items()))


def select_rows(names: Iterable[str]) -> list[DatasetRow]:
    """Rows named one by one or by group; an unknown name is a ``ValueError`` with all groups."""
    rows = dataset_rows()
    groups = sorted({g for r in rows.values() for g in r.groups})
    found: dict[str, DatasetRow] = {}
    for name in names:
        members = [r for r in rows.values() if name == r.name or name in r.groups]
        if not members:
            raise ValueError(
                f"unknown data set or group {name!r}. Groups: {', '.join(groups)}. "
                f"Data sets: {', '.join(rows)}"
            )
        found |= {r.name: r for r in members}
    return list(found.values())


def by_media(
    pairs: Iterable[tuple[str, Record]], kind: str = "video", max_messages: int | None = None
) -> Iterator[Record]:
    """One record per media path with all its messages, in the order of first appearance; a path
    with more than ``max_messages`` gives several records."""
    found: dict[str, list[Record]] = {}
    for path, message in pairs:
        found.setdefault(path, []).append(message)
    for path, messages in found.items():
        step = max_messages or len(messages)
        for i in range(0, len(messages), step):
            yield {kind: path, "message_list": messages[i : i + step]}
