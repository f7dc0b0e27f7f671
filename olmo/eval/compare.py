"""Several evaluation runs side by side, one row each, and what differs from the first, with paired
intervals and tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from olmo.eval.metrics import bootstrap_interval
from olmo.eval.prediction import Prediction
from olmo.eval.store import METRICS_FILE, read_predictions
from olmo.eval.tasks import TASKS, folder_name
from olmo.text import number

SIGNIFICANT = 0.05
PERMUTATIONS = 9_999
"""Draws of the permutation test."""


@dataclass
class Run:
    """The results in one folder: metrics and predictions by task name."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    label: str = ""
    read: dict[str, list[Prediction]] = field(default_factory=dict)

    def predictions(self, task: str) -> list[Prediction]:
        """Those of one task, read on first use."""
        if task not in self.read:
            self.read[task] = read_predictions(self.task_folder(task))
        return self.read[task]

    def task_folder(self, task: str) -> Path:
        return self.folder / folder_name(task)


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Runs of these folders. A folder of runs stands for all of them, dense ones first, then by
    method and share; ``LABEL=FOLDER`` names one.

    Raises ``FileNotFoundError`` for a folder without results, ``ValueError`` for broken files.
    """
    runs = []
    for given in map(str, paths):
        label, _, path = given.partition("=") if not Path(given).exists() else ("", "", given)
        folder = Path(path or given)
        found = [run for run in map(_load, [folder, *_subfolders(folder)]) if run.metrics]
        found.sort(key=_rank)
        if not found:
            raise FileNotFoundError(f"{folder}: no {METRICS_FILE} of a task in it")
        if label and len(found) == 1:
            found[0].label = label
        runs += found
    _name(runs)
    return runs


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _load(folder: Path) -> Run:
    run = Run(folder, {})
    for path in sorted(folder.glob(f"*/{METRICS_FILE}")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            run.metrics[metrics["task"]] = metrics
        except (ValueError, TypeError, KeyError) as e:
            raise ValueError(f"{path}: not the metrics of a task: {e!r}") from e
    return run


def _name(runs: Sequence[Run]) -> None:
    """Labels from the settings; where those are the same, the folder's name."""
    frames = {_model(run).get("max_frames") for run in runs}
    for run in runs:
        if not run.label:
            run.label = _settings_label(_model(run), len(frames) > 1)
    labels = [run.label for run in runs]
    for run, label in zip(runs, labels, strict=True):
        if labels.count(label) > 1:
            run.label = f"{label} ({run.folder.name})"


def _rank(run: Run) -> tuple[str, float, int]:
    """Where a run stands in a table: dense first; the learned method before the others."""
    model = _model(run)
    method = str(model.get("prune_method")) if _share(model) else ""
    order = {"": "0", "scorer": "1"}.get(method, f"2{method}")
    return order, _share(model), int(model.get("max_frames") or 0)


def _model(run: Run) -> dict[str, Any]:
    return next(iter(run.metrics.values())).get("model") or {}


def _share(model: dict[str, Any]) -> float:
    """Share of the tokens that is removed."""
    return float(model.get("topk") or 0) if model.get("prune", True) else 0.0


def _settings_label(model: dict[str, Any], with_frames: bool) -> str:
    topk = _share(model)
    label = f"{model.get('prune_method')} {100 * topk:g}%" if topk else "dense"
    return f"{label}, {model['max_frames']} frames" if with_frames else label


# --- differences -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Accuracy of one result minus that of another in percentage points, over ``n`` questions,
    with its 95% bootstrap interval."""

    points: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.points:+.1f} points (95% interval {self.low:+.1f} to {self.high:+.1f}, "
            f"paired over {self.n} questions)"
        )


def paired_difference(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> Difference:
    """Difference of two lists of predictions to the same questions.

    Whole questions are resampled, so that their difficulty does not widen the interval.
    ``ValueError`` for other questions.
    """
    gaps = [100.0 * gap for gap in paired_gaps(ours, theirs)]
    return Difference(sum(gaps) / len(gaps), *bootstrap_interval(gaps), len(gaps))


def paired_gaps(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> list[float]:
    """Our score minus theirs, per scored question, in the order of the data set. ``ValueError``
    unless both lists answer the same questions (``index`` and ``example_id``)."""
    mine, other = ({(one.index, one.example_id): one for one in part} for part in (ours, theirs))
    if mine.keys() != other.keys():
        raise ValueError(f"cannot pair {len(mine)} answers with {len(other)} to other questions")
    pairs = [(mine[key].correct, other[key].correct) for key in sorted(mine)]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    if not gaps:
        raise ValueError(f"cannot pair answers: none of {len(pairs)} has a score")
    return gaps


def p_value(gaps: Sequence[float]) -> float:
    """Two-sided probability of a mean gap at least this large if neither result were better.

    Gaps of -1, 0 and 1 get the exact McNemar test (a binomial of the questions that differ),
    other ones a sign-flip test, exact where there are few.
    """
    from scipy import stats  # late: it takes a second, and only comparisons need it

    differing = [gap for gap in gaps if gap]
    if not differing:
        return 1.0
    if all(abs(gap) == 1 for gap in differing):
        better = sum(gap > 0 for gap in differing)
        return float(stats.binomtest(better, len(differing)).pvalue)
    found = stats.permutation_test(
        (differing,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=100,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


# --- tables ------------------------------------------------------------------------------------


def common_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks that any run scored, in the order of the task table."""
    order = {task.name: i for i, task in enumerate(TASKS)}
    names = {name for run in runs for name, m in run.metrics.items() if m["accuracy"] is not None}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def shared_tasks(runs: Sequence[Run]) -> list[str]:
    """Those of them that every run scored."""
    scored = [{name for name, m in r.metrics.items() if m["accuracy"] is not None} for r in runs]
    return [task for task in common_tasks(runs) if all(task in names for names in scored)]


