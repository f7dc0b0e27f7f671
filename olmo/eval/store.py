"""Files of a task's results: what is finished is found again, whatever stopped the run.

    TASK/metrics.json         written last: marks the task as finished
    TASK/predictions.json     one row per example, in the order of the data set
    TASK/progress-KEY/*.jsonl rows of a run under way, one file per process that wrote some
    TASK/answers-KEY.jsonl    rows that a smaller run left out

A result belongs to a *run key*, whose first half stands for the answers (checkpoint, data, prompt,
settings, model config) and the second for their scores (metric, scoring code), and a row also to
its example's *fingerprint* (annotation, names and sizes of the media files): never to a name alone.
Answers outlive a change of the scoring.
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
from types import UnionType
from typing import Any, TextIO, get_args, get_origin, get_type_hints

import numpy as np

from olmo.eval import metrics
from olmo.eval.prediction import Prediction
from olmo.eval.scoring import SCORERS
from olmo.eval.scoring.score import MAX_VALUE
from olmo.eval.tasks import Task
from olmo.files import whole_file, write_json
from olmo.plugin import LOADED
from olmo.types import MEDIA_KEYS

log = logging.getLogger(__name__)

METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.json"
PRESENTATION = ("name", "groups", "title", "batch_size")
"""Fields of a task that change no score."""
SCORING = ("metric", "categories", "macro")
"""Fields that change no answer."""
HALF = 32
"""Characters of a run key that stand for the answers; as many follow for their scores."""
PROJECT = Path(__file__).parents[2]
TYPES = get_type_hints(Prediction)
NEEDED: dict[str, Any] = {
    **{"task": str, "accuracy": float | None, "interval": list[float] | None},
    **dict.fromkeys(("n", "unparsed", "skipped"), int),
    **dict.fromkeys(("tokens_before", "tokens_after"), float | None),
    **{"categories": dict[str, dict[str, Any]], "skipped_examples": list[dict[str, Any]]},
}
"""Types of what is read of metrics that were written earlier, perhaps elsewhere."""
OPTIONAL: dict[str, Any] = {
    **dict.fromkeys(("title", "metric", "checkpoint"), str | None),
    **dict.fromkeys(("stts", "scores"), dict[str, float | None] | None),
    **dict.fromkeys(("model", "timing"), dict[str, Any] | None),
    "scored": int,
}
MAX_COUNT = 1e18
"""Larger ones, as other numbers over ``MAX_VALUE``, stand for a mistake."""

Row = dict[str, Any]


def run_key(checkpoint: Path, task: Task, settings: Mapping[str, Any]) -> str:
    """Hash of what decides the results: names, sizes and times of the checkpoint's files, the task
    and ``settings`` (plain values) for the answers; metric and the code that scores and averages
    for the scores."""
    files = [(f, f.stat()) for f in checkpoint.rglob("*") if f.is_file()]
    code = sources(metrics.__name__)
    if task.metric in SCORERS:
        own = SCORERS[task.metric].__module__
        # a user's function may be wrapped by another module: all of the user's files count
        for module in [own] if own.startswith("olmo.") else LOADED or [own]:
            code |= sources(module)
    fields = {k: v for k, v in dataclasses.asdict(task).items() if k not in PRESENTATION}
    scoring = {k: fields.pop(k) for k in SCORING}
    stats = sorted((str(f.relative_to(checkpoint)), s.st_size, s.st_mtime_ns) for f, s in files)
    answers = {"files": stats, "task": fields, "settings": dict(settings)}
    scores = {"task": scoring, "code": sorted(hashlib.sha256(c).hexdigest() for c in code.values())}
    return _hash(answers)[:HALF] + _hash(scores)[:HALF]


def sources(module: str) -> dict[Path, bytes]:
    """The file of a module that is loaded, and those that it imports, whenever it does: of this
    project, and for a user's own file of its folder."""
    start = Path(str(getattr(sys.modules[module], "__file__", None)))
    home = PROJECT if "." in module else start.parent
    found: dict[Path, bytes] = {}
    todo = [start]
    while todo:
        file = todo.pop()
        if file in found or not file.is_file():
            continue
        found[file] = file.read_bytes()
        for level, name in _imported(ast.parse(found[file])):
            folder = PROJECT if name.startswith("olmo.") else home
            base = (file.parents[level - 1] if level else folder).joinpath(*name.split("."))
            if level or folder != PROJECT or name.startswith("olmo."):
                todo += [base.with_suffix(".py"), base / "__init__.py"]
    return found


