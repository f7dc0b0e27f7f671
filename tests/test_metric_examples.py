"""The examples of ``docs/metrics.md`` are true, and no scorer lacks its section.

A table of examples follows a comment with names of metrics and, as JSON, metadata:
``<!-- anls {"answer": "x"} -->``. Its columns are the prediction; fields of the metadata, empty
where an example lacks one; and from the column ``correct``, or that with the name of a metric,
on what is compared (``molmo2`` only with the metrics that have it). In a cell, text stands in
backticks, as a JSON string if it begins with a quotation mark; anything else is JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo.eval.scoring import score_example
from olmo.eval.scoring.letters import PREFIXES
from olmo.eval.scoring.score import PREDICTIONS_ONLY, SCORERS
from olmo.eval.scoring.text import clean_answer
from olmo.eval.tasks import TASKS

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
CLEAN_UP = "clean_answer"
TABLE = re.compile(r"<!-- ([\w\s]+?)\s*(\{.*?\})? -->\n((?:\|[^\n]*\n)+)", re.DOTALL)
SECTION = re.compile(r"^## (`[^\n]*)\n+(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
WIDTH, HEIGHT = 200, 100
"""Of masks, in pixels."""


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def with_masks(fields: dict[str, Any]) -> Any:
    """``{"box": [x0, y0, x1, y1]}`` is a mask, and keys that are numbers are meant as such."""
    if "box" in fields:
        x0, y0, x1, y1 = fields["box"]
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[y0:y1, x0:x1] = True
        return mask
    return {float(k) if re.fullmatch(r"[\d.]+", k) else k: v for k, v in fields.items()}


def value(cell: str) -> Any:
    """``2 dog, 8 cat`` are as many answers."""
    if cell.startswith("`"):
        text = cell.strip("`")
        return json.loads(text) if text.startswith('"') else text
    if re.fullmatch(r"\d+ [^,]+(, \d+ [^,]+)*", cell):
        counts = (part.split(" ", 1) for part in cell.split(", "))
        return [answer for n, answer in counts for _ in range(int(n))]
    return json.loads(cell)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables() -> Iterator[tuple[list[str], dict[str, Any], list[str], list[list[str]]]]:
    """Metrics, metadata, names of columns, rows."""
    for metrics, about, table in TABLE.findall(PAGE):
        head, _, *rows = (cells(line) for line in table.splitlines())
        metadata = json.loads(about or "{}", object_hook=with_masks)
        yield metrics.split(), metadata, [name.strip("`") for name in head], rows


TABLES = list(tables())


def examples() -> Iterator[Any]:
    for metrics, metadata, columns, rows in TABLES:
        if metrics == [CLEAN_UP]:
            continue
        first = next(i for i, name in enumerate(columns) if name in ("correct", *metrics))
        for prediction, *row in rows:
            fields = zip(columns[1:first], row, strict=False)
            about = metadata | {name: value(cell) for name, cell in fields if cell}
            wanted = dict(zip(columns[first:], row[first - 1 :], strict=True))
            yield pytest.param(metrics, value(prediction), about, wanted, id=str(metrics[0]))


@pytest.mark.parametrize(("metrics", "prediction", "metadata", "wanted"), list(examples()))
def test_example(
    metrics: list[str], prediction: str, metadata: dict[str, Any], wanted: dict[str, str]
) -> None:
    assert set(metrics) <= wanted.keys() or ("correct" in wanted and len(metrics) == 1)
    for metric in metrics:
        score = score_example(prediction, metadata, metric)
        values = {**score.scores, metric: score.correct, "correct": score.correct}
        names = wanted.keys() - (set(metrics) - {metric}) - ({"molmo2"} - values.keys())
        found = {name: round(float(values[name] or 0), 3) for name in names}
        assert found == {name: float(wanted[name]) for name in names}, metric


def test_molmo2_is_shown_where_there_is_one() -> None:
    found, shown = set(), set()
    for example in examples():
        metrics, prediction, metadata, wanted = example.values
        found |= {m for m in metrics if "molmo2" in score_example(prediction, metadata, m).scores}
        shown |= set(metrics) if "molmo2" in wanted else set()
    assert found <= shown


def test_clean_up() -> None:
    (rows,) = (rows for metrics, _, _, rows in TABLES if metrics == [CLEAN_UP])
    for row in rows:
        before, after = map(value, row[:2])
        assert clean_answer(before) == after


def test_tables_are_short() -> None:
    assert all(3 <= len(rows) <= 12 for *_, rows in TABLES)
    assert len(PAGE.splitlines()) < 265


def test_every_scorer_has_a_section_and_examples() -> None:
    headings = [name for heading, _ in SECTION.findall(PAGE) for name in named(heading)]
    assert sorted(headings) == sorted(SCORERS)
    shown = {metric for metrics, *_ in TABLES for metric in metrics}
    assert shown == SCORERS.keys() - {PREDICTIONS_ONLY} | {CLEAN_UP}


def test_every_task_is_listed_where_its_metric_is() -> None:
    """``task:split`` goes without saying where ``task`` is listed."""
    listed = {}
    for heading, text in SECTION.findall(PAGE):
        tasks = re.search(r"^Tasks: ([^.]*)\.", text, re.MULTILINE)
        listed[frozenset(named(heading))] = set(named(tasks[1])) if tasks else set()
    for metrics, found in listed.items():
        names = {task.name for task in TASKS if task.metric in metrics}
        assert found == {n for n in names if ":" not in n or n.split(":")[0] not in names}


def test_every_prefix_is_listed() -> None:
    assert set(PREFIXES) <= set(named(PAGE))