@dataclass(frozen=True)
class Figures:
    """A run over some tasks: plain mean of the accuracies, tokens per example, examples per
    second."""

    accuracy: float | None
    tokens_before: float | None
    tokens_after: float | None
    speed: float | None


def figures(run: Run, tasks: Sequence[str]) -> Figures:
    """None is what these tasks, or none at all, do not tell."""
    scores = [a for t in tasks if (a := run.metrics[t]["accuracy"]) is not None]
    return Figures(
        sum(scores) / len(scores) if scores else None,
        _mean(run, tasks, "tokens_before"),
        _mean(run, tasks, "tokens_after"),
        throughput(run, tasks),
    )


def accuracy_table(runs: Sequence[Run]) -> tuple[list[str], list[list[object]]]:
    """Headers and one row per run. An accuracy that differs from the first run's (paired test,
    p < 0.05) has a star; the average is over the tasks that every run has."""
    tasks, shared = common_tasks(runs), shared_tasks(runs)
    headers = ["setting", *(task_title(runs, t) for t in tasks), "average", "tokens", "tokens %"]
    headers += ["videos/s", "speed-up"]
    rows: list[list[object]] = []
    first = figures(runs[0], shared)
    for run in runs:
        of = figures(run, shared)
        share = of.tokens_after / of.tokens_before if of.tokens_before and of.tokens_after else None
        ratio = of.speed / first.speed if of.speed and first.speed else None
        rows.append(
            [
                run.label,
                *(_accuracy(run, runs[0], task) for task in tasks),
                number(of.accuracy, 1, 100),
                number(of.tokens_after, 1),
                number(share, 1, 100),
                number(of.speed, 2),
                None if ratio is None else f"{ratio:.2f}x",
            ]
        )
    return headers, rows


def difference_table(runs: Sequence[Run]) -> tuple[list[str], list[list[object]]]:
    """Headers and one row per task and run but the first: paired difference to the first."""
    headers = ["task", "setting", "points", "95% interval", "p", "n", "same answers %"]
    rows: list[list[object]] = []
    for task in common_tasks(runs):
        for run in runs[1:]:
            if task not in run.metrics or task not in runs[0].metrics:
                continue
            ours, theirs = run.predictions(task), runs[0].predictions(task)
            cells: list[object] = [task_title(runs, task), run.label]
            try:
                gap = paired_difference(ours, theirs)
            except ValueError as e:
                rows.append([*cells, None, str(e), None, None, None])
                continue
            pairs = zip(ours, theirs, strict=True)
            same = sum(a.prediction == b.prediction for a, b in pairs) / len(ours)
            p = p_value(paired_gaps(ours, theirs))
            interval = f"{gap.low:+.1f} to {gap.high:+.1f}"
            shown = f"{p:.3f}" if p >= 0.0005 else "< 0.001"
            cells += [f"{gap.points:+.1f}", interval, shown, gap.n, f"{100 * same:.1f}"]
            rows.append(cells)
    return headers, rows


def throughput(run: Run, tasks: Sequence[str]) -> float | None:
    """Examples per second of one process over these tasks, generation only."""
    seconds = n = 0.0
    for task in tasks:
        speed = (run.metrics[task].get("timing") or {}).get("examples_per_second")
        if not speed:
            return None
        n += run.metrics[task]["n"]
        seconds += run.metrics[task]["n"] / speed
    return n / seconds if seconds else None


def _accuracy(run: Run, first: Run, task: str) -> str | None:
    if task not in run.metrics or run.metrics[task]["accuracy"] is None:
        return None
    text = number(run.metrics[task]["accuracy"], 1, 100)
    if run is first or task not in first.metrics:
        return text
    try:
        gaps = paired_gaps(run.predictions(task), first.predictions(task))
    except ValueError:
        return text  # other questions: the table of differences says so
    return f"{text}*" if p_value(gaps) < SIGNIFICANT else text


def _mean(run: Run, tasks: Sequence[str], key: str) -> float | None:
    """Mean over all examples of these tasks."""
    n = sum(run.metrics[t]["n"] for t in tasks)
    return sum(run.metrics[t]["n"] * (run.metrics[t][key] or 0) for t in tasks) / n if n else None


def task_title(runs: Sequence[Run], task: str) -> str:
    found = next(run.metrics[task] for run in runs if task in run.metrics)
    return str(found.get("title") or task)
