"""One page with the scores and the failures of a run, or of several side by side.

``olmo/assets/report.html.j2`` has the form; here is what it shows: the contents of the runs' files.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olmo.eval import scatter
from olmo.eval.captions import question_lines, value_text
from olmo.eval.compare import (
    accuracy_table,
    common_tasks,
    compare,
    difference_table,
    figures,
    scored_alike,
    shared_tasks,
    task_title,
)
from olmo.eval.failure_pictures import picture_path
from olmo.eval.metrics import count_text, scored_count
from olmo.eval.prediction import Prediction
from olmo.eval.report import HEADERS, Problem, average_rows, interval_text, summary_row
from olmo.eval.runs import Run
from olmo.eval.store import lacking
from olmo.files import write_json, write_text
from olmo.templates import render
from olmo.text import number

REPORT_FILE, PROBLEMS_FILE = "report.html", "problems.json"
MAX_FAILURES = 100
"""Failures of a task that are listed; those with a picture come first."""
FIGURES = ("score", "pruning, mean per example", "stage, median seconds per example")


def write_pages(
    folder: Path, metrics: Sequence[Mapping[str, Any]], problems: Sequence[Problem]
) -> None:
    """Write problems and report of a run beside the tasks' folders, from their files."""
    write_json(folder / PROBLEMS_FILE, [vars(problem) for problem in problems])
    write_report(folder, metrics, problems)


def write_report(
    folder: Path, metrics: Sequence[Mapping[str, Any]], problems: Sequence[Problem]
) -> None:
    """Write the report of a run beside the tasks' folders, from their files."""
    run = Run(folder, {str(one["task"]): dict(one) for one in metrics})
    page = report_page([run], f"Evaluation: {folder.name}", problems)
    write_text(folder / REPORT_FILE, page)


def report_page(runs: Sequence[Run], title: str, problems: Sequence[Problem] | None = None) -> str:
    """The page as HTML; without ``problems`` it does not speak of them."""
    names = dict.fromkeys([*common_tasks(runs), *(task for run in runs for task in run.metrics)])
    tasks = [_task(name, runs) for name in names]
    several = len(runs) > 1
    averages = [] if several else average_rows(list(runs[0].metrics.values()))
    compared = compare(runs)
    shared = shared_tasks(runs)
    return render(
        "report",
        title=title,
        settings=[(run.label, _settings(run)) for run in runs],
        headers=HEADERS,
        tables=[accuracy_table(compared), difference_table(compared)] if several else [],
        notes=compared.notes,
        averages=[row[:3] for row in averages],
        plots=_plots(runs, shared),
        size=(scatter.WIDTH, scatter.HEIGHT),
        area=(scatter.LEFT, scatter.RIGHT, scatter.TOP, scatter.BOTTOM),
        problems=problems,
        tasks=tasks,
    )


def _settings(run: Run) -> list[str]:
    """What the tasks of a run have in common, in lines."""
    metrics: dict[str, Any] = next(iter(run.metrics.values()), {})
    timing = metrics.get("timing") or {}
    lines = (
        {"checkpoint": metrics.get("checkpoint"), **(metrics.get("model") or {})},
        {k: metrics.get(k) for k in ("generation", "seed", "max_examples")}
        | {k: timing.get(k) for k in ("device", "world_size")},
    )
    return [", ".join(f"{k} {v}" for k, v in line.items() if v is not None) for line in lines]


