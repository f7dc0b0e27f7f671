"""``report.html`` of a run: one file with the scores, the problems and the failures."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olmo.eval.failure_pictures import is_failure, picture_path
from olmo.eval.report import HEADERS, Problem, average_rows, interval_text, summary_row
from olmo.eval.store import PREDICTIONS_FILE
from olmo.files import write_text

REPORT_FILE = "report.html"
MAX_FAILURES = 100
"""Failures of a task that are listed; those with a picture come first."""
CATEGORY = ("category", "accuracy %", "95% interval")

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2028; background: #fafafb }
table { border-collapse: collapse; margin: .6rem 0 } th { text-align: left }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.problem { color: #a11 } .failure { border-top: 1px solid #ddd; padding: .6rem 0 }
.failure img { max-width: 100% } pre { white-space: pre-wrap; margin: 0; font: inherit }
.faint { color: #707682 } summary { cursor: pointer; font-size: 1.2em; font-weight: 600 }
.tables { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: start }
details { margin-top: 1.6rem } a { color: inherit }
"""


def write_report(
    folder: Path, metrics: Sequence[Mapping[str, Any]], problems: Sequence[Problem]
) -> None:
    """Write the report beside the tasks' folders, from their files."""
    title = html.escape(f"Evaluation: {folder.name}")
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p class='faint'>{_set_up(metrics[0]) if metrics else ''}</p>",
        _table(HEADERS, [summary_row(one) for one in metrics], link_first=True),
        _table(HEADERS[:3], [row[:3] for row in average_rows(metrics)]),
        _problems(problems),
        *(_task(folder / str(one["task"]).replace(":", "-"), one) for one in metrics),
    ]
    write_text(folder / REPORT_FILE, "\n".join(parts) + "\n")


def _set_up(metrics: Mapping[str, Any]) -> str:
    """What the tasks of a run have in common."""
    timing = metrics.get("timing") or {}
    lines = (
        {"checkpoint": metrics.get("checkpoint"), **metrics["model"]},
        {k: metrics.get(k) for k in ("generation", "seed", "max_examples")}
        | {k: timing.get(k) for k in ("device", "world_size")},
    )
    return "<br>".join(
        html.escape(", ".join(f"{k} {v}" for k, v in line.items() if v is not None))
        for line in lines
    )


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return "<p>No task failed and no example was left out.</p>"
    items = "".join(f"<li><b>{html.escape(p.task)}</b>: {html.escape(p.reason)}" for p in problems)
    return f"<h2>Problems</h2><ul class='problem'>{items}</ul>"


def _task(folder: Path, metrics: Mapping[str, Any]) -> str:
    rows = json.loads((folder / PREDICTIONS_FILE).read_text(encoding="utf-8"))
    failures = [row for row in rows if is_failure(row)]
    shown = sorted(failures, key=lambda row: not picture_path(folder, row).is_file())
    shown = shown[:MAX_FAILURES]
    categories = [
        [
            name,
            _per_cent(one["accuracy"]),
            interval_text(one["interval"]),
            one["n"],
            one["unparsed"],
        ]
        for name, one in metrics["categories"].items()
    ]
    seconds = (metrics.get("timing") or {}).get("seconds_per_example") or {}
    figures = [
        (title, [[name, f"{value:.3f}"] for name, value in (values or {}).items()])
        for title, values in (
            ("score", metrics.get("scores")),
            ("pruning, mean per example", metrics.get("stts")),
            ("stage, median seconds per example", seconds),
        )
    ]
    skipped = [[s["index"], s["error"]] for s in metrics["skipped_examples"]]
    count = f"{len(failures)} of {len(rows)} answers are not right"
    if len(shown) < len(failures):
        count += f"; {len(shown)} of them are shown"
    parts = [
        f"<details open id='{html.escape(str(metrics['task']))}'>",
        f"<summary>{html.escape(str(metrics['title']))}</summary>",
        "<div class='tables'>",
        _table((*CATEGORY, "n", "unparsed"), categories),
        *(_table((title, ""), rows) for title, rows in figures),
        "</div>",
        _table(("left out", "why"), skipped),
        f"<p>{count}.</p>",
        *(_failure(folder, row) for row in shown),
        "</details>",
    ]
    return "\n".join(filter(None, parts))


def _failure(folder: Path, row: Mapping[str, Any]) -> str:
    lines = [
        ("question", row["question"]),
        ("options", " / ".join(map(str, row["options"] or []))),
        ("answer", row["reference"]),
        ("prediction", row["prediction"] or "nothing"),
        ("read as", "unparsed" if row["unparsed"] else row["parsed"]),
        ("tokens", f"{row['n_tokens_before']} before pruning, {row['n_tokens_after']} after"),
    ]
    table = "".join(
        f"<tr><td class='faint'>{name}<td><pre>{html.escape(str(text))}</pre>"
        for name, text in lines
        if text != ""
    )
    path, picture = picture_path(folder, dict(row)), ""
    if path.is_file():
        data = base64.b64encode(path.read_bytes()).decode()
        picture = f"<img alt='kept tokens' src='data:image/jpeg;base64,{data}'>"
    name = html.escape(str(row["example_id"]))
    return f"<div class='failure'><b>{name}</b><table>{table}</table>{picture}</div>"


def _table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], link_first: bool = False
) -> str:
    """Nothing without rows. ``link_first``: the first cell of a row leads to the part of the page
    with its name."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(h)}" for h in headers)
    body = ""
    for row in rows:
        first, *rest = map(_cell, row)
        if link_first:
            name = html.escape(str(row[0]))
            first = f"<td><a href='#{name}'>{name}</a>"
        body += "".join(["<tr>", first, *rest])
    return f"<table><tr>{head}{body}</table>"


def _cell(value: object) -> str:
    text = "-" if value is None else str(value)
    number = text.replace(".", "", 1).lstrip("-").isdigit()
    return f"<td{' class=number' if number else ''}>{html.escape(text)}"


def _per_cent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"
