"""Files of results that somebody changed: a comparison ends with one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olmo.eval.compare import accuracy_table, compare, difference_table
from olmo.eval.report_html import report_page
from olmo.eval.runs import load_runs
from olmo.eval.store import write_result
from olmo.files import write_json
from tests.eval.fakes import prediction
from tests.eval.test_run_table import write_run

VALUES = (None, True, -1, 1e308, 10**400, float("nan"), "x", [1], ["a"], {"a": 5}, {"a": None})
ABSENT = object()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of one task, with all that results may have."""
    for name in ("a", "b"):
        write_run(tmp_path / name, [1, 0], 0.5)
        folder = tmp_path / name / "mvbench"
        metrics = json.loads((folder / "metrics.json").read_text())
        average = {"accuracy": 0.5, "interval": [0, 1], "n": 2, "unparsed": 0}
        metrics |= {"categories": {"kind": average}, "stts": {"share": 0.5}, "scores": {"f": 1.0}}
        metrics |= {"metric": "em_start", "skipped_examples": [{"index": 7, "error": "lost"}]}
        rows = [prediction(i, 1 - i, options=["x", "y"], labels=["kind"]) for i in (0, 1)]
        write_result(folder, metrics, rows)
    return tmp_path


def look(runs: Path) -> None:
    """All that is made of results; ``ValueError`` is one line for the user."""
    try:
        loaded = load_runs([runs])
        comparison = compare(loaded)
        accuracy_table(comparison), difference_table(comparison)
        report_page(loaded, "runs")
    except ValueError as e:
        assert str(runs) in str(e) and "\n" not in str(e)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.json"])
def test_any_value_of_any_key(runs: Path, name: str) -> None:
    file = runs / "b" / "mvbench" / name
    whole = json.loads(file.read_text())
    one: dict[str, Any] = whole if isinstance(whole, dict) else whole[0]
    for key in list(one):
        before = one[key]
        for value in (*VALUES, ABSENT):
            one.pop(key) if value is ABSENT else one.update({key: value})
            file.write_text(json.dumps(whole))
            look(runs)
            one[key] = before


def test_results_of_one_task_in_two_folders(runs: Path) -> None:
    folder = runs / "a" / "mvbench"
    folder.rename(folder.with_name("old"))
    (run,) = load_runs([runs / "a"])
    assert run.task_folder("mvbench").name == "old" and len(run.predictions("mvbench")) == 2
    (runs / "a" / "new").mkdir()
    write_json(runs / "a" / "new" / "metrics.json", run.metrics["mvbench"])
    with pytest.raises(ValueError, match=r"one task, mvbench, in two folders: .*new and .*old"):
        load_runs([runs / "a"])
