"""Answers to a user's own questions, one line each in a jsonl file, or one after the other.

A line of the file has ``file`` and ``line`` (where the question stands; ``id`` if it has one),
``answer``, ``tokens_before`` and ``tokens_after`` pruning, ``seconds`` and ``stages``, or ``error``
in place of these; ``input`` and ``settings`` are hashes by which a later run knows what is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from olmo.data.examples import BAD_EXAMPLE
from olmo.data.registry import Dataset
from olmo.eval.answer import media_fields, raw_example
from olmo.eval.prediction import Answered, Skipped
from olmo.eval.store import append_rows, example_fingerprint, read_lines, run_key
from olmo.eval.tasks import Task
from olmo.files import whole_file
from olmo.types import MEDIA_KEYS

Row = dict[str, Any]
ROW_START = '{"file": '
SEED = 0
"""Nothing is drawn for an answer."""


@dataclass(frozen=True)
class OneQuestion:
    """A data set: the same question about each of ``media``, files of videos or images."""

    media: Sequence[Path]
    question: str
    style: str = ""

    def __len__(self) -> int:
        return len(self.media)

    def get(self, idx: int, rng: np.random.RandomState) -> dict[str, Any]:
        """Example ``idx``, numbered from 1."""
        path = self.media[idx]
        asked = {"question": self.question, "style": self.style, **media_fields([path])}
        return asked | {"metadata": {"example_id": f"{path}:{idx + 1}"}}


def inputs_of(dataset: Dataset) -> dict[int, Row]:
    """By index: ``file``, ``line``, ``id`` if there is one, and ``input``, the hash of all that is
    asked and shown (of media the path and the size)."""
    found = {}
    for index in range(len(dataset)):
        try:
            example = raw_example(dataset, index, SEED)
            seen = example_fingerprint(example)
        except BAD_EXAMPLE as e:  # a row that changed since it was checked, or cannot be looked at
            found[index] = {"file": "", "line": index, "input": repr(e)}
            continue
        metadata = example["metadata"]
        file, _, line = metadata["example_id"].rpartition(":")
        media = [example.get(key) for key in MEDIA_KEYS]
        text = f"{seen} {media!r}"
        own = {"id": metadata["id"]} if "id" in metadata else {}
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
        found[index] = {"file": file, "line": int(line), **own, "input": digest}
    return found


def answer_row(found: Answered | Skipped) -> Row:
    """What a line of the file says of an answer; all but the input."""
    if isinstance(found, Skipped):
        return {"error": found.error}
    seconds = found.seconds
    vision = seconds.get("vision", 0.0)
    stages = {
        "preprocess": seconds["load"],
        "vision": vision,
        "prefill": seconds["prefill"] - vision,
        "decode": seconds["decode"],
    }
    return {
        "answer": found.text,
        "tokens_before": found.asked.n_tokens,
        "tokens_after": found.n_prompt_tokens,
        "seconds": round(sum(stages.values()), 6),
        "stages": {name: round(value, 6) for name, value in stages.items()},
    }


def settings_key(checkpoint: Path, max_new_tokens: int, settings: Mapping[str, Any]) -> str:
    """Hash of all that decides an answer beside its input: the files of the checkpoint and the
    ``settings`` (plain values)."""
    return run_key(checkpoint, Task("predict", "", "", "", max_new_tokens), settings)[:16]


@dataclass
class AnswerFile:
    """The jsonl file of answers, which a killed run goes on with."""

    path: Path
    settings: str
    _file: TextIO | None = None

    def resume(self, inputs: Mapping[int, Row]) -> dict[int, Row]:
        """What of ``inputs`` has no answer in the file yet. Lines with an error, without their end
        or of another content of the same place leave the file: they are answered again.

        ``ValueError`` for a file of other questions, of other settings, or that is none of ours.
        """
        places = {_place(row): index for index, row in inputs.items()}
        kept: dict[int, Row] = {}
        for row in self._rows():
            index = places.get(_place(row))
            if index is None:
                where = f"{row.get('file')!r:.80} line {row.get('line')!r:.20}"
                raise self._refused(f"has an answer to another input, {where}")
            if row.get("settings") != self.settings:
                raise self._refused("was written with another checkpoint or other settings")
            if "error" not in row and row.get("input") == inputs[index]["input"]:
                kept[index] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as part, part.open("w", encoding="utf-8") as file:
            append_rows(file, kept.values())
        self._file = self.path.open("a", encoding="utf-8")
        return {index: row for index, row in inputs.items() if index not in kept}

    def write(self, row: Row) -> None:
        """Add one line, whole."""
        assert self._file is not None, "resume comes first"
        append_rows(self._file, [row | {"settings": self.settings}])

    def _rows(self) -> Iterable[Row]:
        if not self.path.exists():
            return []
        if not self.path.is_file():
            raise self._refused("is not a regular file")
        *lines, last = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        cut_off = last.startswith(ROW_START) or ROW_START.startswith(last)
        if not all(map(_is_row, filter(None, lines))) or not cut_off:
            raise self._refused("is no file of answers")
        return read_lines(self.path)

    def _refused(self, reason: str) -> ValueError:
        return ValueError(f"{self.path} {reason}: name another file for --out")


def _is_row(line: str) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and {"file", "line", "input", "settings"} <= row.keys()


def _place(row: Row) -> tuple[str, str]:
    """Where the question of a row stands."""
    return str(row.get("file")), str(row.get("line"))
