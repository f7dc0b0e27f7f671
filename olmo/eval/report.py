"""What a task's results say, as plain values and as tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from olmo.eval.metrics import aggregate, columns, count_text, scored_count
from olmo.eval.prediction import Prediction, Skipped
from olmo.eval.tasks import groups
from olmo.text import format_table, number

HEADERS = (
    "task",
    "accuracy %",
    "molmo2 %",
    "95% interval",
    "n",
    "unparsed",
    "skipped",
    "tokens before",
    "tokens after",
    "s per example",
)


@dataclass(frozen=True)
class Problem:
    """Something that keeps a task from being complete."""

    task: str
    reason: str


def summarize(
    predictions: Sequence[Prediction], skipped: Sequence[Skipped], macro: str = ""
) -> dict[str, Any]:
    """Scores, number and list of the skipped examples, number of empty answers, mean prompt
    tokens per example before and after pruning, and mean pruning figures (None without any)."""
    refused = [Skipped(one.index, one.error) for one in predictions if one.error is not None]
    predictions = [one for one in predictions if one.error is None]
    skipped = sorted([*skipped, *refused], key=lambda one: one.index)
    scores = aggregate(predictions, macro)
    categories = scores.pop("categories")
    pruning = columns(one.pruning for one in predictions)
    return {
        **scores,
        "empty": sum(not one.prediction for one in predictions),
        "skipped": len(skipped),
        "tokens_before": _mean([one.n_tokens_before for one in predictions]),
        "tokens_after": _mean([one.n_tokens_after for one in predictions]),
        "stts": {name: _mean(values) for name, values in pruning.items()},
        "categories": categories,
        "skipped_examples": [asdict(one) for one in skipped],
    }


def timing(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Median seconds of each stage per example, and examples per second of one process while it
    generates."""
    stages = columns(one.seconds for one in predictions)
    total = stages.get("total", [])
    return {
        "seconds_per_example": {k: statistics.median(v) for k, v in stages.items()},
        "examples_per_second": len(total) / sum(total) if sum(total) else None,
    }


def find_problems(metrics: Mapping[str, Any]) -> list[Problem]:
    """What keeps the numbers of a scored task from being complete."""
    name, n, skipped = metrics["task"], metrics["n"], metrics["skipped"]
    found = []
    if skipped:
        first = metrics["skipped_examples"][0]
        left_out = f"{skipped} of {n + skipped} examples left out"
        found.append(Problem(name, f"{left_out}, first {first['index']}: {first['error']}"))
    if n and metrics["empty"] == n:
        found.append(Problem(name, f"the model generated nothing for any of {n} examples"))
    if not n and not skipped:
        found.append(Problem(name, "no examples"))
    return found


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


# --- tables ------------------------------------------------------------------------------------


def format_problems(problems: Sequence[Problem]) -> str:
    """One line per problem."""
    return "\n".join(f"  {p.task}: {p.reason}" for p in problems)


def format_summary(results: Sequence[Mapping[str, Any]]) -> str:
    """One table line per task from the contents of its ``metrics.json``, then group averages."""
    rows = [summary_row(metrics) for metrics in results]
    return format_table(HEADERS, rows + average_rows(results))


def average_rows(results: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Cells under ``HEADERS``: the mean accuracy of each group all of whose tasks were scored."""
    scored = {m["task"]: m for m in results if m["accuracy"] is not None}
    rows: list[list[object]] = []
    for group, tasks in groups().items():
        if len(tasks) > 1 and all(task.name in scored for task in tasks):
            of_group = [scored[task.name] for task in tasks]
            mean = statistics.fmean(m["accuracy"] for m in of_group)
            theirs = None
            if any(molmo2_accuracy(m) is not None for m in of_group):
                theirs = statistics.fmean(_or_ours(molmo2_accuracy(m), m) for m in of_group)
            name = f"mean of {group} ({len(tasks)} tasks)"
            cells = [number(value, 1, 100) for value in (mean, theirs)]
            rows.append([name, *cells, *[None] * (len(HEADERS) - 3)])
    return rows


def molmo2_accuracy(metrics: Mapping[str, Any]) -> float | None:
    """The headline as Molmo2's own evaluation computes it, where that differs by rule."""
    found: float | None = (metrics.get("scores") or {}).get("molmo2")
    return found


def _or_ours(value: float | None, metrics: Mapping[str, Any]) -> float:
    return float(metrics["accuracy"] if value is None else value)


def summary_row(metrics: Mapping[str, Any]) -> list[object]:
    """Cells under ``HEADERS``."""
    timing = metrics.get("timing") or {}
    return [
        metrics["task"],
        number(metrics["accuracy"], 1, 100),
        number(molmo2_accuracy(metrics), 1, 100),
        interval_text(metrics["interval"]),
        count_text(scored_count(metrics), metrics["n"]),
        metrics["unparsed"],
        metrics["skipped"],
        number(metrics["tokens_before"], 1),
        number(metrics["tokens_after"], 1),
        number(timing.get("seconds_per_example", {}).get("total"), 3),
    ]


def interval_text(interval: Sequence[float] | None) -> str | None:
    """In per cent."""
    return None if interval is None else " - ".join(f"{100 * end:.1f}" for end in interval)
