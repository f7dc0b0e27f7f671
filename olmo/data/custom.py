"""A user's own data, checked in full before training starts.

    {"video": "clips/a.mp4", "question": "What happens?", "answer": "A door opens."}
    {"video": "clips/a.mp4", "question": "Which?", "options": ["a cup", "a book"],
     "answer": "a book", "start": 2.0, "end": 9.5,
     "subtitle": [{"start": 2.5, "end": 4.0, "text": "Look!"}]}

(each on one line), or conversations (``olmo.data.conversations``); in jsonl, a JSON list, parquet,
a folder of such files, or a folder of ``datasets.Dataset.save_to_disk``. ``docs/datasets.md``
describes the keys.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from olmo.data.custom_files import SUFFIXES, RowFile, open_files
from olmo.data.custom_line import UNANSWERED, checked, record_of, style_of
from olmo.data.records import CustomDataError, Record, RecordDataset, media_of
from olmo.outside import OutsideError, describe, foreign
from olmo.preprocessing.chat import DataFormatter, DataFormatterConfig

__all__ = ["MAX_LINE_BYTES", "CustomDataError", "CustomDataset", "is_own_data"]

log = logging.getLogger(__name__)

MAX_SHOWN = 20
"""Mistakes that a message lists."""
MAX_LINE_BYTES = 4 << 20
"""Longest line; subtitles within it keep ``Limits.max_subtitle_bytes``."""
REFERENCES = ("question", "answer", "answers", "options", "answer_idx")
NO_END = -1
ROWS_PER_UPDATE, SECONDS_WITHOUT_BAR = 5000, 3
"""Of the bar that shows how far the check is."""
MAX_FOLDERS = 100_000
"""Folders of media that are remembered at a time."""
RIGHTS_CHECKED = 100
"""So many files of a folder are looked at for rights: those of the others are the same, or they
are skipped when they are read."""
HALF_A_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def is_own_data(name: str) -> bool:
    """Whether a name can only be that of a file of own data."""
    return name.endswith(SUFFIXES)


@dataclass
class CustomRecords(Sequence[Record]):
    """Records of files behind each other, read from them when they are asked for."""

    sources: list[RowFile]
    answered: bool = True

    def __post_init__(self) -> None:
        self._ends = np.cumsum([len(source) for source in self.sources], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def first(self, which: int) -> int:
        """Index of the first record of file number ``which``."""
        return int(self._ends[which]) - len(self.sources[which])

    def place(self, idx: Any) -> tuple[RowFile, int]:
        """The file of a record, and the index of its row there."""
        if not isinstance(idx, (int, np.integer)) or not 0 <= idx < len(self):
            raise IndexError(f"no record {idx!r} among {len(self)}")
        which = int(np.searchsorted(self._ends, idx, side="right"))
        source = self.sources[which]
        return source, int(idx) - int(self._ends[which]) + len(source)

    def __getitem__(self, idx: Any) -> Any:
        source, row = self.place(idx)
        number = source.number(row)
        try:
            return record_of(source.line(row), example_id(source.path, number), self.answered)
        except (CustomDataError, OSError) as e:
            reason = str(e) if isinstance(e, CustomDataError) else describe(e)
            raise CustomDataError(f"{source.path}: {source.unit} {number}: {reason}") from e


def example_id(path: Path, number: int) -> str:
    """Name of an example in the results: the file's, and the number of its line or row."""
    return f"{os.fsencode(path.name).decode(errors='replace')}:{number}"


