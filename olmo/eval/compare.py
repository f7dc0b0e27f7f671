"""Several evaluation runs side by side, one row each, and what differs from the first, with paired
intervals and tests: as plain values, and tables made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from olmo.eval.metrics import count_text, scored_count
from olmo.eval.pairs import p_value, paired_difference, paired_gaps
from olmo.eval.runs import Run
from olmo.eval.tasks import TASKS
from olmo.text import number

SIGNIFICANT = 0.05

Table = tuple[list[str], list[list[object]]]
"""Headers and rows."""

# --- tasks and figures -------------------------------------------------------------------------


def common_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks that any run scored, in the order of the task table."""
    order = {task.name: i for i, task in enumerate(TASKS)}
    names = {name for run in runs for name, m in run.metrics.items() if m["accuracy"] is not None}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def shared_tasks(runs: Sequence[Run]) -> list[str]:
    """Those of them that every run scored."""
    scored = [{name for name, m in r.metrics.items() if m["accuracy"] is not None} for r in runs]
    return [task for task in common_tasks(runs) if all(task in names for names in scored)]


def scored_alike(runs: Sequence[Run], task: str) -> bool:
    """Whether one metric scored the task in all of these runs that have it."""
    return len({r.metrics[task].get("metric") for r in runs if task in r.metrics}) == 1


@dataclass(frozen=True)
class Figures:
    """A run over some tasks: plain mean of the accuracies in per cent, tokens per example, examples
    per second of one process while it generates. None is what the tasks do not tell."""

    accuracy: float | None
    tokens_before: float | None
    tokens_after: float | None
    examples_per_second: float | None


def figures(run: Run, tasks: Sequence[str], averaged: Sequence[str]) -> Figures:
    """Over ``tasks``; the accuracy over those ``averaged``."""
    scores = [a for t in averaged if (a := run.metrics[t]["accuracy"]) is not None]
    return Figures(
        100 * (sum(scores) / len(scores)) if scores else None,
        _mean(run, tasks, "tokens_before"),
        _mean(run, tasks, "tokens_after"),
        throughput(run, tasks),
    )


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


def _mean(run: Run, tasks: Sequence[str], key: str) -> float | None:
    """Mean over all examples of these tasks."""
    n = sum(run.metrics[t]["n"] for t in tasks)
    return sum(run.metrics[t]["n"] * (run.metrics[t][key] or 0) for t in tasks) / n if n else None


def task_title(runs: Sequence[Run], task: str) -> str:
    found = next(run.metrics[task] for run in runs if task in run.metrics)
    return str(found.get("title") or task)


# --- the comparison ----------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskScore:
    """Accuracy of a run in per cent, over the ``scored`` of ``n`` answers, by ``metric``;
    ``differs``: from that of the first run (paired test, p < 0.05)."""

    accuracy: float
    n: int
    scored: int
    metric: str | None
    differs: bool


@dataclass(frozen=True)
class RunRow:
    """A run: its tasks by name, and its figures over the tasks that every run scored. The
    ``average`` is over those of them that one metric scored; ``tokens_share`` is in per cent,
    ``speed_up`` over the first run."""

    setting: str
    folder: str
    tasks: dict[str, TaskScore]
    average: float | None
    tokens: float | None
    tokens_share: float | None
    examples_per_second: float | None
    speed_up: float | None


@dataclass(frozen=True)
class DifferenceRow:
    """A task of a run against the first: ``points`` in percentage points with their 95% interval,
    and the share of equal answers in per cent; or the ``reason`` why there is none of this."""

    task: str
    setting: str
    points: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int | None = None
    same_answers: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Comparison:
    """``titles`` of all tasks that a run scored; ``notes`` say what cannot be compared."""

    titles: dict[str, str]
    runs: list[RunRow]
    differences: list[DifferenceRow]
    notes: list[str]


def compare(runs: Sequence[Run]) -> Comparison:
    """All runs against the first. ``ValueError`` names files that are broken."""
    titles = {task: task_title(runs, task) for task in common_tasks(runs)}
    first, differences = runs[0], []
    for task in titles:
        having = [run for run in runs[1:] if task in run.metrics and task in first.metrics]
        differences += [_difference(run, first, task) for run in having]
    starred = {(d.task, d.setting) for d in differences if d.p is not None and d.p < SIGNIFICANT}
    shared = shared_tasks(runs)
    averaged = [task for task in shared if scored_alike(runs, task)]
    base = throughput(first, shared)
    rows = []
    for run in runs:
        of = figures(run, shared, averaged)
        share = of.tokens_after / of.tokens_before if of.tokens_before and of.tokens_after else None
        speed = of.examples_per_second
        rows.append(
            RunRow(
                setting=run.label,
                folder=str(run.folder),
                tasks=_scores(run, [t for t in titles if (t, run.label) in starred]),
                average=of.accuracy,
                tokens=of.tokens_after,
                tokens_share=None if share is None else 100 * share,
                examples_per_second=speed,
                speed_up=speed / base if speed and base else None,
            )
        )
    return Comparison(titles, rows, differences, _notes(runs, shared, averaged))


