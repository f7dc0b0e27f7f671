"""Files of a task's results: what is finished is found again, whatever stopped the run.

    TASK/metrics.json         written last: marks the task as finished
    TASK/predictions.json     one row per example, in the order of the data set
    TASK/progress-KEY/*.jsonl rows of a run under way, one file per process that wrote some

A result belongs to a *run key* (checkpoint, task, settings, model config, scoring code), and a row
also to its example's *fingerprint* (annotation, size of the media file): never to a name alone.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from olmo.eval import metrics
from olmo.eval.prediction import Prediction
from olmo.eval.scoring import SCORERS
from olmo.eval.tasks import Task
from olmo.files import write_json
from olmo.types import MEDIA_KEYS

log = logging.getLogger(__name__)

METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.json"
PRESENTATION = ("name", "groups", "title", "batch_size")
"""Fields of a task that change no score."""
PROJECT = Path(__file__).parents[2]

Row = dict[str, Any]


def run_key(checkpoint: Path, task: Task, settings: Mapping[str, Any]) -> str:
    """Hash of what decides the results: names, sizes and times of the checkpoint's files, the
    task, ``settings`` (plain values) and the code that scores and averages."""
    files = [(f, f.stat()) for f in checkpoint.rglob("*") if f.is_file()]
    code = sources(metrics.__name__)
    if task.metric in SCORERS:
        code |= sources(SCORERS[task.metric].__module__)
    fields = dataclasses.asdict(task)
    return _hash(
        {
            "files": sorted(
                (str(f.relative_to(checkpoint)), s.st_size, s.st_mtime_ns) for f, s in files
            ),
            "task": {k: v for k, v in fields.items() if k not in PRESENTATION},
            "settings": dict(settings),
            "code": sorted(hashlib.sha256(text).hexdigest() for text in code.values()),
        }
    )


def sources(module: str) -> dict[Path, bytes]:
    """The file of a module that is loaded, and those that it imports, whenever it does: of this
    project, and for a user's own file of its folder."""
    start = Path(str(sys.modules[module].__file__))
    found: dict[Path, bytes] = {}
    todo = [start]
    while todo:
        file = todo.pop()
        if file in found or not file.is_file():
            continue
        found[file] = file.read_bytes()
        for name in _imported(ast.parse(found[file])):
            if name.startswith("olmo."):
                base = PROJECT.joinpath(*name.split("."))
            elif "." not in module:
                base = start.parent.joinpath(*name.split("."))
            else:
                continue
            todo += [base.with_suffix(".py"), base / "__init__.py"]
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names that may be modules, but for those that only type checkers import."""
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_C" in ast.dump(n.test)]
    unseen = {id(node) for block in typing for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in unseen:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in unseen:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def example_fingerprint(example: Mapping[str, Any]) -> str:
    """Hash of a raw example and of the sizes of the media files that it names."""
    sizes = []
    for key in MEDIA_KEYS:
        media = example.get(key)
        for path in media if isinstance(media, (list, tuple)) else [media]:
            if isinstance(path, (str, Path)):
                sizes.append(os.stat(path).st_size if os.path.isfile(path) else None)
    moved = {k: v for k, v in example.items() if k not in MEDIA_KEYS}
    return _hash([moved, sizes])[:16]


def data_version(fingerprints: Mapping[int, str]) -> str:
    """Hash of the examples of a run, in the order of the data set."""
    return _hash(sorted(fingerprints.items()))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    """JSON types; a mapping with other keys than strings becomes a list of pairs."""
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value):
            return {k: _plain(v) for k, v in value.items()}
        return [[_plain(k), _plain(v)] for k, v in value.items()]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), digest]
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [_plain(v) for v in items]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


@dataclass(frozen=True)
class TaskStore:
    """The results of one task in ``folder``, for the set-up that ``key`` stands for."""

    folder: Path
    key: str

    @property
    def progress(self) -> Path:
        return self.folder / f"progress-{self.key[:16]}"

    def metrics(self) -> dict[str, Any] | None:
        """Finished metrics of this very set-up."""
        path = self.folder / METRICS_FILE
        found = _read_json(path)
        if found is None:
            return None
        if isinstance(found, dict) and found.get("cache_key") == self.key:
            return found
        log.warning("%s is of another set-up and will be replaced; --eval_name keeps both", path)
        return None

    def finished(self, fingerprints: Mapping[int, str], written: bool) -> dict[int, Prediction]:
        """What need not be computed again, by example index; ``written``: whether
        ``predictions.json`` belongs to this set-up."""
        rows: list[Row] = []
        if written:
            rows += _read_json(self.folder / PREDICTIONS_FILE) or []
        for file in sorted(self.progress.glob("*.jsonl")):
            rows += read_lines(file)
        return {
            row["index"]: Prediction.from_row(row)
            for row in rows
            if fingerprints.get(row.get("index", -1)) == row.get("fingerprint", "")
        }

    def open_progress(self, rank: int) -> TextIO:
        """A new file for the rows of this process. A killed one leaves at most a broken last
        line, which ``finished`` passes over."""
        self.progress.mkdir(parents=True, exist_ok=True)
        name = f"rank{rank}-{os.getpid()}-{time.time_ns()}.jsonl"
        return (self.progress / name).open("w", encoding="utf-8")

    def clear(self) -> None:
        """Forget results and progress of any set-up."""
        for name in (METRICS_FILE, PREDICTIONS_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self._clear_progress()

    def write(self, metrics: Mapping[str, Any], predictions: Sequence[Prediction]) -> None:
        """Write the files; the metrics come last, then the progress goes."""
        write_result(self.folder, metrics, predictions)
        self._clear_progress()

    def _clear_progress(self) -> None:
        for folder in self.folder.glob("progress-*"):
            shutil.rmtree(folder, ignore_errors=True)


def append_rows(file: TextIO, rows: Iterable[Row]) -> None:
    """Whole lines, handed to the system at once."""
    file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    file.flush()


def write_result(
    folder: Path, metrics: Mapping[str, Any], predictions: Sequence[Prediction]
) -> None:
    """``predictions.json``, then ``metrics.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PREDICTIONS_FILE, [one.row() for one in predictions])
    write_json(folder / METRICS_FILE, metrics)


def read_predictions(folder: Path) -> list[Prediction]:
    """Those of a task. ``ValueError`` names the folder whose file lacks something."""
    path = folder / PREDICTIONS_FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Prediction.from_row(row) for row in rows]
    except KeyError as e:
        raise lacking(folder, e) from e
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: not the predictions of a task: {e}") from e


def lacking(folder: Path, key: KeyError) -> ValueError:
    """The error about results without this key."""
    return ValueError(f"{folder}: {key} is not in its results; evaluate it anew")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is not valid JSON and will be replaced", path)
        return None


def read_lines(file: Path) -> Iterator[Row]:
    """The objects of a jsonl file; a broken line is passed over with a warning."""
    for line in filter(None, file.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            row = json.loads(line)
        except ValueError:
            log.warning("%s: passed over a broken line", file)
            continue
        if isinstance(row, dict):
            yield row