def _imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that may be modules, but for those that only type checkers import; the number of dots
    before them."""
    names = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) in names]
    unseen = {id(node) for block in typing for part in block.body for node in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield node.level, module
            parts = (f"{module}.{alias.name}".strip(".") for alias in node.names)
            yield from ((node.level, name) for name in parts)


def example_fingerprint(example: Mapping[str, Any]) -> str:
    """Hash of a raw example and of the names and sizes of its media files, wherever they lie."""
    files = []
    for key in MEDIA_KEYS:
        media = example.get(key)
        for given in media if isinstance(media, (list, tuple)) else [media]:
            if isinstance(given, (str, Path)):
                path = Path(given)
                parts = sorted(path.iterdir()) if path.is_dir() else [path]
                sizes = [(p.name, p.stat().st_size if p.is_file() else None) for p in parts]
                files.append((path.name, sizes))
    rest = {k: v for k, v in example.items() if k not in MEDIA_KEYS}
    return _hash([rest, files])[:16]


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
        return self.folder / f"progress-{self.key[:8]}-{self.key[HALF : HALF + 8]}"

    @property
    def rest(self) -> Path:
        """Answers that are not among the results: of examples that a smaller run left out."""
        return self.folder / f"answers-{self.key[:8]}.jsonl"

    def metrics(self) -> dict[str, Any] | None:
        """Finished metrics of this very set-up."""
        path = self.folder / METRICS_FILE
        key = self._written_key()
        if key == self.key:
            return dict(_read_json(path))
        if path.exists() and key[:HALF] != self.key[:HALF]:
            log.warning(
                "%s is of another set-up and will be replaced; --eval_name keeps both", path
            )
        return None

    def finished(self, fingerprints: Mapping[int, str]) -> dict[int, Prediction]:
        """What need not be computed again, by example index."""
        rows = self._written() if self._written_key() == self.key else []
        for file in sorted(self.progress.glob("*.jsonl")):
            rows += read_lines(file)
        return _of_these(rows, fingerprints)

    def answered(self, fingerprints: Mapping[int, str]) -> dict[int, Prediction]:
        """Answers of this set-up, however they were scored, by example index."""
        return _of_these(self._answers(), fingerprints)

    def _answers(self) -> list[Any]:
        same = self._written_key()[:HALF] == self.key[:HALF]
        rows = self._written() if same else []
        for file in (self.rest, *self.folder.glob(f"progress-{self.key[:8]}-*/*.jsonl")):
            if file.is_file():
                rows += read_lines(file)
        return rows

    def open_progress(self, rank: int) -> TextIO:
        """A new file for the rows of this process. A killed one leaves at most a broken last
        line, which ``finished`` passes over."""
        self.progress.mkdir(parents=True, exist_ok=True)
        name = f"rank{rank}-{os.getpid()}-{time.time_ns()}.jsonl"
        return (self.progress / name).open("w", encoding="utf-8")

    def _written_key(self) -> str:
        found = _read_json(self.folder / METRICS_FILE)
        key = found.get("cache_key") if isinstance(found, dict) else None
        return key if isinstance(key, str) else ""

    def _written(self) -> list[Any]:
        rows = _read_json(self.folder / PREDICTIONS_FILE)
        return rows if isinstance(rows, list) else []

    def clear(self) -> None:
        """Forget results and progress of any set-up."""
        for path in (METRICS_FILE, PREDICTIONS_FILE, "answers-*.jsonl"):
            for file in self.folder.glob(path):
                file.unlink()
        self._clear_progress()

    def write(self, metrics: Mapping[str, Any], predictions: Sequence[Prediction]) -> None:
        """Write the files; the metrics come last, then the progress goes. Answers to other examples
        stay for a larger run."""
        done = {(one.index, one.fingerprint) for one in predictions}
        rest = {(one.index, one.fingerprint): one.row() for one in _readable(self._answers())}
        rest = {place: row for place, row in rest.items() if place not in done}
        if rest:
            with whole_file(self.rest) as part, part.open("w", encoding="utf-8") as file:
                append_rows(file, rest.values())
        write_result(self.folder, metrics, predictions)
        if not rest:
            self.rest.unlink(missing_ok=True)
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
    """``predictions.json``, then ``metrics.json``, which never stands beside another's."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [one.row() for one in predictions]
    with (
        whole_file(folder / METRICS_FILE) as last,
        whole_file(folder / PREDICTIONS_FILE) as first,
    ):
        write_json(last, metrics)
        write_json(first, rows)
        (folder / METRICS_FILE).unlink(missing_ok=True)  # now, when nothing can be lack of room