@dataclass
class CustomDataset(RecordDataset):
    """Examples of the file or folder ``path``. Paths in it are relative to its own folder.

    For an ``evaluation`` the metadata have what the answer is compared with: ``answer`` (a text),
    ``answers``, or ``options`` and ``answer_idx`` for multiple choice; and ``question``. Of a
    conversation that is the last turn, and evaluation asks for it with all turns before it. A line
    may lack its answer then. ``category`` is the line's, else its ``data_source``.

    ``flaws`` has what is wrong with the lines that cannot be used, by index: to get one of them is
    a ``CustomDataError``.
    """

    path: Path
    evaluation: bool = False
    flaws: dict[int, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: str | Path,
        max_line_bytes: int = MAX_LINE_BYTES,
        split: str = "train",
        evaluation: bool = False,
        questions: bool = False,
        lenient: bool = False,
    ) -> CustomDataset:
        """Read and check every row. All mistakes come in one ``CustomDataError``; if ``lenient``,
        and for an ``evaluation``, in a warning, as long as any row can be used.

        ``questions``: rows need no answer, and their media are not looked for before they are read.

        A row that passes gives a prompt and an answer: its kind has been through the formatter.
        ``split`` matters for a folder of ``save_to_disk`` that has several.
        """
        path, answered = Path(path).absolute(), not (evaluation or questions)
        lenient = lenient or evaluation
        mistakes: list[tuple[int, int, str]] = []
        with foreign(lambda reason: CustomDataError(f"{path}: {reason}")):
            sources = open_files(path, max_line_bytes, split)
            home = path if path.is_dir() else path.parent
            check = LineCheck(str(home), DataFormatterConfig().build(), answered, not questions)
            for i, source in enumerate(sources):
                name = "" if source.path == path else f"{source.path.name}: "
                for row, reason in _mistakes(source, check):
                    is_kept = lenient or len(mistakes) < MAX_SHOWN
                    mistakes.append((i, row, f"{name}{reason}" if is_kept else ""))
        if mistakes:
            units = "/".join(sorted({f"{source.unit}s" for source in sources}))
            text = f"{path}: {len(mistakes)} {units} cannot be used:{_shown(mistakes)}"
            if not lenient or any(row == NO_END for _, row, _ in mistakes):
                raise CustomDataError(text)
        records = CustomRecords(sources, answered)
        if not len(records):
            raise CustomDataError(f"{path}: it is empty")
        flaws = {records.first(i) + row: reason for i, row, reason in mistakes}
        if len(flaws) == len(records):
            raise CustomDataError(text)
        if flaws:
            log.warning("%s", text)
        if check.unused:
            log.warning("%s: keys without a meaning here: %s", path, _listed(sorted(check.unused)))
        return cls(path.name, split, home, records, path, evaluation, flaws)

    @property
    def files(self) -> list[Path]:
        """All files that hold its rows."""
        assert isinstance(self.records, CustomRecords)
        return [file for source in self.records.sources for file in source.files]

    def where(self, idx: int) -> str:
        """File and line, or row, of an example."""
        assert isinstance(self.records, CustomRecords)
        source, row = self.records.place(idx)
        between = ":" if source.unit == "line" else f": {source.unit} "
        return f"{source.path}{between}{source.number(row)}"

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        if idx in self.flaws:
            raise CustomDataError(f"{self.path}: {self.flaws[idx]}")
        return super().get(idx, rng)

    def drawn(self, record: Record, rng: np.random.RandomState) -> Record:
        if not self.evaluation:
            return record
        known = {k: record[k] for k in REFERENCES if k in record}
        if "messages" in record:
            *_, question, answer = record["messages"]
            texts = (piece for piece in question.pieces if isinstance(piece, str))
            known = {"question": "".join(texts).strip()}
            known |= {} if str(answer) == UNANSWERED else {"answer": str(answer)}
            if "data_source" in record["metadata"]:
                known["category"] = record["metadata"]["data_source"]
        return record | {"metadata": known | record["metadata"]}


def _shown(mistakes: list[tuple[int, int, str]]) -> str:
    """The first mistakes, one a line, and how many more."""
    more = len(mistakes) - MAX_SHOWN
    first = [reason for _, _, reason in mistakes[:MAX_SHOWN]]
    return "\n  ".join(["", *first, *[f"... and {more} more"] * (more > 0)])


def _mistakes(source: RowFile, check: LineCheck) -> Iterator[tuple[int, str]]:
    """Index of each row of a file that cannot be used, and what is wrong with it, with its number.
    ``NO_END`` is the row of what keeps the file from being read to its end."""
    from olmo.distributed import is_main  # imported late: it takes seconds, for torch

    size = sum(path.stat().st_size for path in source.files)
    bar = tqdm(
        **{"total": size, "unit": "B", "unit_scale": True, "desc": f"checking {source.path.name}"},
        **{"delay": SECONDS_WITHOUT_BAR, "disable": not is_main()},
    )
    try:
        for n, (number, found) in enumerate(source.scan()):
            try:
                check(source.parse(found, number), found)
            except OutsideError as e:
                yield n, _printable(f"{source.unit} {number}: {e}")
            except Exception as e:  # whatever is odd about it, it is a mistake of that row
                yield n, _printable(f"{source.unit} {number}: it cannot be used: {describe(e)}")
            if not n % ROWS_PER_UPDATE:
                bar.update(source.n_bytes_done - bar.n)
    except Exception as e:  # of the library that reads the file
        yield NO_END, _printable(f"it cannot be read to its end: {describe(e)}")
    bar.close()