def _scores(run: Run, differing: Sequence[str]) -> dict[str, TaskScore]:
    return {
        task: TaskScore(
            accuracy=100 * m["accuracy"],
            n=m["n"],
            scored=scored_count(m),
            metric=m.get("metric"),
            differs=task in differing,
        )
        for task, m in run.metrics.items()
        if m["accuracy"] is not None
    }


def _difference(run: Run, first: Run, task: str) -> DifferenceRow:
    if not scored_alike([first, run], task):
        metrics = " and ".join(str(of.metrics[task].get("metric")) for of in (first, run))
        return DifferenceRow(task, run.label, reason=f"scored by {metrics}")
    ours, theirs = run.predictions(task), first.predictions(task)
    try:
        gap, p = paired_difference(ours, theirs), p_value(paired_gaps(ours, theirs))
    except ValueError as e:
        return DifferenceRow(task, run.label, reason=_left_out(run, first, task) or str(e))
    answers = {one.index: one.prediction for one in theirs}
    same = 100 * sum(one.prediction == answers[one.index] for one in ours) / len(ours)
    numbers = gap.points, gap.low, gap.high, p, gap.n, same
    return DifferenceRow(task, run.label, *numbers)


def _left_out(run: Run, first: Run, task: str) -> str | None:
    """The reason why answers cannot be paired, if that is examples that only one run skipped."""
    pair = run, first
    ours, theirs = ({one.index for one in of.predictions(task)} for of in pair)
    skipped = [of.metrics[task].get("skipped_examples") or [] for of in pair]
    if not ours ^ theirs or not ours ^ theirs <= {one["index"] for of in skipped for one in of}:
        return None
    counts = " and ".join(str(len(of)) for of in skipped)
    answers = f"cannot pair {len(ours)} answers with {len(theirs)}"
    return f"{answers}: {counts} examples of the same questions were skipped"


def _notes(runs: Sequence[Run], shared: Sequence[str], averaged: Sequence[str]) -> list[str]:
    if len(runs) == 1:
        return []
    if not shared:
        return ["No task was scored in every run: there is no average, and no tokens and speed."]
    apart = ", ".join(task_title(runs, task) for task in shared if task not in averaged)
    return [f"Not in the average, as runs scored it by several metrics: {apart}."] if apart else []


# --- tables ------------------------------------------------------------------------------------


def accuracy_table(of: Comparison) -> Table:
    """One row per run. A star marks an accuracy that differs from the first run's."""
    headers = ["setting", *of.titles.values(), "average", "tokens", "tokens %"]
    rows: list[list[object]] = [
        [
            row.setting,
            *(_accuracy(row.tasks.get(task)) for task in of.titles),
            number(row.average, 1),
            number(row.tokens, 1),
            number(row.tokens_share, 1),
            number(row.examples_per_second, 2),
            None if row.speed_up is None else f"{row.speed_up:.2f}x",
        ]
        for row in of.runs
    ]
    return [*headers, "videos/s", "speed-up"], rows


def _accuracy(score: TaskScore | None) -> str | None:
    if score is None:
        return None
    text = f"{score.accuracy:.1f}{'*' if score.differs else ''}"
    return text if score.scored == score.n else f"{text} ({count_text(score.scored, score.n)})"


def difference_table(of: Comparison) -> Table:
    """One row per task and run but the first."""
    headers = ["task", "setting", "points", "95% interval", "p", "n", "same answers %"]
    return headers, [[of.titles[row.task], row.setting, *_cells(row)] for row in of.differences]


def _cells(row: DifferenceRow) -> list[object]:
    if row.points is None or row.p is None:
        return [None, row.reason, None, None, None]
    interval = f"{row.low:+.1f} to {row.high:+.1f}"
    p = f"{row.p:.3f}" if row.p >= 0.0005 else "< 0.001"
    return [f"{row.points:+.1f}", interval, p, row.n, number(row.same_answers, 1)]