def read_metrics(path: Path) -> dict[str, Any]:
    """Those of a task. ``ValueError`` names the file that lacks something."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wrong = [k for k, hint in NEEDED.items() if not _fits(found[k], hint)]
        wrong += [k for k, hint in OPTIONAL.items() if k in found and not _fits(found[k], hint)]
    except KeyError as e:
        raise lacking(path.parent, e) from e
    except (ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"{path}: not the metrics of a task: {e}") from e
    if wrong:
        raise ValueError(
            f"{path}: not the metrics of a task: {wrong[0]} is {found[wrong[0]]!r:.80}"
        )
    return dict(found)


def read_predictions(folder: Path) -> list[Prediction]:
    """Those of a task. ``ValueError`` names the folder whose file lacks something."""
    path = folder / PREDICTIONS_FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [prediction_of(row) for row in rows]
    except KeyError as e:
        raise lacking(folder, e) from e
    except (ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"{path}: not the predictions of a task: {e}") from e


def prediction_of(row: Any) -> Prediction:
    """A row that is read back. ``KeyError`` names what it lacks, ``ValueError`` what has another
    type; what it has besides is passed over."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a prediction, got {row!r:.80}")
    known = {f.name: f for f in dataclasses.fields(Prediction)}
    for name, f in known.items():
        if f.default is f.default_factory is dataclasses.MISSING:
            row[name]
    for name, value in row.items():
        if name in known and not _fits(value, TYPES[name]):
            raise ValueError(f"{name}: expected {known[name].type}, got {value!r:.80}")
    return Prediction(**{name: value for name, value in row.items() if name in known})


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file is of the type of a field."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, arg) for arg in args)
    if origin in (list, dict):
        parts = value.values() if isinstance(value, dict) else value
        return isinstance(value, origin) and all(_fits(part, args[-1]) for part in parts)
    if hint in (int, float):
        most = MAX_COUNT if hint is int else MAX_VALUE
        return isinstance(value, (int, hint)) and abs(value) < most
    return hint is Any or isinstance(value, hint)


def _of_these(rows: Iterable[Any], fingerprints: Mapping[int, str]) -> dict[int, Prediction]:
    """Predictions of these very examples."""
    found = {one.index: one for one in _readable(rows)}
    return {i: one for i, one in found.items() if fingerprints.get(i) == one.fingerprint}


def _readable(rows: Iterable[Any]) -> Iterator[Prediction]:
    """A row that cannot be read counts as missing."""
    for row in rows:
        try:
            yield prediction_of(row)
        except (KeyError, ValueError) as e:
            log.warning("passed over a broken row of predictions: %s", e)


def lacking(folder: Path, key: KeyError) -> ValueError:
    """The error about results without this key."""
    return ValueError(f"{folder}: {key} is not in its results; evaluate it anew")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
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
