"""What becomes of results: merged over the ranks, summed up, written, read back, shown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.eval.metrics import aggregate
from olmo.eval.tasks import Task

log = logging.getLogger(__name__)

METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.json"

HEADERS = (
    "task",
    "accuracy %",
    "95% interval",
    "n",
    "unparsed",
    "skipped",
    "tokens before",
    "tokens after",
    "s per video",
)


@dataclass
class RankResults:
    """Scored ``rows`` and ``skipped`` examples (``index``, ``error``) of some batches; ``seconds``
    maps a stage to its time for each example."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def extend(self, other: RankResults) -> None:
        """Append the results of ``other``."""
        self.rows += other.rows
        self.skipped += other.skipped
        for stage, values in other.seconds.items():
            self.seconds.setdefault(stage, []).extend(values)


@dataclass
class TaskResult:
    """``metrics`` and ``predictions`` (sorted by example index) can be reproduced; ``timing``
    cannot. ``predictions[i]["index"]`` is the index in the data set."""

    task: Task
    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    timing: dict[str, Any]


def merge_ranks(gathered: Sequence[RankResults], expected: Sequence[int]) -> RankResults:
    """All ranks' results, sorted by example index; every expected example is there once."""
    merged = RankResults()
    for part in gathered:
        merged.extend(part)
    merged.rows.sort(key=lambda row: row["index"])
    merged.skipped.sort(key=lambda skip: skip["index"])
    seen = sorted(entry["index"] for entry in merged.rows + merged.skipped)
    assert seen == sorted(expected), f"{len(seen)} results for {len(expected)} examples"
    return merged


def summarize(results: RankResults) -> dict[str, Any]:
    """Scores, number and list of the skipped examples, and mean prompt tokens per video before
    and after pruning (None without rows)."""
    scores = aggregate(results.rows)
    categories = scores.pop("categories")
    return {
        **scores,
        "skipped": len(results.skipped),
        "tokens_before": _mean([row["n_tokens_before"] for row in results.rows]),
        "tokens_after": _mean([row["n_tokens_after"] for row in results.rows]),
        "categories": categories,
        "skipped_examples": results.skipped,
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


# --- files -------------------------------------------------------------------------------------


def cache_key(checkpoint: Path, task: Task, settings: Mapping[str, Any]) -> str:
    """Hash of what decides the results: names, sizes and times of the checkpoint's files, the
    task, and ``settings`` (plain values)."""
    files = [(f, f.stat()) for f in checkpoint.rglob("*") if f.is_file()]
    key = {
        "files": sorted(
            (str(f.relative_to(checkpoint)), s.st_size, s.st_mtime_ns) for f, s in files
        ),
        "task": dataclasses.asdict(task),
        "settings": dict(settings),
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def read_finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The metrics in a task's ``folder`` if they were computed for ``key``."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return None
    try:
        metrics: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        log.warning("%s is not valid JSON and will be replaced", path)
        return None
    if metrics.get("cache_key") == key:
        log.info("%s is up to date", path)
        return metrics
    log.warning("%s is of another set-up and will be replaced; --eval_name keeps both", path)
    return None


def write_result(
    folder: Path, metrics: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> None:
    """Write the files of a task; the metrics come last and mark it as finished."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / PREDICTIONS_FILE, predictions)
    _write_json(folder / METRICS_FILE, metrics)


def _write_json(path: Path, data: object) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(part, path)


# --- tables ------------------------------------------------------------------------------------


def format_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned for a monospaced font, two spaces apart, under a dashed line.

    A column is aligned to the right when all its cells are numbers; None is shown as ``-``.
    Raises ``ValueError`` for a row that is longer or shorter than the headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"row {list(row)} has {len(row)} cells for {len(headers)} headers")
    cells = [["-" if c is None else str(c) for c in row] for row in rows]
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(map(_is_number, column[1:])) for column in columns]
    lines = [list(headers), ["-" * w for w in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def format_summary(results: Sequence[Mapping[str, Any]]) -> str:
    """One table line per task from the contents of its ``metrics.json``."""
    return format_table(HEADERS, [_summary_row(metrics) for metrics in results])


def _summary_row(metrics: Mapping[str, Any]) -> list[object]:
    interval = metrics["interval"]
    timing = metrics.get("timing") or {}
    return [
        metrics["task"],
        _number(metrics["accuracy"], 1, 100),
        " - ".join(f"{100 * end:.1f}" for end in interval) if interval else None,
        metrics["n"],
        metrics["unparsed"],
        metrics["skipped"],
        _number(metrics["tokens_before"], 1),
        _number(metrics["tokens_after"], 1),
        _number(timing.get("seconds_per_example", {}).get("total"), 3),
    ]


def _number(value: float | None, digits: int, factor: float = 1) -> str | None:
    return None if value is None else f"{factor * value:.{digits}f}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