def _listed(keys: list[str]) -> str:
    more = [f"and {len(keys) - MAX_SHOWN} more"] * (len(keys) > MAX_SHOWN)
    return ", ".join([*(_printable(key[:80]) for key in keys[:MAX_SHOWN]), *more])


def _printable(text: str) -> str:
    return UNPRINTABLE.sub(lambda m: ascii(m[0])[1:-1], text)


# --- what the disk and the formatter say -------------------------------------------------------


@dataclass
class LineCheck:
    """Checks of lines that are made once, before training: of all that ``record_of`` does not see.

    Media are looked for in listings of their folders, and a line is formatted if no line of its
    kind was before: whether a prompt and an answer come out depends on nothing else.
    """

    home: str
    formatter: DataFormatter
    answered: bool = True
    looks: bool = True
    """Whether media are looked for."""
    unused: set[str] = field(default_factory=set)
    """Keys of lines in a chat form that mean nothing here."""
    _files: dict[str, frozenset[str] | None] = field(default_factory=dict)
    _tried: dict[tuple[str, bool, bool], str] = field(default_factory=dict)

    def __call__(self, line: Any, source: Any) -> None:
        """``CustomDataError`` for a line that cannot be used; ``source`` is what it was read
        from."""
        missing = self._missing if self.looks else None
        known = checked(line, missing, self.unused, self.answered)
        if isinstance(source, bytes) and HALF_A_CHARACTER.search(source):
            try:
                json.dumps(line, ensure_ascii=False).encode()
            except UnicodeEncodeError as e:
                reason = "half of a character, such as \\ud800 without its second half"
                raise CustomDataError(reason) from e
        kind = (style_of(known), "options" in known, "messages" in known)
        if kind not in self._tried:
            self._tried[kind] = self._try_out(record_of(line, "", self.answered))
        if reason := self._tried[kind]:
            given = "with 'options'" if "options" in known else "without 'options'"
            raise CustomDataError(f"the style {kind[0]!r} is of no use {given}: {reason}")

    def _try_out(self, record: Record) -> str:
        """Why the formatter refuses a record, empty if it does not."""
        if not record.keys() & {"answer", "answers", "answer_idx", "messages"}:
            record |= {"answer_idx": 0} if "options" in record else {"answer": "-"}
        try:
            self.formatter(record)
        except ValueError as e:
            return str(e)
        return ""

    def _missing(self, line: Record, has_rate: bool) -> Iterator[str]:
        """Absent files; a video may be a folder of pictures, which needs its rate."""
        for media in media_of(line):
            if has_rate or not self._is_listed(media):
                yield from _absent(self.home, media, media == line.get("video"), has_rate)

    def _is_listed(self, media: str) -> bool:
        """Whether a file is there for certain."""
        cut = media.rfind("/") + 1
        folder, name = media[:cut], media[cut:]
        files = self._files.get(folder)
        if files is None:  # the second file of a folder is worth a listing
            if folder not in self._files:
                if len(self._files) >= MAX_FOLDERS:
                    self._files.clear()
                self._files[folder] = None
                return False
            files = self._files[folder] = _listing(os.path.join(self.home, folder))
        return name in files


def _listing(folder: str) -> frozenset[str]:
    """Files in a folder; none where each has to be asked for: the folder cannot be listed, or one
    of the first files cannot be read."""
    try:
        with os.scandir(folder) as entries:
            files = frozenset(entry.name for entry in entries if entry.is_file())
    except (ValueError, OSError):
        return frozenset()
    some = (os.path.join(folder, name) for name in itertools.islice(files, RIGHTS_CHECKED))
    return files if all(os.access(path, os.R_OK) for path in some) else frozenset()


def _absent(home: str, media: str, is_video: bool, has_rate: bool) -> Iterator[str]:
    path = Path(home, media)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (ValueError, OSError) as e:  # a zero byte, too long a name, no rights
        yield f"{media!r:.80} is not a usable path: {describe(e)}"
        return
    if is_folder and is_video:
        if not has_rate:
            yield f"{path} is a folder of pictures: give its 'frame_rate'"
    elif not is_file:
        yield f"no file {path}" + (", it is a folder" if is_folder else "")
    elif has_rate:
        yield f"'frame_rate' is for a folder of pictures, {path} is a file"
    elif not os.access(path, os.R_OK):
        yield f"no rights to read {path}"