def _plots(runs: Sequence[Run], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy against tokens and seconds, over those tasks that all runs have and one metric
    scored; one run is no plot. A point has the number of its run among all ``runs``."""
    alike = [task for task in tasks if scored_alike(runs, task)]
    having = [(i, run) for i, run in enumerate(runs, 1) if all(t in run.metrics for t in alike)]
    found = [(i, run.label, figures(run, alike, alike)) for i, run in having] if alike else []
    costs = {
        "tokens per example after pruning": [f.tokens_after for *_, f in found],
        "seconds per example, mean": [
            1 / f.examples_per_second if f.examples_per_second else None for *_, f in found
        ],
    }
    plots = []
    for name, values in costs.items():
        points = [
            scatter.Point(i, label, cost, f.accuracy)
            for (i, label, f), cost in zip(found, values, strict=True)
            if cost is not None and f.accuracy is not None
        ]
        if len(points) > 1:
            plots.append(scatter.scatter(name, "accuracy %", points))
    return plots


def _task(task: str, runs: Sequence[Run]) -> dict[str, Any]:
    """A part of the page. ``ValueError`` names the folder whose files lack something."""
    having = [run for run in runs if task in run.metrics]
    parts = []
    for run in having:
        try:
            parts.append(_of_run(run, task, [run.label] if len(runs) > 1 else []))
        except KeyError as e:  # of the metrics
            raise lacking(run.task_folder(task), e) from e
    names = dict.fromkeys(name for part in parts for name in part["categories"])
    rows = [
        (name, [p["categories"][name] for p in parts if name in p["categories"]]) for name in names
    ]
    return {
        "name": task,
        "title": task_title(runs, task),
        "labels": [run.label for run in having],
        "parts": parts,
        "scored_by": _scored_by(having, task),
        "plots": _plots(runs, [task]) if len(shared_tasks(runs)) > 1 else [],
        "categories": [["" if i else name, *row] for name, of in rows for i, row in enumerate(of)],
        "figures": [(name, _by_name([p["figures"][name] for p in parts])) for name in FIGURES],
    }


def _scored_by(runs: Sequence[Run], task: str) -> str:
    """The metric of a task, or the several ones, with the labels of their runs."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        labels.setdefault(str(run.metrics[task].get("metric") or "-"), []).append(run.label)
    if len(labels) == 1:
        return f"Scored by {next(iter(labels))}."
    named = " and ".join(f"{metric} ({', '.join(of)})" for metric, of in labels.items())
    return f"Scored by {named}; these are not compared."


def _of_run(run: Run, task: str, label: list[str]) -> dict[str, Any]:
    """What the files of one run say about a task; ``label`` goes before a row's cells."""
    metrics, folder, predictions = run.metrics[task], run.task_folder(task), run.predictions(task)
    seconds = (metrics.get("timing") or {}).get("seconds_per_example")
    failures = [one for one in predictions if one.is_failure]
    shown = sorted(failures, key=lambda one: not picture_path(folder, one).is_file())
    return {
        "label": run.label,
        "summary": [*(label or [task]), *summary_row(metrics)[1:]],
        "categories": {k: [*label, *_category(v)] for k, v in metrics["categories"].items()},
        "figures": dict(
            zip(FIGURES, (metrics.get("scores"), metrics.get("stts"), seconds), strict=True)
        ),
        "skipped": [[*label, s["index"], s["error"]] for s in metrics["skipped_examples"]],
        "answers": len(predictions),
        "scored": sum(one.correct is not None for one in predictions),
        "failures": len(failures),
        "shown": [_failure(folder, one) for one in shown[:MAX_FAILURES]],
    }


def _category(one: Mapping[str, Any]) -> list[object]:
    accuracy, interval = number(one["accuracy"], 1, 100), interval_text(one["interval"])
    return [accuracy, interval, count_text(scored_count(one), one["n"]), one["unparsed"]]


def _by_name(of_runs: Sequence[Mapping[str, float] | None]) -> list[list[object]]:
    """One row per name of a figure, one cell per run."""
    names = dict.fromkeys(name for found in of_runs for name in found or {})
    return [[name, *(number((f or {}).get(name), 3) for f in of_runs)] for name in names]


def _failure(folder: Path, one: Prediction) -> dict[str, Any]:
    path = picture_path(folder, one)
    return {
        "name": one.example_id,
        "picture": base64.b64encode(path.read_bytes()).decode() if path.is_file() else "",
        "lines": [
            *question_lines(one),
            ("prediction", one.prediction or "nothing"),
            ("read as", "unparsed" if one.unparsed else value_text(one, one.parsed)),
            ("tokens", f"{one.n_tokens_before} before pruning, {one.n_tokens_after} after"),
        ],
    }
